"""`treeline matrix`: trainings on each region, tested on all, as one job that resumes. No Ray here.

    matrix.yaml            the options, with which alone it resumes
    cells/0001-....parquet what each finished cell left (trainer.matrix.cell_file)
    runs/0001-.../         trainings under way; with --keep-checkpoints, of all cells
    matrix.json            scores with intervals, paired differences, the verdict
    predictions.parquet    a row for each test tile and cell
    index.html             the same as a page

Results hold no times and no places: the same bytes come out on any number of workers, whatever was stopped.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from shards.errors import InputError
from shards.format.manifest import understood, write_json
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.roles import differing, flag_of
from shards.said import say
from shards.storage.objects import (
    check_writable,
    exists,
    find_files,
    join,
    name_of,
    publish,
    remove_empty_folders,
    remove_unfinished,
    staged,
)
from shards.storage.one_writer import one_writer
from shards.version import made_by_code
from trainer.commands.matrix_cell import CellJob, run_cell
from trainer.commands.train_check import check
from trainer.commands.train_tiles import labelled_tiles, labels_of
from trainer.config import TrainConfig
from trainer.devices.choice import Kind
from trainer.matrix.cell_file import BlockSums, CellResult, block_sums, read_cell
from trainer.matrix.page import page_of
from trainer.matrix.plan import RUNS, SET_HERE, Cell, Init, Plan, check_choices, inits_of, refuse_set_here
from trainer.matrix.regions import regions_of
from trainer.matrix.results import Results
from trainer.matrix.scores import measure_of
from trainer.matrix_config import RANDOM, MatrixConfig
from trainer.model.checkpoint import checkpoint_url
from trainer.model.load_encoder import load_encoder
from trainer.model.make import new_class_model, new_regressor, new_tile_model
from trainer.model.pretrained import is_pretrained, pretrained_bands
from trainer.model.tile_model import TileHead, unit_of
from trainer.options import OF_TILES
from trainer.run_folder.options_file import DAMAGED, read_options
from trainer.run_folder.run_files import remove_run
from trainer.run_folder.run_writer import as_yaml, plain
from trainer.score.baselines import MEAN
from trainer.score.class_baselines import COMMONEST
from trainer.score.evaluation import LINEAR
from trainer.score.tile_baselines import RIDGE

OPTIONS, MATRIX, PREDICTIONS, PAGE = "matrix.yaml", "matrix.json", "predictions.parquet", "index.html"

Done = Callable[[CellJob, str], None]
"""done(job, why): this cell has ended; `why` it failed, or ""."""
RunCells = Callable[[list[CellJob], int, Done], None]
"""run(jobs, workers, done): function that runs cells, in any order."""


def matrix(plan: Plan, datasets: dict[str, Dataset], run_cells: RunCells, device: Kind = "cpu") -> Results:
    """Train and test what is missing of a matrix, by `run_cells`, and write what came of it.

    Args:
        plan: the matrix, checked.
        datasets: its datasets, opened, by URL; see `check_matrix`.
        run_cells: `cells_here`, or `trainer.commands.matrix_on_ray.cells_on_ray`.
        device: kind of device on which cells compute.

    Raises:
        RuntimeError: no cell has a result.
        InputError: another command writes at --out.
    """
    with one_writer(plan.config.out):
        _check_resumes(plan, datasets)  # again: another command may have begun a matrix there meanwhile
        return _matrix(plan, datasets, run_cells, device)


def _matrix(plan: Plan, datasets: dict[str, Dataset], run_cells: RunCells, device: Kind) -> Results:
    """Make what is missing, in a folder that only this process writes."""
    config = plan.config
    remove_unfinished(config.out)
    if not exists(join(config.out, OPTIONS)):
        publish(join(config.out, OPTIONS), as_yaml(_stored(plan, datasets)).encode())
    missing = [cell for cell in plan.cells if not exists(join(config.out, cell.file))]
    jobs = [
        CellJob(cell, plan.training(cell), plan.regions, config.out, config.keep_checkpoints, device)
        for cell in missing
    ]
    failed: dict[Cell, str] = {}
    before = len(plan.cells) - len(missing)
    with progress("matrix", len(plan.cells), "cells", before) as advance:

        def done(job: CellJob, why: str) -> None:
            if why:
                failed[job.cell] = why
                say(f"cell {job.cell.title}: failed: {why}")
            advance(1, job.cell.title)

        run_cells(jobs, config.workers, done)
    if not failed and not config.keep_checkpoints:
        _remove_runs(plan)
    in_order = sorted(failed.items(), key=lambda item: item[0].number)
    if len(failed) == len(plan.cells):
        raise RuntimeError(f"{config.out}: no cell has a result; the first: {in_order[0][1]}")
    return _write(plan, datasets, {cell.title: why for cell, why in in_order})


def _remove_runs(plan: Plan) -> None:
    """Remove the runs of cells that were killed between the cell's file and the removal of its run."""
    runs = join(plan.config.out, RUNS)
    there = {name.partition("/")[0] for name in find_files(runs)}
    for cell in plan.cells:
        if cell.name in there:
            remove_run(join(runs, cell.name))
    remove_empty_folders(runs)


def cells_here(jobs: list[CellJob], workers: int, done: Done) -> None:
    """Run the cells in this process, one after the other."""
    for job in jobs:
        done(job, run_cell(job))


def check_matrix(
    config: MatrixConfig, base: TrainConfig, named: dict[str, object], device: Kind | None = None
) -> tuple[Plan, dict[str, Dataset]]:
    """Find the user's mistakes before anything is started or written; return the plan and its datasets.

    Args:
        config: the options.
        base: options that all trainings have in common.
        named: those of them that the user's file names.
        device: kind of device on which this process is to train; None: others train.

    Raises:
        InputError: options that make no matrix, regions without labels, or --out is in use.
    """
    check_choices(config)
    if base.fit.precision == "auto":
        raise InputError(f"{config.train_config}: precision auto: all trainings need one; give --precision")
    if base.fit.minutes:
        raise InputError(
            f"{config.train_config}: minutes: trainings to compare need one length; give --epochs"
        )
    refuse_set_here(named, config.train_config)
    # The same on every device: cells are compared with one another, also with those of earlier versions.
    base = base.with_options(batch_size=base.fit.batch_size or base.fit.batch_on_cpu)
    inits = [_known(init, "bands" in named) for init in inits_of(config)]
    datasets = {url: open_dataset(url, base.reading.read_options) for url in config.data}
    plan = Plan(config, base, regions_of(list(datasets.values()), config.region_column), inits)
    _check_resumes(plan, datasets)
    if config.task in OF_TILES:
        _check_labels(plan, datasets)
    if config.task == "pixel-class":
        _check_classes(list(datasets.values()))
    for region in plan.regions:
        cell = next(cell for cell in plan.cells if cell.trained_on == region.name)
        for init in inits:
            _check_model(plan.training(replace(cell, init=init.name)), datasets[region.data], device)
    check_writable(config.out)
    return plan, datasets


def _known(init: Init, names_bands: bool) -> Init:
    """Find the checkpoint that an init means, and its bands unless the user named some."""
    if init.backbone == "tiny":
        return init
    if not is_pretrained(init.backbone):
        raise InputError(
            f"--init {init.name}={init.backbone}: is no pre-training run; give a folder that treeline "
            f"pretrain wrote, or {init.name}={RANDOM}"
        )
    url = checkpoint_url(init.backbone)
    return replace(init, backbone=url, bands=() if names_bands else pretrained_bands(url))


def _check_model(training: TrainConfig, dataset: Dataset, device: Kind | None) -> None:
    """Refuse what training itself refuses, and a backbone that does not go with the tiles."""
    check(training, device)
    options = training.model
    if options.backbone != "tiny":
        options = replace(options, backbone_weights="random")
    with torch.device("meta"):  # takes neither memory nor time
        if training.target.is_of_tiles:
            new_tile_model(dataset, options, TileHead(training.target.label, training.target.head))
        elif training.target.task == "pixel-class":
            new_class_model(dataset, options)
        else:
            new_regressor(dataset, options)


def _check_classes(datasets: list[Dataset]) -> None:
    """Refuse datasets whose pixels have other classes than those of the first."""
    first = datasets[0]
    for dataset in datasets:
        ours, theirs = ((one.schema.label, one.schema.class_names) for one in (first, dataset))
        if ours != theirs:
            said = (f"{label} ({', '.join(name for _, name in names)})" for label, names in (theirs, ours))
            raise InputError(
                f"{dataset.url}: its pixels have {next(said)}, and those of {first.url} have {next(said)}; a "
                "matrix needs the same classes in all"
            )


def _check_labels(plan: Plan, datasets: dict[str, Dataset]) -> None:
    """Refuse cells with too few labels, or the same one everywhere, and regions without labels to test on."""
    config = plan.config
    first = plan.training(plan.cells[0])
    labels = {url: labels_of(first, dataset) for url, dataset in datasets.items()}
    for url, of_dataset in labels.items():
        if of_dataset.classes != labels[config.data[0]].classes:
            raise InputError(
                f"--label {config.label}: {url} has the classes {', '.join(of_dataset.classes)}, and "
                f"{config.data[0]} has {', '.join(labels[config.data[0]].classes)}; a matrix needs the same "
                "in all, so make one dataset of them and give --region-column"
            )
    for region in plan.regions:
        tiles = region.tiles(datasets[region.data], "test")
        if not labels[region.data].labelled(tiles).size:
            raise InputError(
                f"{region.data}: no test tile of region {region.name} has a label {config.label}; label "
                "them, or leave the region out"
            )
    seen = set()
    for cell in plan.cells:
        if (cell.trained_on, cell.limit, cell.draw) in seen:
            continue
        seen.add((cell.trained_on, cell.limit, cell.draw))
        training = plan.training(cell)
        try:
            labelled_tiles(training, datasets[training.data], labels[training.data])
        except InputError as error:
            raise InputError(f"trained on {cell.trained_on}: {error}") from error


def _stored(plan: Plan, datasets: dict[str, Dataset]) -> dict[str, Any]:
    """Return the options and what they stand for, as plain YAML values."""
    started = {
        init.name: RANDOM if init.is_random else load_encoder(init.backbone, with_weights=False).fingerprint
        for init in plan.inits
    }
    return {
        **plain(plan.config),
        "train": {name: value for name, value in plain(plan.base).items() if name not in ("data", "out")},
        "inits": started,
        "fingerprints": {url: dataset.manifest.fingerprint for url, dataset in datasets.items()},
    }


def _check_resumes(plan: Plan, datasets: dict[str, Dataset]) -> None:
    """Refuse --out with a matrix of other options.

    Raises:
        InputError: says which options differ, and what to do.
    """
    url = join(plan.config.out, OPTIONS)
    if not exists(url):
        return
    old, new = read_options(url), yaml.safe_load(as_yaml(_stored(plan, datasets)))
    with understood(url, DAMAGED):
        parts = [
            {name: values.pop(name) for name in ("train", "inits", "fingerprints")} for values in (old, new)
        ]
        tiles = [list(part["fingerprints"].values()) for part in parts]
        # The same datasets and weights may have other names, for example from another folder.
        regions = [list(map(name_of, values["data"])) for values in (old, new)]
    if tiles[0] == tiles[1] and (len(tiles[0]) == 1 or regions[0] == regions[1]):
        old["data"] = new["data"]
    if parts[0]["inits"] == parts[1]["inits"]:
        old["init"] = new["init"]
    differ = [flag_of(name) for name in differing(MatrixConfig, old, new)]
    differ += [
        f"{name} of --train-config"
        for name in differing(TrainConfig, parts[0]["train"], parts[1]["train"])
        if name not in SET_HERE
    ]
    if not differ:
        differ += ["the weights of --init"] if parts[0]["inits"] != parts[1]["inits"] else []
        differ += ["the tiles of --data"] if tiles[0] != tiles[1] else []
    if differ:
        raise InputError(
            f"{plan.config.out}: holds a matrix with other options ({', '.join(differ)}); give the same, or "
            "choose another --out"
        )


def _write(plan: Plan, datasets: dict[str, Dataset], failed: dict[str, str]) -> Results:
    """Write the results of all finished cells."""
    config = plan.config
    sums: dict[int, dict[str, BlockSums]] = {}
    labels: dict[int, int] = {}
    with staged(join(config.out, PREDICTIONS)) as path:
        writer = None
        for cell in plan.cells:
            if cell.title in failed:
                continue
            result = read_cell(join(config.out, cell.file))
            sums[cell.number] = {
                region.name: block_sums(result.tiles, region.name) for region in plan.regions
            }
            labels[cell.number] = result.about["labels"]
            rows = _rows(cell, result)
            writer = writer or pq.ParquetWriter(path, rows.schema)
            writer.write_table(rows)
        if writer:
            writer.close()
    unit, label = unit_of(config.label), config.label
    baselines = {"ridge": RIDGE, "mean": MEAN}
    if config.task == "height":
        unit, label, baselines = "m", "height", {"ridge": LINEAR, "mean": MEAN}
    elif config.task == "pixel-class":
        label, baselines = datasets[config.data[0]].schema.label, {"ridge": LINEAR, "mean": COMMONEST}
    results = Results.of(plan, measure_of(config.task, unit), baselines, sums, labels, failed)
    about = {
        "label": label,
        "task": config.task,
        "tune": list(config.tune),
        "limit": list(config.limit),
        "draws": config.draws,
        "inits": [{"name": init.name, "is_random": init.is_random} for init in plan.inits],
        "fingerprints": [dataset.manifest.fingerprint for dataset in datasets.values()],
        **made_by_code(),
    }
    write_json(join(config.out, MATRIX), {**results.to_json(), "about": about})
    publish(join(config.out, PAGE), page_of(results, label).encode())
    return results


def _rows(cell: Cell, result: CellResult) -> pa.Table:
    """Return the rows of predictions.parquet that a cell adds."""
    table = result.tiles
    facts = {name: getattr(cell, name) for name in ("trained_on", "init", "tune")}
    facts |= {"limit": str(cell.limit), "draw": cell.draw}
    added = {name: pa.repeat(pa.scalar(value), table.num_rows) for name, value in facts.items()}
    names = ["key", *added, *(name for name in table.column_names if name != "key")]
    columns = {**dict(zip(table.column_names, table.columns, strict=True)), **added}
    return pa.table({name: columns[name] for name in names})
