"""The options of `treeline inspect`, `split`, `convert` and `verify`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from shards.draw.colours import Palette
from shards.roles import Before, In, OnlyWith, Place, Usual

SplitBy = Literal["key", "scene", "blocks", "strips", "bands", "auto"]
BY_PLACE: tuple[SplitBy, ...] = ("blocks", "strips", "bands")
"""Ways to split that need the chips' positions."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Chips to hold out."""

    split_by: Annotated[SplitBy, In.SPLIT, Usual()] = "key"
    """Unit that is held out: single chips, scenes, square blocks of ground, strips along an axis (one for
    each split), or many bands at an angle, dealt in turn; auto: scenes, or blocks if there are under five."""
    shares: Annotated[tuple[float, ...], In.SPLIT, Usual()] = (0.8, 0.2)
    """Shares (0..1) of training, validation and, if there is a third, test. Keys, scenes and blocks get
    them by a stable hash, strips by position, bands in turn (0.6 0.2 0.2: train train train test val)."""
    block_size: Annotated[float, OnlyWith(split_by="blocks"), In.SPLIT] = 5000.0
    """Side of a block in units of --split-crs; with --split-by blocks."""
    split_axis: Annotated[Literal["x", "y"], OnlyWith(split_by="strips"), In.SPLIT] = "y"
    """Coordinate along which strips follow each other; with --split-by strips."""
    split_bands: Annotated[int, Before(60), OnlyWith(split_by="bands"), In.SPLIT] = 60
    """Number of bands, of equal width, across the chips of a region; with --split-by bands."""
    split_angle: Annotated[tuple[float | str, ...], Before((0.0,)), OnlyWith(split_by="bands"), In.SPLIT] = (
        0.0,
    )
    """Direction in which bands run: degrees from east (the CRS's x axis), counter-clockwise; one number, or
    one for each region, as europe=9 conus=15. At 0 they run east and follow each other northwards."""
    region_column: Annotated[str, Before(""), OnlyWith(split_by="bands"), In.SPLIT] = ""
    """Column with each chip's region: an attribute, source or sensor. Each region has bands of its own, in
    its own CRS; default: all chips are one region."""
    buffer: Annotated[float, In.SPLIT] = 0.0
    """Least distance between chips of two splits, in units of --split-crs; nearer chips become "buffer".
    With 0, bands take each chip by its centre, and none is lost."""
    split_crs: Annotated[str, In.SPLIT] = ""
    """CRS of blocks, strips and bands, e.g. EPSG:3338; default: the chips' CRS, which they must share."""

    @property
    def is_split_by_place(self) -> bool:
        """Whether the split needs the chips' positions."""
        return self.split_by in BY_PLACE


@dataclass(frozen=True, kw_only=True)
class BandOptions:
    """Values of bands."""

    derive: Annotated[tuple[str, ...], Before(()), tyro.conf.arg(metavar="FORMULA..."), In.DATA.late(7)] = ()
    """Bands to count as well, each the difference or the sum of two stored ones, e.g. "vv_vh = vv - vh"; they
    are made where they are needed, not stored. A dataset keeps those it has."""
    scale: Annotated[
        tuple[str, ...], Before(()), tyro.conf.arg(metavar="[BAND=]NUMBER..."), In.DATA.late(7)
    ] = ()
    """Scale of the stored numbers, value = stored * scale + offset, for all bands (30/255) or for one
    (vv=0.1); default: 1, or the dataset's."""
    offset: Annotated[
        tuple[str, ...], Before(()), tyro.conf.arg(metavar="[BAND=]NUMBER..."), In.DATA.late(7)
    ] = ()
    """Offset in the unit of the values, for all bands (-30) or for one (vv=-30); default: 0, or the
    dataset's."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(BandOptions, SplitOptions):
    """Hold out other chips of a dataset: index, statistics and manifest are rewritten, and shards whose chips
    are no longer of one split move to the folder mixed.

    Chips stay in their splits unless an option of the split is given; without --split-by, they are dealt in
    the way that the dataset records.
    """

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Dataset: a folder or s3://..."""
    rewrite: Annotated[bool, In.SPLIT] = False
    """Whether to write shards anew, in place of those in mixed, so that the folder of each split has all its
    chips; tar only."""


@dataclass(frozen=True)
class InspectConfig:
    """Show what a dataset holds: counts, rejections, statistics, splits and sample chips."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Dataset: a folder or s3://..."""
    out: Annotated[str, Place(), In.OUTPUT] = ""
    """Folder for index.html and its pictures; default: DATASET-inspect beside it, or here if remote (with
    digits of its URL if another dataset has its page there)."""
    chips: Annotated[int, In.DATA] = 12
    """Number of sample chips to draw."""
    seed: Annotated[int, In.DATA] = 0
    """Seed for choosing the sample chips."""
    palette: Annotated[Palette, In.OUTPUT] = "continuous"
    """Colours of heights: from 0 to what suits the chips, or the notebook's eight classes."""


@dataclass(frozen=True)
class ConvertConfig:
    """Write a dataset in the other format: the same chips in the same order, with nothing lost."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """Dataset: a folder or s3://..."""
    to: Literal["tar", "zarr"]
    """tar: equal rows, read fastest; zarr: compressed, read by any Zarr v3 library."""
    out: Annotated[str, Place()]
    """Place for the new dataset: a folder or s3://... that holds no dataset yet."""


@dataclass(frozen=True)
class VerifyConfig:
    """Read a whole dataset, run, checkpoint, folder of maps or of embeddings, or token store, and compare
    everything that is recorded twice. Exit code 1 and a list of problems if anything differs."""

    data: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder or s3://... of a dataset, a run, a checkpoint, maps, embeddings or a token store."""
    repair: bool = False
    """Make again what can be made again from what is whole, before everything is compared: of a dataset the
    statistics, the copy of the index, and the index of tar shards whose split was not changed; of maps their
    STAC items."""
