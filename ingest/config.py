"""Options of `treeline ingest ...`, each with its unit and default."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from shards.config import BandOptions, SplitBy, SplitOptions
from shards.errors import InputError
from shards.format.histogram import HEIGHT
from shards.format.schema import Schema
from shards.format.shard_cut import SHARD_BYTES, SHARD_CHIPS
from shards.own_parts import recorded
from shards.raster.finding import OnMismatch
from shards.raster.height_unit import HeightUnit
from shards.roles import (
    FIRST_VERSION,
    Another,
    Before,
    Decided,
    Imports,
    In,
    MayChange,
    Nothing,
    OnlyWith,
    Place,
    Some,
    Usual,
    identity,
    roles,
)
from shards.version import made_by_code

Dtype = Literal["uint8", "int16", "uint16", "float32"]
Sar = Literal["seasonal", "coherence"]
SAR = get_args(Sar)
"""Kinds of synthetic SAR tiles, none of which has heights."""
QUANTITY = Nothing()
"""Condition on --class-names: the label is a quantity, not a class."""
ClassNames = Annotated[
    tuple[str, ...],
    Before(()),
    OnlyWith(heights=Some(), height_column=Some(), label=Another((HEIGHT,))),
    tyro.conf.arg(metavar="NUMBER=NAME..."),
]
"""Type of --class-names."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig(BandOptions, SplitOptions):
    """Options that all ways of making a dataset have in common."""

    out: Annotated[str, Place(), MayChange()]
    """Folder or s3://... for the dataset, without a dataset in it (unless --append)."""
    min_valid: Annotated[float, In.DATA.late(5), Usual()] = 1.0
    """Least share (0..1) of a chip's pixels that have a value in every band and a label."""
    min_height: Annotated[
        float | None,
        OnlyWith(heights=Some(), height_column=Some(), sar=Another(SAR), class_names=QUANTITY),
        In.DATA.late(5),
        Usual(),
    ] = 0.0
    """Height in metres (or label in its unit) that some pixel of a chip must exceed; None keeps all chips,
    also those of bare ground."""
    key_pattern: Annotated[str, In.DATA.late(2)] = ""
    """Regular expression for keys; its groups, such as (?P<sensor>...), are facts: acquired, source, ..."""
    registration: Annotated[bool, OnlyWith(sar=Another(SAR), class_names=QUANTITY), In.DATA.late(6)] = False
    """Whether to find the shift between heights and image and keep it in the index (shift_row, ...)."""
    shard_bytes: Annotated[int, Before(0), In.SPEED.late(1)] = SHARD_BYTES
    """Most bytes in a shard of a new dataset, before compression; 0: --shard-chips is the only limit."""
    shard_chips: Annotated[int, In.SPEED.late(1)] = SHARD_CHIPS
    """Most chips in a shard."""
    strict: Annotated[bool, MayChange(), In.OUTPUT.late(1)] = False
    """Whether to stop at the first chip that would be rejected, and write nothing."""
    append: Annotated[bool, MayChange(), In.OUTPUT] = False
    """Whether to add to the dataset at --out; its chips, and their splits, stay as they are."""
    restart: Annotated[bool, MayChange(), In.OUTPUT] = False
    """Whether to forget an unfinished ingest at --out with other options or files, and start over."""
    workers: Annotated[int, MayChange(), In.SPEED, Usual()] = 0
    """Ray workers; 0: in this process."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"--min-valid {self.min_valid:g}: give a share from 0 to 1")
        if self.min_height is not None and not math.isfinite(self.min_height):
            raise InputError(f"--min-height {self.min_height:g}: give a number, or None to keep all chips")
        if self.shard_chips < 1:
            raise InputError(f"--shard-chips {self.shard_chips}: give 1 chip or more")
        if self.shard_bytes < 0:
            raise InputError(f"--shard-bytes {self.shard_bytes}: give 0 (no limit) or more")
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: give 0 (in this process) or more")


@dataclass(frozen=True, kw_only=True)
class ChipsConfig(IngestConfig):
    """Options that describe chips whose files do not."""

    bands: Annotated[tuple[str, ...], In.DATA.late(3), Usual()] = ("blue", "green", "red", "nir")
    """Names of the image's bands, in stored order."""
    dtype: Annotated[Dtype, In.DATA.late(4), Usual()] = "int16"
    """Stored type of the image's pixels."""
    nodata: Annotated[float | None, In.DATA.late(3), Usual()] = Schema.nodata
    """Value that means "no measurement", in images and heights."""
    chip_size: Annotated[int, In.CHIPS] = Schema.chip_size
    """Pixels along each side of a chip."""
    pixel_size: Annotated[float, In.CHIPS, Usual()] = Schema.pixel_size
    """Metres along each side of a pixel."""
    label: Annotated[str, OnlyWith(heights=Some(), height_column=Some()), In.CHIPS] = Schema.label
    """Quantity measured at every pixel, beside the image."""
    label_unit: Annotated[
        str, OnlyWith(heights=Some(), height_column=Some(), class_names=QUANTITY), In.CHIPS
    ] = Schema.label_unit
    """Unit of --label."""
    class_names: Annotated[ClassNames, In.CHIPS] = ()
    """Names of the label's values where it is a class at each pixel, e.g. 1=trees 2=crops; a chip with any
    other value is refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodata is not None and math.isinf(self.nodata):
            raise InputError(
                f"--nodata {self.nodata:g}: infinity always counts as missing; give a number or None"
            )
        if self.nodata is not None and math.isnan(self.nodata):
            # As in a schema. NaN is not equal to itself, so the same command would not know its own dataset.
            object.__setattr__(self, "nodata", None)
        elif self.nodata is not None and self.nodata == int(self.nodata):
            # A flag's -9999.0 is the default's -9999.
            object.__setattr__(self, "nodata", int(self.nodata))

    def schema(self, with_label: bool) -> Schema:
        """Return the schema of every chip."""
        named = label_of(self) if with_label else NO_LABEL
        return Schema(self.bands, self.dtype, self.nodata, self.chip_size, self.pixel_size, *named)


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ChipsConfig):
    """Make a dataset from two folders of chips, .npy, .npz or .tif, with the same names."""

    images: Annotated[str, Place()]
    """Folder of image chips: (bands, rows, columns) or (rows, columns, bands)."""
    heights: Annotated[str, Place(), In.DATA, Usual()] = ""
    """Folder of label chips, heights in metres: (rows, columns) or (1, rows, columns); default: no labels."""
    image_name: Annotated[str, In.DATA.late(1)] = "(?P<key>.+)"
    """Regular expression for an image's name without its ending; its group "key" names the chip."""
    height_name: Annotated[str, OnlyWith(heights=Some()), In.DATA.late(1)] = "(?P<key>.+)"
    """Regular expression for a height's name; an image and a height with the same key are a pair."""
    array: Annotated[str, In.DATA.late(1)] = ""
    """Name of the array in .npz files; default: the only one."""
    table: Annotated[str, Place(), In.DATA, Usual()] = ""
    """CSV, Parquet or GeoPackage that lists the images to take, with attributes for the index."""
    file_column: Annotated[str, OnlyWith(table=Some()), In.DATA] = "filename"
    """Column of the table with image names, within --images, or whole paths."""
    table_crs: Annotated[str, OnlyWith(table=Some()), In.DATA] = ""
    """CRS of the table's positions where the table names none, as a CSV cannot."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceConfig(ChipsConfig):
    """Make a dataset from a Hugging Face dataset, saved to disk or as Parquet or Arrow files.

    Splits in which it was saved stay in the index as "saved_split"; the new dataset is split anew.
    """

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER_OR_FILE")]
    """Folder that `save_to_disk` wrote, folder of .parquet or .arrow files, or one such file."""
    image_column: Annotated[str, In.DATA, Usual()] = "image"
    """Column of images: (bands, rows, columns) or (rows, columns, bands), as nested lists."""
    height_column: Annotated[str, In.DATA, Usual()] = "chm"
    """Column of labels: (rows, columns), also with an axis of length 1; "": no labels."""
    key_column: Annotated[str, In.DATA] = ""
    """Column of keys for the chips; default: the name of the data and the row's number."""
    scaled_by: Annotated[tuple[float, ...], In.DATA.late(2), Usual()] = ()
    """Numbers that bands were divided by to become 0..1, e.g. 7142 5893 5387; pixels are multiplied back."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(IngestConfig):
    """Make a dataset from rasters: resample heights to each image's grid, and cut both into chips."""

    split_by: Annotated[SplitBy, Decided(), In.SPLIT, Usual()] = "auto"
    """Unit that is held out: single chips, scenes, square blocks of ground, strips along an axis (one for
    each split), or many bands at an angle, dealt in turn; auto: scenes, or, of fewer than five, 20 blocks or
    more with a chip's side as buffer."""
    images: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN...")]
    """Images: paths, globs or s3://..."""
    heights: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN..."), In.DATA, Usual()] = ()
    """Height rasters, in metres if they state no unit (with --ground: of surfaces); default: no labels."""
    ground: Annotated[
        tuple[str, ...],
        Place(),
        OnlyWith(heights=Some(), class_names=QUANTITY),
        tyro.conf.arg(metavar="PATTERN..."),
        In.DATA,
        Usual(),
    ] = ()
    """Ground elevations: height = --heights minus these."""
    height_unit: Annotated[
        HeightUnit | None,
        Before(None),
        OnlyWith(heights=Some(), label=(HEIGHT,), label_unit=(Schema.label_unit,), class_names=QUANTITY),
        In.DATA.late(3),
    ] = None
    """Unit of --heights and --ground where the rasters state none: m, dm, cm or ft; they become metres."""
    height_band: Annotated[int | None, Before(1), OnlyWith(heights=Some()), In.DATA.late(3)] = None
    """Number of the band, from 1, of --heights and --ground that is taken; default: they have one."""
    on_mismatch: Annotated[OnMismatch, MayChange(), In.DATA.late(3)] = "refuse"
    """Rasters that are not what they are given for, such as surface elevations as heights: refuse the gross
    ones and note the others, note all, or ignore them."""
    mask: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN..."), In.DATA, Usual()] = ()
    """Cloud or quality rasters; where one has a value of --mask-drop, the image counts as missing."""
    mask_drop: Annotated[tuple[int, ...], OnlyWith(mask=Some()), In.DATA] = (1,)
    """Values of --mask that make a pixel unusable."""
    max_days: Annotated[int | None, OnlyWith(heights=Some()), In.DATA, Usual()] = None
    """Most days between image and heights, where both names contain a day; default: no limit."""
    months: Annotated[tuple[int, ...], In.DATA, Usual()] = ()
    """Months (1..12) in which an image must have been taken, e.g. 7 8; default: any."""
    bands: Annotated[tuple[str, ...], In.DATA.late(2), Usual()] = ()
    """Names of the rasters' bands in order; default: as described, or by count (4: blue green red nir)."""
    use: Annotated[tuple[str, ...], In.DATA.late(2)] = ()
    """Names of the bands to keep, in this order; default: all."""
    nodata: Annotated[float | None, Before(None), In.DATA.late(2), Usual()] = None
    """Value that means a missing pixel in the images, beside what they declare (nodata, masks, alpha)."""
    chip_size: Annotated[int, In.CHIPS, Usual()] = Schema.chip_size
    """Pixels along each side of a chip."""
    stride: Annotated[int, In.CHIPS, Usual()] = 0
    """Pixels from one chip to the next; 0: the chip size, so that chips do not overlap."""
    pixel_size: Annotated[float, In.CHIPS, Usual()] = 0.0
    """Pixel size to resample images and heights to, in units of the CRS; 0: the image's own."""
    crs: Annotated[str, In.CHIPS, Usual()] = ""
    """CRS to resample images and heights to, e.g. EPSG:3338; default: the image's own."""
    height_resampling: Annotated[
        Literal["average", "bilinear", "nearest", "max"],
        OnlyWith(heights=Some(), class_names=Nothing(but=("nearest",))),
        In.CHIPS,
    ] = "average"
    """Method of resampling heights to the image's grid; classes (--class-names) take the nearest."""
    label: Annotated[str, Before(HEIGHT), OnlyWith(heights=Some()), In.CHIPS] = Schema.label
    """Quantity that --heights measure, or the name of their classes."""
    label_unit: Annotated[
        str, Before(Schema.label_unit), OnlyWith(heights=Some(), class_names=QUANTITY), In.CHIPS
    ] = Schema.label_unit
    """Unit of --label."""
    class_names: Annotated[ClassNames, In.CHIPS] = ()
    """Names of the values of --heights where they are classes, e.g. 1=trees 2=crops; a chip with any other
    value is refused."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(IngestConfig):
    """Make a dataset of any number of chips from a synthetic landscape, for load tests; with --sar, tiles of
    radar images from several regions, to learn from."""

    chips: int
    """Number of chips to make; with --sar, over all regions, dealt to them in turn."""
    seed: Annotated[int, In.DATA.late(5), Usual()] = 0
    """Seed of the landscape; the same seed gives the same chips, and more chips start with the same ones."""
    sar: Annotated[Sar | None, Before(None), In.DATA.late(5), Usual()] = None
    """Kind of radar images: seasonal backscatter (VV and VH in decibels) or coherence (over 12 and 24 days),
    8 bands in pixels of 10 m; default: optical chips with heights."""
    regions: Annotated[int, Before(4), OnlyWith(sar=SAR), In.DATA.late(5), Usual()] = 4
    """Number of regions, 1 to 4: conus, europe, china, southamerica."""
    chip_size: Annotated[int, Before(Schema.chip_size), OnlyWith(sar=SAR), In.CHIPS, Usual()] = (
        Schema.chip_size
    )
    """Pixels along each side of a tile."""
    pixel_classes: Annotated[bool, Before(False), OnlyWith(sar=SAR), In.DATA.late(5), Usual()] = False
    """Whether pixels have a label: land cover as 1 trees, 2 crops, 3 grass or bare, 4 water, 5 built."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sar and self.min_height:  # 0, the default, keeps all: the lowest class is 1
            raise InputError(f"--min-height {self.min_height:g}: SAR tiles have no heights; leave it out")


@dataclass(frozen=True, kw_only=True)
class SourceConfig(IngestConfig):
    """Make a dataset from a source of your own: a class that lists chips and reads them."""

    source: Annotated[str, Imports(), tyro.conf.Positional, tyro.conf.arg(metavar="package.module.Class")]
    """Import path of the class (docs/own-parts.md)."""
    option: Annotated[
        tuple[str, ...],
        Place(or_name=True, after_name=True),
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="KEY=VALUE"),
        In.DATA,
        Usual(),
    ] = ()
    """Argument of the class; give the flag once for each."""


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Label the chips of a dataset with what rasters show on their ground, as one more column of its index.

    Shards stay; index and manifest are rewritten. A chip with too few values has no label.
    """

    data: Annotated[str, Place(), MayChange(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Dataset: a folder or s3://..."""
    raster: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN...")]
    """Rasters of one band, in any CRS: paths, globs or s3://...; the first that has a value counts."""
    column: Annotated[str, tyro.conf.arg(name="as", metavar="NAME")]
    """Name of the new column, for example tree_percent."""
    mean: bool = False
    """Whether the label is the mean over the chip's ground, a number; this or --majority."""
    majority: bool = False
    """Whether the label is the most frequent value on the chip's ground, a whole number."""
    valid: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Lowest and highest value that counts; default: all that are not nodata."""
    as_zero: Annotated[tuple[float, ...], tyro.conf.arg(metavar="VALUE...")] = ()
    """Values that count as 0, also beyond --valid, e.g. 200 for the water of MOD44B; default: none."""
    least_covered: float = 0.5
    """Least share (0..1) of a chip's ground that must have values."""
    replace: Annotated[bool, MayChange()] = False
    """Whether to replace a column of this name."""

    def __post_init__(self) -> None:
        if not self.raster:
            raise InputError("--raster: give rasters, e.g. 'tree_cover/*.tif'")
        if self.mean == self.majority:
            raise InputError("--mean or --majority: give one of them")
        if self.valid is not None and not (len(self.valid) == 2 and self.valid[0] <= self.valid[1]):
            raise InputError(f"--valid {_spelled(self.valid)}: give the lowest value, then the highest")
        if not 0 <= self.least_covered <= 1:
            raise InputError(f"--least-covered {self.least_covered:g}: give a share from 0 to 1")
        if not all(map(math.isfinite, self.as_zero)):
            raise InputError(f"--as-zero {_spelled(self.as_zero)}: give numbers")


@dataclass(frozen=True)
class TarsConfig:
    """Make a dataset of WebDataset tars as they are: write index, statistics and manifest beside them.

    The tars do not change. `treeline convert` makes faster or smaller shards of them.
    """

    data: Annotated[str, Place(), MayChange(), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of .tar files, a path or s3://...; it becomes the dataset."""
    val: str = "val/*"
    """Names of the tars to hold out for validation, within the folder, with wildcards."""
    image: Annotated[str, In.DATA] = "image.npy"
    """Ending of the names of image members, after the key."""
    height: str = "height.npy"
    """Ending of the names of height members, after the key."""
    bands: Annotated[tuple[str, ...], In.DATA] = ()
    """Names of the image's bands, in stored order; default: by count (4: blue green red nir)."""
    nodata: Annotated[float | None, In.DATA] = Schema.nodata
    """Value that means "no measurement", in images and heights."""
    pixel_size: Annotated[float, In.CHIPS] = Schema.pixel_size
    """Metres along each side of a pixel."""


NO_LABEL = ("", "", ())
"""Label, unit and classes of chips without labels."""


def label_of(config: ChipsConfig | ScenesConfig) -> tuple[str, str, tuple[tuple[int, str], ...]]:
    """Return label, unit and classes as a schema has them; classes have no unit.

    Raises:
        InputError: --class-names cannot be read.
    """
    classes = tuple(map(_class, config.class_names))
    return config.label, "" if classes else config.label_unit, classes


def _class(text: str) -> tuple[int, str]:
    """Parse NUMBER=NAME."""
    number, equals, name = text.partition("=")
    if not (number.strip().isdecimal() and equals):
        raise InputError(f"--class-names {text}: write NUMBER=NAME, e.g. 1=trees")
    return int(number), name.strip()


def _spelled(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def request_of(config: IngestConfig) -> dict[str, Any]:
    """Return what a request's fingerprint is computed from: the options that decide a dataset's contents."""
    return {"treeline": FIRST_VERSION, "config": identity(type(config), made_by(config)["config"])}


def made_by(config: IngestConfig | LabelsConfig | TarsConfig) -> dict[str, Any]:
    """Return the manifest's record of how a dataset was made, without what differs between equal copies."""
    left_out = roles(type(config), MayChange)
    options = {
        # A list, as JSON has it, so that it is equal when read back.
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if name not in left_out
    }
    return {**made_by_code(), **recorded(config), "config": options}
