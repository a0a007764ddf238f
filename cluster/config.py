"""Options of `treeline demo`, `run` and `submit`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from shards.addresses import Address
from shards.roles import In, OnlyWith, Place

OF_SCENES, OF_TILES = OnlyWith(sar=False), OnlyWith(sar=True)


@dataclass(frozen=True)
class DemoConfig:
    """Run the whole job on a synthetic landscape, from scenes on disk to a report.

    With --sar: tiles of radar images instead, pre-training without labels, and how far it carries.
    """

    out: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for everything; the report is OUT/report.html."""
    seed: Annotated[int, In.OPTIMISER.late(1)] = 0
    """Seed of the landscape and the training."""
    sar: Annotated[bool, In.DATA.late(1)] = False
    """Whether to pre-train on tiles of radar images from three of four regions, and compare in all four."""
    train_scenes: Annotated[int, OF_SCENES] = 12
    """Number of scenes to train on."""
    unseen_scenes: Annotated[int, OF_SCENES] = 2
    """Number of scenes to score and map; training sees none of their chips."""
    scene_size: Annotated[int, OF_SCENES] = 512
    """Pixels of 2 m along each side of a scene."""
    epochs: Annotated[int, OF_SCENES, In.OPTIMISER] = 24
    """Number of passes through the training chips."""
    tiles: Annotated[int, OF_TILES, In.DATA.late(1)] = 4000
    """Number of tiles of radar images, over four regions."""
    limit: Annotated[tuple[int | str, ...], OF_TILES, In.DATA] = ("1%", "100%")
    """Labelled training tiles of each region: shares, as 1%, or numbers; the last one is embedded."""
    pretrain_epochs: Annotated[int, OF_TILES] = 20
    """Number of passes of pre-training through the training tiles of three regions."""
    workers: Annotated[int, In.SPEED] = 0
    """Ray workers for training and prediction, with --sar for trainings at a time; 0: in this process."""


@dataclass(frozen=True)
class StepsConfig:
    """Run the steps of a file one after another, from one's own data to maps: treeline run steps.yaml.

    The same command goes on where it was stopped. A step is skipped if its result is there and was made with
    the same options from the same input.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STEPS.yaml")] = ""
    """YAML file of steps, each a command with its options; see docs/run.md."""
    redo: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STEP...")] = ()
    """Steps to make anew, as is what later steps made of them; without it no dataset or training is
    replaced."""
    dry_run: bool = False
    """Whether only to print the steps as commands, and which would be skipped and why."""
    example: bool = False
    """Whether to print a file of steps to start from: treeline run --example > steps.yaml."""


@dataclass(frozen=True)
class SubmitConfig:
    """Run a command as a job on a Ray cluster: treeline submit -- train --data s3://... --workers 8."""

    address: Annotated[str, Address("ray")] = ""
    """URL of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."""
    wait: bool = True
    """Whether to show the job's output until it ends, and exit with 0 if it succeeded, or return at once."""
