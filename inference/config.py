"""The options of `treeline predict`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class PredictConfig:
    """Scenes -> maps of canopy height: int16 decimetres, Cloud-Optimised GeoTIFF, on each scene's grid."""

    scenes: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE...")]
    """Images: paths, globs or s3://..."""
    checkpoint: str
    """A checkpoint's folder, or a training run's (its best checkpoint is taken)."""
    out: str
    """Folder of the maps: SCENE.chm.tif"""
    workers: int = 0
    """Ray workers; 0: predict in this process, without Ray."""
    bands: tuple[str, ...] = ()
    """Names of the scenes' bands in order; default: their descriptions, or as in training."""
    window: int = 64
    """Pixels along each side of one input of the regressor."""
    overlap: float = 0.5
    """Share (0..0.75) of a window that the next one covers again."""
    block: int = 512
    """Pixels along each side of what is predicted and written at a time; bounds the memory."""
    batch_size: int = 32
    """Windows at a time."""
