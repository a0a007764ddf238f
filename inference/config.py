"""Options of `predict`, `mosaic`, `view`, `report`, `evaluate --maps`, `embed`, `distances`, `attention`."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from shards.addresses import Address
from shards.draw.colours import Palette
from shards.own_parts import TrustOptions
from shards.raster.finding import OnMismatch
from shards.raster.height_unit import HeightUnit
from shards.roles import Before, In, MayChange, Nothing, OnlyWith, Place, Some, Usual
from trainer.devices.choice import OF_BF16, Precision, Wanted

Weighting = Literal["triangle", "cosine", "flat"]
ON_DATA = OnlyWith(data=Some())


@dataclass(frozen=True)
class PredictConfig(TrustOptions):
    """Make a map of each scene, a Cloud-Optimised GeoTIFF on the scene's own grid.

    It has what the checkpoint was trained on: canopy heights (int16, decimetres), classes of pixels (bytes),
    or a pixel for each tile.
    """

    scenes: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="SCENE...")]
    """Scene images: paths, folders, globs or s3://..., or lists of them: .txt, .csv, STAC .json."""
    checkpoint: Annotated[str, Place()]
    """Folder of a checkpoint or of a training run, whose best checkpoint is then used."""
    out: Annotated[str, Place()]
    """Folder or s3://... for the maps, SCENE.chm.tif (or .classes.tif, .tiles.tif). The same command resumes
    a stopped run."""
    overwrite: Annotated[bool, MayChange(), In.OUTPUT] = False
    """Whether to replace maps in --out that show other scenes or were made with other options."""
    workers: Annotated[int, MayChange(), In.SPEED, Usual()] = 0
    """Number of Ray workers; 0 predicts in this process, without Ray."""
    gpus_per_worker: Annotated[float, MayChange(), OnlyWith(workers=Some()), In.SPEED.late(1)] = 1.0
    """Share (0..1) of a GPU per Ray worker, 0 for none; no effect on a cluster without GPUs."""
    device: Annotated[Wanted, MayChange(), In.SPEED, Usual()] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""

    bands: Annotated[tuple[str, ...], In.DATA.late(1), Usual()] = ()
    """Names of the scenes' bands, in order; default: the bands' descriptions, or the bands of training."""
    nodata: Annotated[float | None, Before(None), In.DATA.late(1), Usual()] = None
    """Value that means a missing pixel in the scenes, beside what they declare (nodata, masks, alpha)."""
    asset: Annotated[str, In.DATA.late(1)] = ""
    """Key of the asset that is the image in STAC items; default: the GeoTIFF with the role "data"."""
    on_mismatch: Annotated[OnMismatch, MayChange(), In.DATA.late(1), Usual()] = "refuse"
    """Scenes unlike the training: refuse those with a gross difference, note each difference and refuse none,
    or ignore them but for the maps' tags."""
    mask: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="PATTERN..."), In.DATA, Usual()] = ()
    """Cloud or quality rasters, matched with scenes by place and name; where one has a value of --mask-drop,
    the map has no height. A scene without a mask is not mapped."""
    mask_drop: Annotated[tuple[int, ...], OnlyWith(mask=Some()), In.DATA] = (1,)
    """Values of --mask that make a pixel unusable."""
    bounds: Annotated[tuple[float, ...], MayChange(adds=True), In.PREDICTION.late(1), Usual()] = ()
    """Left, bottom, right and top in the scene's CRS: maps only that part; the whole map keeps its blocks."""
    area: Annotated[str, Place(), MayChange(adds=True), In.PREDICTION.late(1)] = ""
    """GeoPackage or GeoJSON of polygons in any CRS, to map only what lies in them."""
    window: Annotated[int, In.PREDICTION, Usual()] = 64
    """Side of one input of the model, in pixels; a multiple of the backbone's patch size."""
    overlap: Annotated[float, In.PREDICTION, Usual()] = 0.5
    """Share (0..0.75) of a window that the next window also covers."""
    weights: Annotated[Weighting, In.PREDICTION] = "triangle"
    """Weight of a window's pixels, from its centre to its edges."""
    symmetries: Annotated[Literal[1, 8], In.PREDICTION, Usual()] = 1
    """Orientations of each window whose predictions are averaged: 1, or 8 with all flips and turns."""
    spread: Annotated[bool, In.PREDICTION, Usual()] = False
    """Whether to add a band with the standard deviation of each pixel's predictions, in centimetres."""
    precision: Annotated[Precision, OF_BF16, In.SPEED.late(1), Usual()] = "float32"
    """Numbers to compute with: float32; tf32 in matrix products; bf16 or fp16 where that is safe."""
    batch_size: Annotated[int, In.SPEED.late(1)] = 0
    """Windows per batch, a power of 2; another size changes heights by 1e-5 m. 0: what suits the device."""
    block: Annotated[int, MayChange(), In.SPEED.late(1)] = 2048
    """Side of the block that is predicted at a time, in pixels; bounds the memory, changes no pixel."""

    stac: Annotated[bool, MayChange(adds=True), In.OUTPUT, Usual()] = False
    """Whether to write a STAC item beside each map: SCENE.chm.json."""
    quick_look: Annotated[bool, MayChange(adds=True), In.OUTPUT, Usual()] = False
    """Whether to write a picture beside each map: a .png of the same name."""
    palette: Annotated[Palette, In.OUTPUT] = "continuous"
    """Colours of heights in the files beside each map (.qml for QGIS, .png): from 0 to what suits the map, or
    the notebook's eight classes."""


@dataclass(frozen=True)
class MosaicConfig:
    """Combine overlapping maps on one grid: height, number of maps, spread between them, newest day."""

    maps: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="MAP...")]
    """Maps of `treeline predict`: paths, folders, globs or s3://..., or lists: .txt, .csv, STAC .json."""
    out: Annotated[str, Place()]
    """Path or s3://... of the mosaic, a Cloud-Optimised GeoTIFF."""
    crs: str = ""
    """CRS of the mosaic, such as EPSG:3338; default: the CRS of the first map by file name."""
    resolution: float = 0.0
    """Pixel size in units of the CRS; default: the pixel size of the first map."""
    bounds: tuple[float, ...] = ()
    """Left, bottom, right and top in units of the CRS, widened to whole pixels; default: all maps."""
    method: Literal["weighted", "median", "newest", "least-uncertain"] = "weighted"
    """Height where maps overlap: the mean weighted by distance from each map's edge, the median, the height
    of the newest map, or the height with the smallest spread."""
    feather: Annotated[int, OnlyWith(method="weighted")] = 256
    """Distance from a map's edges and holes over which its weight rises, in pixels (--method weighted)."""
    block: Annotated[int, MayChange(), In.SPEED] = 1024
    """Side of the block that is made at a time, in pixels; bounds the memory, changes no height."""
    palette: Annotated[Palette, In.OUTPUT] = "continuous"
    """Colours of heights in the .qml for QGIS beside the mosaic: from 0 to what suits it, or the notebook's
    eight classes."""


@dataclass(frozen=True)
class ViewConfig:
    """Look at maps in a browser, beside the image and measured heights, at full resolution.

    A server on this machine alone makes tiles of what is looked at; Ctrl-C ends it.
    """

    maps: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="MAP...")]
    """Maps of heights or classes of one place: paths, folders, globs or s3://..., or lists of them."""
    image: Annotated[str, Place(), tyro.conf.arg(metavar="SCENE"), In.DATA] = ""
    """Image that the maps were made from."""
    heights: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="RASTER..."), In.DATA] = ()
    """Rasters of measured heights, which are shown and subtracted from the maps."""
    height_unit: Annotated[HeightUnit | None, OnlyWith(heights=Some()), In.DATA.late(1)] = None
    """Unit of the measured heights, where the rasters state none; default: metres."""
    height_band: Annotated[int | None, OnlyWith(heights=Some()), In.DATA.late(1)] = None
    """Number of the band of measured heights; default: they have one."""
    palette: Annotated[Palette, In.OUTPUT] = "continuous"
    """Colours of heights: from 0 to what suits the maps, or the notebook's eight classes."""
    background: Annotated[str, Address(query=True), tyro.conf.arg(metavar="URL"), In.DATA] = ""
    """Address of web tiles to lay below the maps, with {z}, {x} and {y}: the only host but this machine that
    the page asks."""
    port: Annotated[int, In.OUTPUT] = 0
    """Port of the server; 0: any that is free."""
    browser: Annotated[bool, In.OUTPUT] = True
    """Whether to open a browser, or only print the address."""


@dataclass(frozen=True)
class MapScoreConfig:
    """Score maps where height rasters cover them: `treeline evaluate --maps`."""

    maps: tuple[str, ...]
    """Canopy height maps: paths, globs or s3://..."""
    heights: tuple[str, ...]
    """Height rasters in metres (with `ground`: surface elevations), in any CRS and pixel size."""
    ground: tuple[str, ...] = ()
    """Ground elevations; height = `heights` minus these."""
    height_unit: HeightUnit | None = None
    """Unit of both, where the rasters state none; default: metres."""
    height_band: int | None = None
    """Number of the band of both that is taken; default: they have one."""
    on_mismatch: OnMismatch = "refuse"
    """What to do about rasters whose values are not heights of plants."""

    @classmethod
    def of(cls, options: Any) -> "MapScoreConfig":
        """Take the options of the same names from those of `treeline evaluate`."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(TrustOptions):
    """Describe tiles by vectors: the tokens of a checkpoint's encoder, in Parquet files.

    Tiles are the chips of DATASET, or with --scenes windows of whole scenes.
    """

    data: Annotated[
        str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="DATASET"), In.DATA, Usual()
    ] = ""
    """Dataset: a folder or s3://... Or give --scenes."""
    scenes: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="SCENE..."), In.DATA, Usual()] = ()
    """Scene images instead of a dataset: paths, folders, globs, s3://... or lists: .txt, .csv, STAC .json."""
    checkpoint: Annotated[str, Place()]
    """Folder of a run or a checkpoint of treeline pretrain or train; of a run the best checkpoint is used."""
    weights: Annotated[Literal["teacher", "student"] | None, In.MODEL.late(1), Usual()] = None
    """Weights of a pre-training to use; default: the teacher's where there is one."""
    tokens: Annotated[Literal["class", "mean", "patches"], In.MODEL.late(1), Usual()] = "class"
    """Vector of a tile: its class token, the mean token of its valid patches, or a token for each patch."""
    out: Annotated[str, Place()]
    """Folder or s3://... for the embeddings. The same command resumes a stopped run."""

    split: Annotated[
        Literal["train", "val", "test", "buffer", "all"], OnlyWith(scenes=Nothing()), In.DATA.late(1), Usual()
    ] = "all"
    """Split whose tiles are embedded."""
    where: Annotated[str, OnlyWith(scenes=Nothing()), In.DATA.late(2), Usual()] = ""
    """Tiles to embed, as an expression over the index: "region == 'europe'"; default: all of the split."""
    limit: Annotated[int | None, OnlyWith(scenes=Nothing()), In.DATA.late(2), Usual()] = None
    """Number of tiles to embed; default: all."""

    tile_size: Annotated[int, OnlyWith(scenes=Some()), In.CHIPS, Usual()] = 0
    """Side of a window of --scenes, in pixels; 0: as the tiles of training. Windows lie side by side."""
    bands: Annotated[tuple[str, ...], OnlyWith(scenes=Some()), In.DATA] = ()
    """Names of the scenes' bands, in order; default: the bands' descriptions, or the bands of training."""
    nodata: Annotated[float | None, Before(None), OnlyWith(scenes=Some()), In.DATA] = None
    """Value that means a missing pixel in the scenes, beside what they declare (nodata, masks, alpha)."""
    asset: Annotated[str, OnlyWith(scenes=Some()), In.DATA] = ""
    """Key of the asset that is the image in STAC items; default: the GeoTIFF with the role "data"."""
    on_mismatch: Annotated[OnMismatch, MayChange(), OnlyWith(scenes=Some()), In.DATA.late(1)] = "refuse"
    """Scenes unlike the training: refuse those with a gross difference, note each difference and refuse none,
    or ignore them but for embeddings.json."""

    batch_size: Annotated[int, In.SPEED.late(1)] = 32
    """Tiles per batch; another size changes numbers by 1e-5 of a vector's length, before they are rounded."""
    tiles_per_part: Annotated[int, In.SPEED.late(3)] = 0
    """Tiles per Parquet file, the unit of resuming, in whole batches; 0: 1,024, or as have 65,536 patches."""
    precision: Annotated[Precision, OF_BF16, In.SPEED.late(2), Usual()] = "float32"
    """Numbers to compute with: float32; tf32 in matrix products; bf16 or fp16 where that is safe."""
    workers: Annotated[int, MayChange(), In.SPEED, Usual()] = 0
    """Number of Ray workers; 0 embeds in this process, without Ray."""
    gpus_per_worker: Annotated[float, MayChange(), OnlyWith(workers=Some()), In.SPEED.late(1)] = 1.0
    """Share (0..1) of a GPU per Ray worker, 0 for none; no effect on a cluster without GPUs."""
    device: Annotated[Wanted, MayChange(), In.SPEED, Usual()] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""


@dataclass(frozen=True, kw_only=True)
class DistancesConfig:
    """Measure how far regions lie apart in the embeddings of a checkpoint, beside halves of one region."""

    embeddings: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="E...")]
    """Folders of treeline embed, e.g. of a checkpoint before and after fine-tuning: each has its own row."""
    out: Annotated[str, Place()]
    """Folder or s3://... for distances.json and index.html."""
    region_column: Annotated[str, In.DATA] = "region"
    """Column with each tile's region; tiles without one are left out."""
    tiles: Annotated[int, In.DATA] = 2000
    """Most tiles of a region that distances and pictures are made from, drawn by --seed."""
    projections: int = 10_000
    """Random directions on which a sliced distance projects the tiles, for each of its seeds."""
    draws: int = 10
    """Number of seeds of the projections, whose mean and spread are reported."""
    seed: int = 0
    """Seed of the choice of tiles, of halves, directions and pictures."""
    errors: Annotated[str, Place()] = ""
    """predictions.parquet of treeline matrix, to compare distances with errors; default: none."""
    neighbours: Annotated[int, OnlyWith(errors=Some())] = 5
    """Number of nearest source tiles whose mean distance a tile's error is compared with."""
    label: str = ""
    """Column by which a picture is coloured, such as tree_percent; default: none."""
    tsne: bool = True
    """Whether pictures are t-SNE (needs treeline[embeddings]); else the first two principal components."""


@dataclass(frozen=True)
class AttentionConfig(TrustOptions):
    """Draw where the class token looks: rasters, pictures and numbers of a backbone's attention."""

    checkpoint: Annotated[str, Place()]
    """Folder of a run or checkpoint of `treeline pretrain` or `treeline train`."""
    out: Annotated[str, Place()]
    """Folder or s3://... for GeoTIFFs and pictures of each tile, attention.json and index.html."""
    tiles: Annotated[
        tuple[str, ...],
        Place(),
        OnlyWith(data=Nothing()),
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TILE..."),
        In.DATA.late(3),
        Usual(),
    ] = ()
    """Tiles or scenes: paths, folders, globs or s3://..., or lists of them: .txt, .csv, STAC .json."""
    data: Annotated[str, Place(), In.DATA, Usual()] = ""
    """Dataset whose tiles are drawn, instead of rasters."""
    split: Annotated[Literal["train", "val", "test", "buffer", "all"], ON_DATA, In.DATA.late(1), Usual()] = (
        "all"
    )
    """Split of the dataset."""
    where: Annotated[str, ON_DATA, In.DATA.late(2), Usual()] = ""
    """Tiles to draw, as an expression over the index: "region == 'europe'"; default: all of the split."""
    limit: Annotated[int, OnlyWith(data=Some(), keys=Nothing()), In.DATA.late(2), Usual()] = 12
    """Most tiles of the dataset, the same ones in each call; 0: all."""
    keys: Annotated[tuple[str, ...], ON_DATA, In.DATA.late(2)] = ()
    """Keys of the dataset's tiles to draw, among those of --split and --where; default: see --limit."""
    overwrite: Annotated[bool, MayChange(), In.OUTPUT] = False
    """Whether to replace what an earlier call left at --out."""

    weights: Annotated[Literal["", "teacher", "student", "random"], In.MODEL.late(1)] = ""
    """Weights of a pre-training run; default: the teacher's where there is one. "random": an untrained
    backbone of the same shape."""
    bands: Annotated[tuple[str, ...], OnlyWith(tiles=Some()), In.DATA] = ()
    """Names of the rasters' bands, in order; default: the bands' descriptions, or the bands of training."""
    nodata: Annotated[float | None, Before(None), OnlyWith(tiles=Some()), In.DATA] = None
    """Value that means a missing pixel in the rasters, beside what they declare (nodata, masks, alpha)."""
    on_mismatch: Annotated[OnMismatch, OnlyWith(tiles=Some()), In.DATA.late(1)] = "refuse"
    """Rasters unlike the training: refuse those with a gross difference, note each difference and refuse
    none, or ignore them but for attention.json."""
    tile_size: Annotated[int, In.CHIPS, Usual()] = 0
    """Side of one input of the backbone, in pixels, a multiple of its patches; larger tiles are cut. 0: as
    in training."""
    layer: Annotated[int, In.PREDICTION, Usual()] = 0
    """Layer whose attention is drawn, from 1; 0: the last."""
    seed: Annotated[int, In.PREDICTION.late(1)] = 0
    """Seed of the untrained backbone, and of the halves of tiles."""
    batch_size: Annotated[int, In.SPEED.late(1)] = 32
    """Windows per batch; bounds the memory."""
    precision: Annotated[Precision, In.SPEED.late(1), Usual()] = "float32"
    """Numbers to compute with: float32; tf32 in matrix products; bf16 or fp16 where that is safe."""
    device: Annotated[Wanted, MayChange(), In.SPEED, Usual()] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""

    beside: Annotated[tuple[str, ...], Place(after_name=True), In.PREDICTION.late(1), Usual()] = ()
    """Rasters to draw beside the tiles, each as NAME=PATTERN (ndvi='ndvi/*.tif'), in any CRS and size."""
    classes: Annotated[tuple[str, ...], In.PREDICTION.late(1), Usual()] = ()
    """Names of --beside (or the dataset's label) whose numbers are classes that attention may find."""
    class_names: Annotated[tuple[str, ...], OnlyWith(classes=Some()), In.CHIPS] = ()
    """Names of the classes that have none in a dataset, each as NUMBER=NAME: 1=water."""
    above: Annotated[tuple[str, ...], In.PREDICTION.late(1)] = ()
    """Names of --beside (or the label) whose larger numbers attention may find: NAME (above the median) or
    NAME=NUMBER."""
    layers: Annotated[Literal["one", "all"], In.PREDICTION] = "one"
    """Layers whose heads are measured: that of --layer, or all."""


@dataclass(frozen=True)
class ReportConfig:
    """Show a run and its maps on one page: how good it is, how it learnt, where it errs.

    The page reads what train, evaluate and predict left, and says what is missing.
    """

    run: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder or s3://... of a run: the --out of treeline train or pretrain."""
    maps: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="MAP..."), In.DATA.late(2)] = ()
    """Maps to show, as treeline predict or mosaic writes them: paths, globs or s3://..."""
    image: Annotated[
        tuple[str, ...], Place(), OnlyWith(maps=Some()), tyro.conf.arg(metavar="SCENE..."), In.DATA.late(1)
    ] = ()
    """Scenes to show beside their maps."""
    heights: Annotated[
        tuple[str, ...], Place(), OnlyWith(maps=Some()), tyro.conf.arg(metavar="RASTER..."), In.DATA.late(1)
    ] = ()
    """Rasters of measured heights to show beside the maps."""
    data: Annotated[str, Place(), In.DATA] = ""
    """Dataset of the scored chips, where it has moved; default: where treeline evaluate read it."""
    evaluation: Annotated[str, Place()] = ""
    """Folder that treeline evaluate wrote; default: RUN/evaluation."""
    out: Annotated[str, Place(), In.OUTPUT] = ""
    """File of the page; default: RUN/report.html."""
