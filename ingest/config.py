"""The options of `treeline ingest pairs`, `scenes` and `tars`, each with its unit and default."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

import shards


@dataclass(frozen=True)
class PairsConfig:
    """Two folders of .npy chips with the same names -> a dataset."""

    images: str
    """Folder of image chips: (bands, rows, columns) or (rows, columns, bands)."""
    heights: str
    """Folder of height chips in metres: (rows, columns) or (1, rows, columns)."""
    out: str
    """Where the dataset is made: a folder or s3://..., without a dataset in it."""
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")
    """Names of the image's bands, in stored order."""
    dtype: Literal["uint8", "int16", "uint16"] = "int16"
    """Stored type of the image's pixels."""
    nodata: int | None = -9999
    """Value that means "no measurement", in images and heights."""
    chip_size: int = 64
    """Pixels along each side of a chip."""
    pixel_size: float = 2.0
    """Metres along each side of a pixel."""
    val_share: float = 0.2
    """Share (0..1) of the chips held out for validation, by a stable hash."""
    split_by: Literal["key", "scene"] = "key"
    """Hold out single chips, or all chips of a scene together."""
    strict: bool = False
    """Stop with an error, and write nothing, at the first chip that would be rejected."""


@dataclass(frozen=True)
class ScenesConfig:
    """Rasters -> a dataset: heights are brought onto each image's grid and both are cut to chips."""

    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN...")]
    """Images: paths, globs or s3://..."""
    heights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN...")]
    """Height rasters in metres (with --ground: surface elevations); those that overlap it serve an image."""
    out: str
    """Where the dataset is made: a folder or s3://..., without a dataset in it."""
    ground: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN...")] = ()
    """Ground elevations in metres: height = --heights minus these."""
    bands: tuple[str, ...] = ()
    """Names of the rasters' bands in order; default: as described, or by number (4: blue green red nir)."""
    use: tuple[str, ...] = ()
    """Names of the bands to keep, in this order; default: all."""
    chip_size: int = 64
    """Pixels along each side of a chip."""
    stride: int = 0
    """Pixels from one chip to the next; 0: the chip size, so that chips do not overlap."""
    pixel_size: float = 0.0
    """Resample images and heights to this size, in units of the CRS; 0: the image's own."""
    crs: str = ""
    """Resample images and heights to this CRS, e.g. EPSG:3338; default: the image's own."""
    height_resampling: Literal["average", "bilinear", "nearest", "max"] = "average"
    """How heights are brought onto the image's grid."""
    val_share: float = 0.2
    """Share (0..1) held out for validation, by a stable hash."""
    split_by: Literal["key", "scene"] = "key"
    """Hold out single chips, or all chips of a scene together."""
    strict: bool = False
    """Stop with an error, and write nothing, at the first chip that would be rejected."""


@dataclass(frozen=True)
class TarsConfig:
    """WebDataset tars, as they are -> a dataset: an index, statistics and a manifest are written beside them.

    The tars stay as they are. `treeline convert` makes faster or smaller shards of them.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder of the .tar files, which becomes the dataset: a path or s3://..."""
    val: str = "val/*"
    """Names (with wildcards, below the folder) of the tars that are held out for validation."""
    image: str = "image.npy"
    """What the names of image members end in, after the key."""
    height: str = "height.npy"
    """What the names of height members end in, after the key."""
    bands: tuple[str, ...] = ()
    """Names of the image's bands, in stored order; default: by their number (4: blue green red nir)."""
    nodata: int | None = -9999
    """Value that means "no measurement", in images and heights."""
    pixel_size: float = 2.0
    """Metres along each side of a pixel."""


def made_by(config: PairsConfig | ScenesConfig | TarsConfig) -> dict[str, Any]:
    """What the manifest records of how a dataset was made: not where to, so that copies are equal."""
    place = "data" if isinstance(config, TarsConfig) else "out"
    options = {name: value for name, value in asdict(config).items() if name != place}
    return {"treeline": shards.__version__, "config": options}
