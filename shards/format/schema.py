"""What one chip holds: bands, types, nodata, sizes; and the chip itself."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

EXACT_DTYPES = ("uint8", "int16", "uint16")
"""Stored pixel types whose values can all be counted, so that statistics are exact."""

DTYPES = (*EXACT_DTYPES, "float32")
"""All pixel types: of float32 (SAR backscatter in dB, coherence) values are counted in narrow bins."""

ORIGIN = ("key", "source", "sensor", "acquired", "scene", "x", "y", "crs", "catalogue", "number")
"""What is known of a chip besides its pixels: in the json of a tar, and in the index."""

AttributeValue = str | int | float | bool | None


@dataclass(frozen=True)
class Schema:
    """The shape and meaning of every chip of a dataset."""

    bands: tuple[str, ...]
    """Band names in stored order."""
    dtype: str = "int16"
    """Stored type of the image's pixels."""
    nodata: float | None = -9999
    """Stored value that means "no measurement", if any; in float32, NaN means that too."""
    chip_size: int = 64
    """Pixels along each side."""
    pixel_size: float = 2.0
    """Size of a pixel in units of the chips' CRS (metres unless that is geographic)."""
    label: str = "height"
    """What was measured: one float32 band with the image's footprint, NaN where missing; "": nothing."""
    label_unit: str = "m"
    """Unit of the label."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"pixel type {self.dtype}: images must be one of {', '.join(DTYPES)}")
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            raise InputError(f"band names {' '.join(self.bands)!r}: give each band a name of its own")
        if self.nodata is not None and math.isnan(self.nodata):
            # NaN is missing in any case, and is not equal to itself, as a schema must be.
            object.__setattr__(self, "nodata", None)
        if self.chip_size < 1:
            raise InputError(f"--chip-size {self.chip_size}: give 1 pixel or more")
        if not self.pixel_size > 0 or not math.isfinite(self.pixel_size):
            raise InputError(f"--pixel-size {self.pixel_size:g}: give a size above 0")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        return len(self.bands), self.chip_size, self.chip_size

    @property
    def label_shape(self) -> tuple[int, int]:
        """(rows, columns); (0, 0) without a label, so that arrays of labels are empty and not absent."""
        return (self.chip_size, self.chip_size) if self.label else (0, 0)

    @property
    def label_and_unit(self) -> str:
        """The label as figures and tables name it, e.g. "height m"."""
        return f"{self.label} {self.label_unit}".strip()

    def band_positions(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Where the bands called `names` are stored.

        Raises:
            InputError: there is no such band.
        """
        missing = [name for name in names if name not in self.bands]
        if missing:
            raise InputError(f"no band {' or '.join(missing)}: there are {' '.join(self.bands)}")
        return tuple(self.bands.index(name) for name in names)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "bands": list(self.bands)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Schema":
        """The inverse of `to_json`."""
        return cls(**{**values, "bands": tuple(values["bands"])})


@dataclass(frozen=True)
class Chip:
    """One sample: image (bands, rows, columns) as stored, height (rows, columns) in metres, its origin."""

    key: str
    image_CHW: NDArray[Any]
    height_HW: NDArray[np.float32]
    """Or whatever the schema's label is; of shape (0, 0) where there is none."""
    source: str | None = None
    """Where the height comes from, e.g. AK_IFSAR."""
    sensor: str | None = None
    """e.g. WV02."""
    acquired: str | None = None
    """Day of the image, YYYY-MM-DD."""
    scene: str | None = None
    """The image that the chip was cut from."""
    x: float | None = None
    """Easting (or longitude) of the chip's centre in `crs`."""
    y: float | None = None
    """Northing (or latitude) of the chip's centre in `crs`."""
    crs: str | None = None
    """e.g. EPSG:3338."""
    catalogue: str | None = None
    """Catalogue id of the image, e.g. 1030010047ADDD00."""
    number: int | None = None
    """Running number within its source."""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    """Whatever else is known of it, by the name of a column of the index: a label of the whole chip, say."""

    def origin(self) -> dict[str, Any]:
        """All but the pixels, as plain values."""
        known = {name: getattr(self, name) for name in ORIGIN}
        # What is null is left out, so that chips added before there was such an attribute stay as they are.
        attributes = {name: value for name, value in self.attributes.items() if value is not None}
        return {**known, "attributes": attributes} if attributes else known
