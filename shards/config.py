"""The options of `treeline inspect`, `split`, `convert` and `verify`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from shards.roles import OnlyWith, Place


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Which chips are held out."""

    split_by: Literal["key", "scene", "blocks", "strips"] = "key"
    """Hold out single chips, all chips of a scene, square blocks of ground, or strips along an axis."""
    shares: tuple[float, ...] = (0.8, 0.2)
    """Shares (0..1) of training, validation and, if there is a third, test: of names by a stable hash, of
    strips by place."""
    block_size: Annotated[float, OnlyWith(split_by="blocks")] = 5000.0
    """Side of a block in units of --split-crs, for --split-by blocks."""
    split_axis: Annotated[Literal["x", "y"], OnlyWith(split_by="strips")] = "y"
    """Along which coordinate strips follow each other, for --split-by strips."""
    buffer: float = 0.0
    """Least distance, in units of --split-crs, between chips of two splits; what is nearer is "buffer"."""
    split_crs: str = ""
    """CRS of blocks and strips, e.g. EPSG:3338; default: the chips' own, which must be one."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(SplitOptions):
    """Hold out other chips of a dataset: pixels stay in place, index, statistics and manifest are new."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""


@dataclass(frozen=True)
class InspectConfig:
    """What a dataset holds, in words and pictures: counts, rejections, statistics, splits, some chips."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
    out: Annotated[str, Place()] = ""
    """Folder for index.html and its pictures; default: DATASET-inspect beside it, or here if it is remote."""
    chips: int = 12
    """Chips in the picture of some."""
    seed: int = 0
    """Of the choice of chips."""


@dataclass(frozen=True)
class ConvertConfig:
    """The same dataset in the other format: the same chips in the same order, nothing lost."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
    to: Literal["tar", "zarr"]
    """tar: equal rows, read fastest; zarr: compressed, read by any Zarr v3 library."""
    out: Annotated[str, Place()]
    """Where the new dataset is made: a folder or s3://..., without a dataset in it."""


@dataclass(frozen=True)
class VerifyConfig:
    """Read everything, and compare all that is there twice: exit code 1 and a list if anything is off."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
