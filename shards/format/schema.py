"""The schema of chips: bands, types, nodata, sizes; and the chip itself."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.histogram import DROPPED_BITS, HEIGHT

EXACT_DTYPES = ("uint8", "int16", "uint16")
"""Stored pixel types whose values can each be counted, so that statistics are exact."""

DTYPES = (*EXACT_DTYPES, "float32")
"""All stored pixel types. Values of float32 (SAR backscatter in dB, coherence) are counted in narrow bins."""

ORIGIN = ("key", "source", "sensor", "acquired", "scene", "x", "y", "crs", "catalogue", "number")
"""Facts about a chip besides its pixels, as a tar's json and the index hold them."""

LAST_CLASS = (1 << 24 - DROPPED_BITS) - 1
"""Largest number of a class, 2047: up to here statistics count each whole float32 number (24 significant
bits, IEEE 754) by itself."""

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
    class_names: tuple[tuple[int, str], ...] = ()
    """Numbers and names of a label that is a class at each pixel, ascending; (): the label is a quantity."""

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
        if self.class_names:
            self._check_classes()

    def _check_classes(self) -> None:
        numbers, names = zip(*self.class_names, strict=True)
        object.__setattr__(self, "class_names", tuple(sorted(self.class_names)))
        if self.label in ("", HEIGHT):
            raise InputError(f"--class-names: a label of classes has another name than {self.label!r}")
        if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
            raise InputError("--class-names: a number or a name is there twice; give each class its own")
        for number, name in self.class_names:
            if not 0 <= number <= LAST_CLASS or not name.strip():
                raise InputError(
                    f"--class-names {number}={name}: give names to numbers from 0 to {LAST_CLASS}"
                )
            if number and number == self.nodata:
                raise InputError(
                    f"--class-names {number}={name}: {number} means missing (nodata) here; renumber the class"
                )

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
        """Return the schema as plain JSON values; without classes as before there were any."""
        values = {**asdict(self), "bands": list(self.bands)}
        del values["class_names"]
        return values | ({"class_names": _named(self.class_names)} if self.class_names else {})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Schema":
        """Make the schema that `to_json` was called on."""
        classes = tuple((int(number), name) for number, name in values.get("class_names", {}).items())
        return cls(**{**values, "bands": tuple(values["bands"]), "class_names": classes})


def _named(classes: tuple[tuple[int, str], ...]) -> dict[str, str]:
    """Return names by number, which JSON has as text."""
    return {str(number): name for number, name in classes}


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
