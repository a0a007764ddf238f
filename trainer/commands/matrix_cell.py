"""One cell of a matrix: a training, and its predictions for the test tiles of all regions. No Ray here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from shards.errors import DatasetError, InputError, one_line
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips
from shards.roles import own_path
from shards.said import say
from shards.storage.objects import join, publish
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.commands.train import resumed_fit
from trainer.config import TrainConfig
from trainer.data.feed import feed
from trainer.data.pixel_classes import NO_CLASS, PixelClasses
from trainer.devices.cards import usable
from trainer.devices.choice import Kind
from trainer.devices.precision import predicting
from trainer.devices.ranks import Ranks
from trainer.evaluate.classes import check_chips, predict_classes
from trainer.evaluate.tiles import labels_for, predict_tiles
from trainer.fit.heights import measured_heights
from trainer.matrix.cell_file import PREDICTORS, CellResult, right_column
from trainer.matrix.plan import Cell
from trainer.matrix.regions import Region, blocks_of
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.run_folder.epoch_rate import EpochRate
from trainer.run_folder.run_files import remove_run
from trainer.run_folder.run_writer import RunOptions, RunWriter, run_options
from trainer.score.baselines import MEAN
from trainer.score.tile_baselines import MODEL, RIDGE

FAILURES = (FloatingPointError, torch.OutOfMemoryError, InputError, DatasetError)
"""Errors that a cell can have and others need not: it is listed as failed, and the others continue."""
BATCH = 64
"""Tiles at a time where nothing is learnt."""


@dataclass(frozen=True)
class CellJob:
    """A cell with all that it needs, on any machine."""

    cell: Cell
    training: TrainConfig
    regions: list[Region]
    out: str
    """Folder of the matrix."""
    keep_checkpoint: bool
    device: Kind = "cpu"
    """Kind of device to compute on."""


def run_cell(job: CellJob) -> str:
    """Train a cell, from its last state if there is one, test it, and publish its file.

    Returns:
        "", or why it failed, in one line.
    """
    try:
        with _one_thread():
            about = _trained(job)
            with predicting("float32"):
                result = _tested(job, about)
    except FAILURES as error:
        return f"{type(error).__name__}: {one_line(error)}"
    except Exception as error:
        error.add_note(f"in the cell {job.cell.title}")
        raise
    publish(join(job.out, job.cell.file), result.to_bytes())
    if not job.keep_checkpoint:
        remove_run(job.training.out)
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: with another number, sums have other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _CellWriter(RunWriter):
    """Writes the run's folder and says nothing: a matrix has hundreds of trainings."""

    def __init__(self, options: RunOptions) -> None:
        super().__init__(options, advance=lambda count, note="": None)

    def _print(self, line: str, rate: EpochRate, epoch: int, seconds: float) -> None:
        pass


def _trained(job: CellJob) -> dict[str, Any]:
    """Train to the end; return facts about the training."""
    ranks = Ranks(device=usable(job.device))
    with saying_what_to_set(job.training, ranks):
        fit = resumed_fit(job.training, ranks)
        dataset = fit.learning.dataset
        with _CellWriter(run_options(job.training, dataset, ranks.device)) as writer:
            fit.run(writer)
            if job.keep_checkpoint:
                writer.finish(fit)
    for trouble in dataset.troubles():
        say(f"{job.cell.title}: {trouble}")
    best = min(fit.records, key=fit.objective.standing)
    return {"labels": int(np.unique(fit.learning.train_chips).size), "best": best}


def _tested(job: CellJob, about: dict[str, Any]) -> CellResult:
    """Predict the test tiles of all regions with the best checkpoint."""
    ways: dict[str, tuple[Any, Any]] = {
        "height": (load_checkpoint, _heights),
        "pixel-class": (load_class_checkpoint, _classes),
        "tile-value": (load_tile_checkpoint, _labels),
        "tile-class": (load_tile_checkpoint, _labels),
    }
    load, columns_of = ways[job.training.target.task]
    trust = own_path(job.training.model.decoder)  # it was trained here, with this decoder
    checkpoint, device = load(job.training.out, trust=trust), usable(job.device)
    datasets: dict[str, Dataset] = {}
    tables = []
    for region in job.regions:
        if region.data not in datasets:
            datasets[region.data] = open_dataset(region.data, job.training.reading.read_options)
        dataset = datasets[region.data]
        tiles = region.tiles(dataset, "test")
        met, columns = columns_of(checkpoint, dataset, tiles, device)
        if not met.size:
            raise DatasetError(f"{region.data}: no test tile of {region.name} can be scored; see its labels")
        facts = {
            "key": dataset.index["key"].take(met).combine_chunks(),
            "tested_on": pa.array([region.name] * met.size),
            "block": pa.array(blocks_of(dataset, met)),
        }
        tables.append(pa.table({**facts, **columns}))
    return CellResult(pa.concat_tables(tables), {"cell": vars(job.cell), **about})


def _labels(
    checkpoint: Any, dataset: Dataset, tiles: Chips, device: torch.device
) -> tuple[Chips, dict[str, Any]]:
    """Predict labels of tiles; return those that were met, and columns of the cell's file."""
    labels = labels_for(checkpoint, dataset, tiles)
    found = predict_tiles(checkpoint, dataset, labels.labelled(tiles), device, BATCH)
    if not found.tiles.size:
        return found.tiles, {}
    values = {"truth": labels.values_N[found.tiles]}
    names = zip(PREDICTORS, (MODEL, RIDGE, MEAN), strict=True)
    values |= {column: found.predicted[name] for column, name in names}
    columns: dict[str, Any] = {
        name: pa.array([labels.classes[int(value)] for value in values_N] if labels.classes else values_N)
        for name, values_N in values.items()
    }
    return found.tiles, {**columns, "pixels": pa.array(np.ones(found.tiles.size, np.int64))}


def _heights(
    checkpoint: Any, dataset: Dataset, tiles: Chips, device: torch.device
) -> tuple[Chips, dict[str, Any]]:
    """Add up errors of predicted heights, chip by chip; see `_labels`."""
    regressor, baselines = checkpoint.regressor.to(device), checkpoint.baselines
    met: list[int] = []
    rows: list[dict[str, float]] = []
    for fed in feed(dataset.batches(tiles, BATCH), dataset.schema, device):
        predicted_BHW, valid_BHW = regressor.predict(fed.image_BCHW)
        measured_BHW = measured_heights(fed, valid_BHW).cpu().numpy()
        linear_BHW = baselines.linear(fed.image_BCHW.cpu().numpy())
        compared = (predicted_BHW.cpu().numpy(), linear_BHW, np.full_like(linear_BHW, baselines.mean_height))
        for place, chip in enumerate(fed.batch.chips.tolist()):
            known_HW = np.isfinite(measured_BHW[place])
            if known_HW.any():
                met.append(chip)
                heights = [one_BHW[place][known_HW].astype(np.float64) for one_BHW in compared]
                if not np.isfinite(heights[0]).all():
                    raise FloatingPointError("a predicted height is not a number; lower --learning-rate")
                rows.append(_height_row(measured_BHW[place][known_HW].astype(np.float64), *heights))
    return _in_order(met, rows)


def _classes(
    checkpoint: Any, dataset: Dataset, tiles: Chips, device: torch.device
) -> tuple[Chips, dict[str, Any]]:
    """Count the pixels whose class is right, chip by chip; see `_labels`."""
    check_chips(checkpoint, dataset)
    classes = PixelClasses(checkpoint.model.to(device).schema, dataset)
    met: list[int] = []
    rows: list[dict[str, float]] = []
    for fed in feed(dataset.batches(tiles, BATCH), dataset.schema, device):
        place_BHW, compared = predict_classes(checkpoint, classes, fed)
        pixels_B = (place_BHW != NO_CLASS).sum((1, 2)).cpu()
        right = [(one_BHW == place_BHW).sum((1, 2)).cpu() for one_BHW in compared]
        for place, chip in enumerate(fed.batch.chips.tolist()):
            if pixels_B[place]:
                met.append(chip)
                counts = zip(map(right_column, PREDICTORS), right, strict=True)
                of_chip = {name: int(right_B[place]) for name, right_B in counts}
                rows.append({"pixels": int(pixels_B[place]), **of_chip})
    return _in_order(met, rows)


def _in_order(met: list[int], rows: list[dict[str, float]]) -> tuple[Chips, dict[str, Any]]:
    """Return chips, ascending, and their rows as columns."""
    order = np.argsort(np.array(met, np.int64), kind="stable")
    names = rows[0] if rows else {}
    columns = {name: pa.array([rows[place][name] for place in order]) for name in names}
    return np.array(met, np.int64)[order], columns


def _height_row(measured_N: Any, *predicted: Any) -> dict[str, float]:
    """Return the columns of a chip with these measured pixels (metres), predicted in several ways."""
    values = {"truth": measured_N, **dict(zip(PREDICTORS, predicted, strict=True))}
    squares = {"truth": measured_N, **{name: values[name] - measured_N for name in PREDICTORS}}
    return {
        **{name: float(values_N.mean()) for name, values_N in values.items()},
        "pixels": int(measured_N.size),
        **{f"of_{name}": float((values_N**2).sum()) for name, values_N in squares.items()},
    }
