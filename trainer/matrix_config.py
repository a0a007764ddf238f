"""The options of `treeline matrix`. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from shards.roles import Another, Before, In, MayChange, OnlyWith, OptionsFile, Place
from trainer.config import TrainConfig
from trainer.devices.choice import Precision, Wanted
from trainer.options import Mode

RANDOM = "random"
"""Place of an --init that starts from random weights."""


@dataclass(frozen=True)
class MatrixConfig:
    """Train in each region and test in all: pre-trained against scratch, with intervals.

    A cell is one training. Finished cells are kept; the same command resumes.
    """

    data: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="DATASET...")]
    """Datasets, each a region with its folder's name; or one, with --region-column."""
    out: Annotated[str, Place(), MayChange()]
    """Folder or s3://... for cells, matrix.json, predictions.parquet and index.html."""
    init: Annotated[
        tuple[str, ...],
        Place(after_name=True, reserved=(RANDOM,)),
        tyro.conf.arg(metavar="NAME=RUN|random..."),
    ] = ("scratch=random",)
    """Weights to start from: pre-training runs by name, or NAME=random for the first run's shape (without a
    run: "tiny") with random weights, with which the others are compared."""
    region_column: Annotated[str, In.SPLIT] = ""
    """Column of the index with each tile's region, where --data is one dataset."""
    task: Annotated[Literal["height", "tile-value", "tile-class", "pixel-class"], In.TASK] = "tile-value"
    """What is learnt: heights or classes of pixels; or, for each tile, a number or a class of --label."""
    label: Annotated[str, OnlyWith(task=Another(("height",))), In.CHIPS] = ""
    """Column of the index that is learnt, such as tree_percent. Classes of pixels are in the chips."""
    tune: Annotated[tuple[Mode, ...], In.MODEL] = ("frozen", "all")
    """Parts of the backbone that learn; one matrix for each."""
    limit: Annotated[tuple[int | str, ...], In.DATA] = ("1%", "10%", "100%")
    """Labelled training tiles of each region: shares, as 1%, or numbers; one matrix for each."""
    draws: int = 5
    """Trainings of each cell, which differ in the choice of labels and in the seed."""
    train_config: Annotated[str, OptionsFile(TrainConfig), MayChange()] = ""
    """YAML or JSON file with the other options of treeline train; default: its defaults."""
    workers: Annotated[int, MayChange(), In.SPEED] = 0
    """Cells at a time, as tasks on Ray; 0: one by one here."""
    precision: Annotated[Precision | None, Before(None), In.SPEED.late(1)] = None
    """Numbers to train with, as for treeline train; default: what --train-config says, or float32. Tests are
    in float32."""
    device: Annotated[Wanted, MayChange(), Before("auto"), In.SPEED] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""
    keep_checkpoints: bool = False
    """Whether to keep the training run of each cell."""
