"""The options of `treeline demo` and `treeline submit`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from shards.roles import Place


@dataclass(frozen=True)
class DemoConfig:
    """The whole job on a synthetic landscape, from scenes on disk to a report."""

    out: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for everything; the report is OUT/report.html."""
    seed: int = 0
    """Of the landscape and the training."""
    train_scenes: int = 12
    """Scenes to learn from."""
    unseen_scenes: int = 2
    """Scenes to be scored on and mapped; no chip of them is learnt from."""
    scene_size: int = 512
    """Pixels of 2 m along each side of a scene."""
    epochs: int = 24
    """Times through the training chips."""
    workers: int = 0
    """Ray workers for training and prediction; 0: in this process."""


@dataclass(frozen=True)
class SubmitConfig:
    """Run a command as a job of a Ray cluster: treeline submit -- train --data s3://... --workers 8."""

    address: str = ""
    """Of the cluster's dashboard, e.g. http://127.0.0.1:8265; default: RAY_API_SERVER_ADDRESS, or that."""
    wait: bool = True
    """Show the job's output until it ends; its success is then the command's."""
