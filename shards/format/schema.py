"""The schema of chips: bands, types, nodata, sizes; and the chip itself."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

EXACT_DTYPES = ("uint8", "int16", "uint16")
"""Stored pixel types whose values can each be counted, so that statistics are exact."""

DTYPES = (*EXACT_DTYPES, "float32")
"""All stored pixel types. Values of float32 (SAR backscatter in dB, coherence) are counted in narrow bins."""

ORIGIN = ("key", "source", "sensor", "acquired", "scene", "x", "y", "crs", "catalogue", "number")
"""Facts about a chip besides its pixels, as a tar's json and the index hold them."""

AttributeValue = str | int | float | bool | None


@dataclass(frozen=True)
class Schema:
    """The shape and meaning of every chip of a dataset."""

    bands: tuple[str, ...]
    """Band names in stored order."""
    dtype: str = "int16"
    """Stored type of the image's pixels."""
    nodata: float | None = -9999
    """Stored value that means "no measurement", if any; in float32, NaN also means it."""
    chip_size: int = 64
    """Pixels along each side."""
    pixel_size: float = 2.0
    """Size of a pixel in units of the chips' CRS (metres unless that is geographic)."""
    label: str = "height"
    """Measured quantity: one float32 band with the image's footprint, NaN where missing. "": no label."""
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
        """Shape of an image: (bands, rows, columns)."""
        return len(self.bands), self.chip_size, self.chip_size

    @property
    def label_shape(self) -> tuple[int, int]:
        """Shape of a label: (rows, columns). Without a label (0, 0): label arrays are empty, never absent."""
        return (self.chip_size, self.chip_size) if self.label else (0, 0)

    @property
    def label_and_unit(self) -> str:
        """Label and unit as figures and tables show them, e.g. "height m"."""
        return f"{self.label} {self.label_unit}".strip()

    def band_positions(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the positions of the named bands in stored order.

        Raises:
            InputError: there is no such band.
        """
        missing = [name for name in names if name not in self.bands]
        if missing:
            raise InputError(f"no band {' or '.join(missing)}: there are {' '.join(self.bands)}")
        return tuple(self.bands.index(name) for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        return {**asdict(self), "bands": list(self.bands)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Schema":
        """Make the schema that `to_json` was called on."""
        return cls(**{**values, "bands": tuple(values["bands"])})


@dataclass(frozen=True)
class Chip:
    """One sample: image (bands, rows, columns) as stored, height (rows, columns) in metres, its origin."""

    key: str
    image_CHW: NDArray[Any]
    height_HW: NDArray[np.float32]
    """Height in metres, or the schema's other label; shape (0, 0) without a label."""
    source: str | None = None
    """Source of the height, e.g. AK_IFSAR."""
    sensor: str | None = None
    """Sensor of the image, e.g. WV02."""
    acquired: str | None = None
    """Day of the image, YYYY-MM-DD."""
    scene: str | None = None
    """Image that the chip was cut from."""
    x: float | None = None
    """Easting (or longitude) of the chip's centre in `crs`."""
    y: float | None = None
    """Northing (or latitude) of the chip's centre in `crs`."""
    crs: str | None = None
    """CRS of x and y, e.g. EPSG:3338."""
    catalogue: str | None = None
    """Catalogue id of the image, e.g. 1030010047ADDD00."""
    number: int | None = None
    """Running number within the source."""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    """Further facts by the name of their column in the index, for example a label of the whole chip."""

    def origin(self) -> dict[str, Any]:
        """Return everything but the pixels as plain values."""
        known = {name: getattr(self, name) for name in ORIGIN}
        # Nulls are left out, so that chips added before an attribute existed keep their bytes.
        attributes = {name: value for name, value in self.attributes.items() if value is not None}
        return {**known, "attributes": attributes} if attributes else known
