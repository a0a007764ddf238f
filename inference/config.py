"""Options of `treeline predict`, `mosaic` and `evaluate --maps`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from shards.roles import OnlyWith, Place, Some

Weighting = Literal["triangle", "cosine", "flat"]


@dataclass(frozen=True)
class PredictConfig:
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
    overwrite: bool = False
    """Whether to replace maps in --out that show other scenes or were made with other options."""
    workers: int = 0
    """Number of Ray workers; 0 predicts in this process, without Ray."""
    gpus_per_worker: Annotated[float, OnlyWith(workers=Some())] = 1.0
    """GPUs, or share (0..1) of one, per Ray worker; no effect on a cluster without GPUs."""

    bands: tuple[str, ...] = ()
    """Names of the scenes' bands, in order; default: the bands' descriptions, or the bands of training."""
    asset: str = ""
    """Key of the asset that is the image in STAC items; default: the GeoTIFF with the role "data"."""
    window: int = 64
    """Side of one input of the model, in pixels; a multiple of the backbone's patch size."""
    overlap: float = 0.5
    """Share (0..0.75) of a window that the next window also covers."""
    weights: Weighting = "triangle"
    """Weight of a window's pixels, from its centre to its edges."""
    symmetries: Literal[1, 8] = 1
    """Orientations of each window whose predictions are averaged: 1, or 8 with all flips and turns."""
    spread: bool = False
    """Whether to add a band with the standard deviation of each pixel's predictions, in centimetres."""
    bf16: bool = False
    """Whether to compute in bfloat16 where that is safe."""
    batch_size: int = 32
    """Windows per batch, a power of 2; another size changes heights by 1e-5 m. 0: what fits (CPU: 32)."""
    block: int = 2048
    """Side of the block that is predicted at a time, in pixels; bounds the memory, changes no height."""

    stac: bool = False
    """Whether to write a STAC item beside each map: SCENE.chm.json."""
    quick_look: bool = False
    """Whether to write a picture beside each map: SCENE.chm.png."""


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
    block: int = 1024
    """Side of the block that is made at a time, in pixels; bounds the memory, changes no height."""


@dataclass(frozen=True)
class MapScoreConfig:
    """Score maps where height rasters cover them: `treeline evaluate --maps`."""

    maps: tuple[str, ...]
    """Canopy height maps: paths, globs or s3://..."""
    heights: tuple[str, ...]
    """Height rasters in metres (with `ground`: surface elevations), in any CRS and pixel size."""
    ground: tuple[str, ...] = ()
    """Ground elevations in metres; height = `heights` minus these."""
