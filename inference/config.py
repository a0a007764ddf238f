"""The options of `treeline predict` and `treeline mosaic`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from shards.roles import OnlyWith, Place, Some

Weighting = Literal["triangle", "cosine", "flat"]


@dataclass(frozen=True)
class PredictConfig:
    """Scenes -> maps of canopy height: int16 decimetres, Cloud-Optimised GeoTIFF, on each scene's grid."""

    scenes: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="SCENE...")]
    """Images: paths, globs or s3://..., or lists of them: .txt, .csv, or STAC .json."""
    checkpoint: Annotated[str, Place()]
    """A checkpoint's folder, or a training run's (its best checkpoint is taken)."""
    out: Annotated[str, Place()]
    """Folder or s3://... of the maps: SCENE.chm.tif. A stopped run goes on with the same command."""
    overwrite: bool = False
    """Put new maps in the place of those of other scenes, or made with other options, that are there."""
    workers: int = 0
    """Ray workers; 0: predict in this process, without Ray."""
    gpus_per_worker: Annotated[float, OnlyWith(workers=Some())] = 1.0
    """GPUs, or the share (0..1) of one, that each Ray worker takes where there are any."""

    bands: tuple[str, ...] = ()
    """Names of the scenes' bands in order; default: their descriptions, or as in training."""
    asset: str = ""
    """Which asset of STAC items is the image; default: the GeoTIFF with the role "data"."""
    window: int = 64
    """Pixels along each side of one input of the regressor; a multiple of the backbone's patch."""
    overlap: float = 0.5
    """Share (0..0.75) of a window that the next one covers again."""
    weights: Weighting = "triangle"
    """How much a window counts, from its middle to its edges."""
    symmetries: Literal[1, 8] = 1
    """Each window is predicted as it is, or also flipped and turned, and the mean taken."""
    spread: bool = False
    """Add a band: standard deviation of the predictions of a pixel, in centimetres."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe."""
    batch_size: int = 32
    """Windows at a time, a power of 2; another changes heights by some 1e-5 m. 0: what fits (CPU: 32)."""
    block: int = 2048
    """Pixels along each side of what is predicted at a time; bounds the memory, changes no height."""

    stac: bool = False
    """Write a STAC item beside each map: SCENE.chm.json."""
    quick_look: bool = False
    """Write a picture beside each map: SCENE.chm.png."""


@dataclass(frozen=True)
class MosaicConfig:
    """Overlapping maps -> one on a common grid: height, number of maps, spread between them, newest day."""

    maps: Annotated[tuple[str, ...], Place(), tyro.conf.Positional, tyro.conf.arg(metavar="MAP...")]
    """Maps of `treeline predict`: paths, folders, globs or s3://..., or lists: .txt, .csv, STAC .json."""
    out: Annotated[str, Place()]
    """The mosaic, a Cloud-Optimised GeoTIFF: a path or s3://..."""
    crs: str = ""
    """CRS of the mosaic, such as EPSG:3338; default: that of the first map in the order of their names."""
    resolution: float = 0.0
    """Sides of its pixels in units of the CRS; default: as the first map's."""
    bounds: tuple[float, ...] = ()
    """Left, bottom, right, top in units of the CRS; default: all maps. Pixels that touch them are made."""
    method: Literal["weighted", "median", "newest", "least-uncertain"] = "weighted"
    """Where maps overlap: their mean by distance from each map's edge, their median, or the height of the
    newest map, or of that with the smallest spread."""
    feather: Annotated[int, OnlyWith(method="weighted")] = 256
    """Pixels from its edges and holes over which a map's weight rises (--method weighted)."""
    block: int = 1024
    """Pixels along each side of what is made at a time; bounds the memory, changes no height."""


@dataclass(frozen=True)
class MapScoreConfig:
    """How good maps are, where height rasters cover them: `treeline evaluate --maps`."""

    maps: tuple[str, ...]
    """Canopy height maps: paths, globs or s3://..."""
    heights: tuple[str, ...]
    """Height rasters in metres (with `ground`: surface elevations), any CRS and pixel size."""
    ground: tuple[str, ...] = ()
    """Ground elevations in metres; height = `heights` minus these."""
