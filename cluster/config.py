"""Options of `treeline demo` and `treeline submit`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from shards.roles import Place


@dataclass(frozen=True)
class DemoConfig:
    """Run the whole job on a synthetic landscape, from scenes on disk to a report."""

    out: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for everything; the report is OUT/report.html."""
    seed: int = 0
    """Seed of the landscape and the training."""
    train_scenes: int = 12
    """Number of scenes to train on."""
    unseen_scenes: int = 2
    """Number of scenes to score and map; training sees none of their chips."""
    scene_size: int = 512
    """Pixels of 2 m along each side of a scene."""
    epochs: int = 24
    """Number of passes through the training chips."""
    workers: int = 0
    """Ray workers for training and prediction; 0: in this process."""


@dataclass(frozen=True)
class SubmitConfig:
    """Run a command as a job on a Ray cluster: treeline submit -- train --data s3://... --workers 8."""

    address: str = ""
    """URL of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."""
    wait: bool = True
    """Whether to show the job's output until it ends, and exit with 0 if it succeeded, or return at once."""
