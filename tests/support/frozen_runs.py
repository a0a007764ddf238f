"""Runs with a frozen backbone, one of each kind, and runs that were killed before their end."""

from pathlib import Path
from typing import Any

from classes import write_class_dataset
from regressors import CHIP_SCHEMA, small_config, visible_chip, write_dataset
from stopped_runs import Stopped

from shards.format.key import split_of
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import find_files, join, read_bytes
from shards.write.writer import DatasetWriter
from trainer.commands.train import resumed_fit
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.run_folder.run_writer import RunWriter, run_options

TASKS: dict[str, dict[str, Any]] = {
    "heights": {},
    "stored-tokens": {"flips": False, "token_store": "tokens"},
    "bf16": {"precision": "bf16"},
    "tiles": {"task": "tile-value", "label": "brightness"},
    "classes": {"task": "pixel-class"},
}


def write_tiles(folder: Path) -> Dataset:
    """Tiles with a number each."""
    columns = {"brightness": "float64"}
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10, attributes=columns) as writer:
        for number in range(22):
            chip = visible_chip(number)
            chip.attributes.clear()
            chip.attributes["brightness"] = float(chip.image_CHW.mean())
            writer.add(chip, split_of(chip.key, 0.2))
        writer.finish()
    return open_dataset(str(folder))


def write_datasets(folder: Path) -> dict[str, Dataset]:
    """Write a dataset for each task; all tasks without one learn from heights."""
    return {
        "heights": write_dataset(folder / "heights", chips=22, val_share=0.2),
        "tiles": write_tiles(folder / "tiles"),
        "classes": write_class_dataset(folder / "classes", 24, 0.25),
    }


def config_of(
    task: str, datasets: dict[str, Dataset], backbone: Path, out: Path | str, **more: Any
) -> TrainConfig:
    """Options of a run of two epochs; a task that `datasets` does not name takes those of heights."""
    options = {**TASKS[task], **more}
    if "token_store" in options:
        options["token_store"] = str(backbone.parent / "tokens")
    if task == "tiles":
        options |= {"recipe": "treeline"}
    dataset = datasets.get(task, datasets["heights"])
    return small_config(dataset, backbone, str(out), tune="frozen", decoder="linear", **options)


class Unfinished(RunWriter):
    """Writes a run's folder, and is killed before it makes checkpoints whole, or after an epoch."""

    def __init__(self, config: TrainConfig, fit: Fit, epochs: int = 0) -> None:
        super().__init__(
            run_options(config, fit.learning.dataset, fit.learning.ranks.device), lambda count, note="": None
        )
        self._epochs = epochs

    def save(self, fit: Fit) -> None:
        super().save(fit)
        if fit.position.seen == 0 and fit.position.epoch == self._epochs:
            self._background.wait()
            raise Stopped


def unfinished(config: TrainConfig, epochs: int = 0) -> Fit:
    """Train, but do not end the run; stop after this many epochs, or at the last one."""
    fit = resumed_fit(config, Ranks())
    try:
        with Unfinished(config, fit, epochs) as writer:
            fit.run(writer)
    except Stopped:
        pass
    return fit


def files_of(run: Path | str) -> dict[str, bytes]:
    """What a run leaves, but TensorBoard's log, which tells the time, and what names the folder."""
    return {
        name: read_bytes(join(str(run), name))
        for name in find_files(str(run))
        if not name.startswith("tensorboard/") and name not in ("config.yaml", "failing-0.json")
    }
