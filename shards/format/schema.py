"""The schema of chips: bands, types, nodata, sizes; and the chip itself."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.derived import DerivedBand, check_derived, check_numbers, numbers_of_bands
from shards.format.histogram import DROPPED_BITS, HEIGHT
from shards.format.missing import NODATA
from shards.storage.json_marks import AtLeast, Between, Matching, NotFinite, OneOf, Positive
from shards.storage.limits import CHIP_BYTES
from shards.storage.typed_json import typed

EXACT_DTYPES = ("uint8", "int16", "uint16")
"""Stored pixel types whose values can each be counted, so that statistics are exact."""

DTYPES = (*EXACT_DTYPES, "float32")
"""All stored pixel types. Values of float32 (SAR backscatter in dB, coherence) are counted in narrow bins."""

ORIGIN = ("key", "source", "sensor", "acquired", "scene", "x", "y", "crs", "catalogue", "number")
"""Facts about a chip besides its pixels, as a tar's json and the index hold them."""

LAST_CLASS = (1 << 24 - DROPPED_BITS) - 1
"""Largest number of a class, 2047: up to here statistics count each whole float32 number (24 significant
bits, IEEE 754) by itself."""

DEGREE = "degree"
MOST_DEGREES = 0.01
"""Largest pixel size that is taken for degrees where no unit is recorded: 1 km, and no image of 1 cm."""

AttributeValue = str | int | float | bool | None


@dataclass(frozen=True)
class Schema:
    """The shape and meaning of every chip of a dataset."""

    bands: tuple[str, ...]
    """Band names in stored order."""
    dtype: str = "int16"
    """Stored type of the image's pixels."""
    nodata: float | None = NODATA
    """Stored value that means "no measurement", if any; in float32, NaN also means it."""
    chip_size: int = 64
    """Pixels along each side."""
    pixel_size: float = 2.0
    """Width of a pixel in units of the chips' CRS; its height, unless pixel_height is another."""
    label: str = "height"
    """Measured quantity: one float32 band with the image's footprint, NaN where missing. "": no label."""
    label_unit: str = "m"
    """Unit of the label."""
    class_names: tuple[tuple[int, str], ...] = ()
    """Numbers and names of a label that is a class at each pixel, ascending; (): the label is a quantity."""
    scale: tuple[float, ...] = ()
    """Scale of each stored band: value = stored * scale + offset; (): 1."""
    offset: tuple[float, ...] = ()
    """Offset of each stored band, in the unit of its values; (): 0."""
    derived: tuple[DerivedBand, ...] = ()
    """Bands that are made of two stored ones where they are needed; their statistics are counted, too."""
    pixel_height: float = 0.0
    """Height of a pixel in units of the CRS; 0: as its width, pixel_size."""
    pixel_unit: str = ""
    """Unit of the CRS, such as "degree" or "foot"; "": metre."""
    pixel_metres: tuple[float, ...] = ()
    """Width and height of a pixel in metres; (): pixel_size in both directions."""

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
        check_numbers(self.scale, self.offset, self.bands)
        check_derived(self.derived, self.bands)
        for name, neutral in (("scale", 1.0), ("offset", 0.0)):
            if set(getattr(self, name)) == {neutral}:  # one way to say nothing: equal schemas are equal
                object.__setattr__(self, name, ())
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
    def pixel_sides(self) -> tuple[float, float]:
        """Width and height of a pixel in units of the CRS."""
        return self.pixel_size, self.pixel_height or self.pixel_size

    @property
    def is_in_degrees(self) -> bool:
        """Whether the CRS's unit is the degree; where no unit is recorded, the size tells."""
        return self.pixel_unit == DEGREE or (not self.pixel_metres and self.pixel_size <= MOST_DEGREES)

    @property
    def label_and_unit(self) -> str:
        """Label and unit as figures and tables show them, e.g. "height m"."""
        return f"{self.label} {self.label_unit}".strip()

    @property
    def all_bands(self) -> tuple[str, ...]:
        """Names of the stored bands, then of the derived ones: the order of the statistics."""
        return (*self.bands, *(band.name for band in self.derived))

    def scaling(self, band: str) -> tuple[float, float]:
        """Return scale and offset of a stored band."""
        place = self.bands.index(band)
        return self.scale[place] if self.scale else 1.0, self.offset[place] if self.offset else 0.0

    def is_scaled(self, band: str) -> bool:
        """Tell whether a stored band's values are other numbers than those stored."""
        return self.scaling(band) != (1.0, 0.0)

    def check_counted(self, names: Sequence[str]) -> None:
        """Refuse bands that are neither stored nor derived, of which nothing was counted.

        Raises:
            InputError: says which.
        """
        missing = [name for name in names if name not in self.all_bands]
        if missing:
            there = f"there are {' '.join(self.all_bands)}"
            raise InputError(
                f"no band {' or '.join(missing)}: {there}; treeline split --derive counts others"
            )

    def derived_band(self, name: str) -> DerivedBand | None:
        """Return the derived band of this name; None for a stored one.

        Raises:
            InputError: there is no such band.
        """
        self.check_counted([name])
        return next((band for band in self.derived if band.name == name), None)

    def band_positions(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the positions of the named stored bands in stored order.

        Raises:
            InputError: there is no such band.
        """
        missing = [name for name in names if name not in self.bands]
        if missing:
            raise InputError(f"no band {' or '.join(missing)}: there are {' '.join(self.bands)}")
        return tuple(self.bands.index(name) for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        younger: dict[str, Any] = {
            "scale": list(self.scale),
            "offset": list(self.offset),
            "derived": list(map(str, self.derived)),
            "class_names": {str(number): name for number, name in self.class_names},  # JSON's keys are text
            "pixel_height": self.pixel_height,
            "pixel_unit": self.pixel_unit,
            "pixel_metres": list(self.pixel_metres),
        }
        values = {**asdict(self), "bands": list(self.bands), **younger}
        # Left out where they say nothing, so that datasets of before keep their bytes and fingerprints.
        return {name: value for name, value in values.items() if value or name not in younger}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str = "schema") -> "Schema":
        """Make the schema that `to_json` was called on.

        Raises:
            InputError: a value in `where` is not what it must be.
        """
        return schema_of(typed(values, StoredSchema, where), values)

    @property
    def chip_bytes(self) -> int:
        """Bytes of a chip's arrays."""
        return math.prod(self.image_shape) * np.dtype(self.dtype).itemsize + 4 * math.prod(self.label_shape)


@dataclass(frozen=True)
class StoredSchema:
    """A schema as JSON has it."""

    bands: tuple[str, ...]
    dtype: Annotated[str, OneOf(DTYPES)] = Schema.dtype
    nodata: Annotated[float, NotFinite()] | None = Schema.nodata
    chip_size: Annotated[int, Between(1, 1 << 20)] = Schema.chip_size
    pixel_size: float = Schema.pixel_size
    label: str = Schema.label
    label_unit: str = Schema.label_unit
    class_names: dict[Annotated[str, Matching("[0-9]{1,9}", "of digits")], str] = field(default_factory=dict)
    """Names by number, as text: JSON's names are text."""
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    derived: tuple[str, ...] = ()
    """Formulas."""
    pixel_height: Annotated[float, AtLeast(0)] = 0.0
    pixel_unit: str = ""
    pixel_metres: tuple[Positive, Positive] | tuple[()] = ()


def schema_of(stored: StoredSchema, plain: Any) -> Schema:
    """Make a schema of its stored form; sizes are compared with the limits.

    Raises:
        InputError: says what is wrong.
    """
    derived = tuple(map(DerivedBand.parse, stored.derived))
    classes = tuple((int(number), name) for number, name in stored.class_names.items())
    made = Schema(**{**vars(stored), "derived": derived, "class_names": classes})
    CHIP_BYTES.check("schema", made.chip_bytes)
    return made


def with_values(
    schema: Schema, derive: Sequence[str], scale: Sequence[str] = (), offset: Sequence[str] = ()
) -> Schema:
    """Return `schema` with these derived bands added, and with scale and offset of the bands that are named.

    Args:
        schema: schema of stored bands, perhaps with scales and derived bands of its own.
        derive: formulas, see `DerivedBand.parse`; one that the schema has already is no mistake.
        scale: numbers, see `numbers_of_bands`; a band that is not named keeps its own.
        offset: likewise.

    Raises:
        InputError: a formula or a number cannot be read, or names no stored band, or a name is taken.
    """
    added = [DerivedBand.parse(text) for text in derive]
    check_derived(added, schema.bands)
    scales, offsets = zip(*map(schema.scaling, schema.bands), strict=True)
    return replace(
        schema,
        scale=numbers_of_bands("scale", scale, schema.bands, scales),
        offset=numbers_of_bands("offset", offset, schema.bands, offsets),
        derived=(*schema.derived, *(band for band in added if band not in schema.derived)),
    )


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
