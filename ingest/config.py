"""The options of `treeline ingest ...`, each with its unit and default."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.shard_cut import SHARD_BYTES, SHARD_CHIPS
from shards.roles import FIRST_VERSION, Before, MayChange, OnlyWith, Place, Some, identity, roles
from shards.version import made_by_code

Dtype = Literal["uint8", "int16", "uint16", "float32"]


@dataclass(frozen=True, kw_only=True)
class IngestConfig(SplitOptions):
    """What every way of making a dataset has in common."""

    out: Annotated[str, Place(), MayChange()]
    """Where the dataset is made: a folder or s3://..., without a dataset in it (or see --append)."""
    min_valid: float = 1.0
    """Share (0..1) of a chip's pixels that must have a value in every band and a label."""
    min_height: Annotated[float | None, OnlyWith(heights=Some(), height_column=Some())] = 0.0
    """A chip's highest height (or label, in its unit) must be above this, in metres; None: whatever it is,
    so that chips of bare ground alone are kept too."""
    key_pattern: str = ""
    """Regular expression for keys; its groups (?P<sensor>...) are facts: acquired, catalogue, source, ..."""
    registration: bool = False
    """Find how far heights lie from where the image shows them, and keep it in the index (shift_row, ...)."""
    shard_bytes: Annotated[int, Before(0)] = SHARD_BYTES
    """Most bytes in a shard of a new dataset, before any compression; 0: whatever --shard-chips comes to."""
    shard_chips: int = SHARD_CHIPS
    """Most chips in a shard."""
    strict: Annotated[bool, MayChange()] = False
    """Stop with an error, and write nothing, at the first chip that would be rejected."""
    append: Annotated[bool, MayChange()] = False
    """Add to the dataset that is at --out; its chips, and what they are held out for, stay as they are."""
    restart: Annotated[bool, MayChange()] = False
    """Forget an unfinished run with other options or files at --out, and start over."""
    workers: Annotated[int, MayChange()] = 0
    """Ray workers; 0: in this process."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"--min-valid {self.min_valid:g}: give a share from 0 to 1")
        if self.min_height is not None and not math.isfinite(self.min_height):
            raise InputError(f"--min-height {self.min_height:g}: give a number, or None to take any height")
        if self.shard_chips < 1:
            raise InputError(f"--shard-chips {self.shard_chips}: give 1 chip or more")
        if self.shard_bytes < 0:
            raise InputError(f"--shard-bytes {self.shard_bytes}: give 0 (no limit) or more")
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: give 0 (in this process) or more")


@dataclass(frozen=True, kw_only=True)
class ChipsConfig(IngestConfig):
    """What must be said of chips that do not say it themselves."""

    bands: tuple[str, ...] = ("blue", "green", "red", "nir")
    """Names of the image's bands, in stored order."""
    dtype: Dtype = "int16"
    """Stored type of the image's pixels."""
    nodata: float | None = Schema.nodata
    """Value that means "no measurement", in images and heights."""
    chip_size: int = Schema.chip_size
    """Pixels along each side of a chip."""
    pixel_size: float = Schema.pixel_size
    """Metres along each side of a pixel."""
    label: Annotated[str, OnlyWith(heights=Some(), height_column=Some())] = Schema.label
    """What is measured at every pixel, beside the image."""
    label_unit: Annotated[str, OnlyWith(heights=Some(), height_column=Some())] = Schema.label_unit
    """Its unit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodata is not None and math.isinf(self.nodata):
            raise InputError(
                f"--nodata {self.nodata:g}: infinity is missing in any case; give a number or None"
            )
        if self.nodata is not None and math.isnan(self.nodata):
            # As in a schema. NaN is not equal to itself: the same command would not know its own dataset.
            object.__setattr__(self, "nodata", None)
        elif self.nodata is not None and self.nodata == int(self.nodata):
            # A flag's -9999.0 is the default's -9999.
            object.__setattr__(self, "nodata", int(self.nodata))

    def schema(self, with_label: bool) -> Schema:
        """What every chip is like."""
        label, unit = (self.label, self.label_unit) if with_label else ("", "")
        return Schema(self.bands, self.dtype, self.nodata, self.chip_size, self.pixel_size, label, unit)


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ChipsConfig):
    """Two folders of chips, .npy, .npz or .tif, with the same names -> a dataset."""

    images: Annotated[str, Place()]
    """Folder of image chips: (bands, rows, columns) or (rows, columns, bands)."""
    heights: Annotated[str, Place()] = ""
    """Folder of label chips, heights in metres: (rows, columns) or (1, rows, columns); default: no labels."""
    image_name: str = "(?P<key>.+)"
    """Regular expression for an image's name without its ending; its group "key" names the chip."""
    height_name: Annotated[str, OnlyWith(heights=Some())] = "(?P<key>.+)"
    """The same for a height's name: an image and a height of one key are a pair."""
    array: str = ""
    """Name of the array in .npz files; default: the only one there is."""
    table: Annotated[str, Place()] = ""
    """CSV, Parquet or GeoPackage that lists the images to take, with attributes for the index."""
    file_column: Annotated[str, OnlyWith(table=Some())] = "filename"
    """The table's column of image names, in --images, or of whole paths."""
    table_crs: Annotated[str, OnlyWith(table=Some())] = ""
    """CRS of the table's places where it does not say one, as a CSV cannot."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceConfig(ChipsConfig):
    """A Hugging Face dataset, saved to disk or as Parquet or Arrow files -> a dataset.

    Splits that it was saved in are kept in the index as "saved_split"; what is held out is chosen anew.
    """

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER_OR_FILE")]
    """What `save_to_disk` wrote, or .parquet or .arrow files: a folder or one file."""
    image_column: str = "image"
    """Column of images: (bands, rows, columns) or (rows, columns, bands), as nested lists."""
    height_column: str = "chm"
    """Column of labels: (rows, columns) or with an axis of 1; "": no labels."""
    key_column: str = ""
    """Column of names for the chips; default: the name of the data and the row's number."""
    scaled_by: tuple[float, ...] = ()
    """What each band was divided by to become 0..1, e.g. 7142 5893 5387; pixels become that again."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig(IngestConfig):
    """Rasters -> a dataset: heights are brought onto each image's grid and both are cut to chips."""

    images: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN...")]
    """Images: paths, globs or s3://..."""
    heights: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN...")] = ()
    """Height rasters in metres (with --ground: surface elevations); default: no labels."""
    ground: Annotated[
        tuple[str, ...], Place(), OnlyWith(heights=Some()), tyro.conf.arg(metavar="PATTERN...")
    ] = ()
    """Ground elevations in metres: height = --heights minus these."""
    mask: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN...")] = ()
    """Cloud or quality rasters: where they have a value of --mask-drop, the image has no measurement."""
    mask_drop: Annotated[tuple[int, ...], OnlyWith(mask=Some())] = (1,)
    """Values of --mask that make a pixel unusable."""
    max_days: Annotated[int | None, OnlyWith(heights=Some())] = None
    """Most days between image and heights, where both names say a day; default: any."""
    months: tuple[int, ...] = ()
    """Months (1..12) in which an image must be taken, e.g. 7 8; default: any."""
    bands: tuple[str, ...] = ()
    """Names of the rasters' bands in order; default: as described, or by number (4: blue green red nir)."""
    use: tuple[str, ...] = ()
    """Names of the bands to keep, in this order; default: all."""
    chip_size: int = Schema.chip_size
    """Pixels along each side of a chip."""
    stride: int = 0
    """Pixels from one chip to the next; 0: the chip size, so that chips do not overlap."""
    pixel_size: float = 0.0
    """Resample images and heights to this size, in units of the CRS; 0: the image's own."""
    crs: str = ""
    """Resample images and heights to this CRS, e.g. EPSG:3338; default: the image's own."""
    height_resampling: Annotated[
        Literal["average", "bilinear", "nearest", "max"], OnlyWith(heights=Some())
    ] = "average"
    """How heights are brought onto the image's grid."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(IngestConfig):
    """A synthetic landscape -> a dataset of any number of chips, without files in between: for load tests."""

    chips: int
    """Chips to make."""
    seed: int = 0
    """Of the landscape: the same seed gives the same chips, and more chips begin with the fewer."""


@dataclass(frozen=True)
class TarsConfig:
    """WebDataset tars, as they are -> a dataset: an index, statistics and a manifest are written beside them.

    The tars stay as they are. `treeline convert` makes faster or smaller shards of them.
    """

    data: Annotated[str, Place(), MayChange(), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder of the .tar files, which becomes the dataset: a path or s3://..."""
    val: str = "val/*"
    """Names (with wildcards, below the folder) of the tars that are held out for validation."""
    image: str = "image.npy"
    """What the names of image members end in, after the key."""
    height: str = "height.npy"
    """What the names of height members end in, after the key."""
    bands: tuple[str, ...] = ()
    """Names of the image's bands, in stored order; default: by their number (4: blue green red nir)."""
    nodata: float | None = Schema.nodata
    """Value that means "no measurement", in images and heights."""
    pixel_size: float = Schema.pixel_size
    """Metres along each side of a pixel."""


def request_of(config: IngestConfig) -> dict[str, Any]:
    """What a fingerprint of a dataset is computed from: what decides what it holds, and nothing else."""
    return {"treeline": FIRST_VERSION, "config": identity(type(config), made_by(config)["config"])}


def made_by(config: IngestConfig | TarsConfig) -> dict[str, Any]:
    """What the manifest records of how a dataset was made, so that copies are equal."""
    left_out = roles(type(config), MayChange)
    options = {
        # As JSON has it, so that what is read again is equal.
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if name not in left_out
    }
    return {**made_by_code(), "config": options}
