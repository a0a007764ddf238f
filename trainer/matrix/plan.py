"""The cells of a matrix: what each trains on, from which weights, with which labels and seed."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import product

from shards.errors import InputError
from shards.nested import options_of
from shards.storage.objects import join
from trainer.config import TrainConfig
from trainer.matrix.regions import ALL, Region, is_one_of
from trainer.matrix_config import RANDOM, MatrixConfig
from trainer.options import OF_TILES

CELLS, RUNS = "cells", "runs"
"""Folders of a matrix: what finished cells left, and their training runs."""
SET_HERE = (
    *("data", "out", "task", "label", "where", "val_where", "limit", "per", "label_seed", "seed"),
    *("backbone", "backbone_weights", "tune", "deterministic", "resume", "workers", "faithful"),
    *("token_store", "device"),
)
"""Options of training that the matrix sets for each cell."""


def choice_of(limit: int | str) -> str:
    """Say how many labels --limit allows: 1% of labels, or 20 labels."""
    return f"{limit} of labels" if str(limit).endswith("%") else f"{limit} labels"


@dataclass(frozen=True)
class Init:
    """Weights that trainings start from."""

    name: str
    backbone: str
    """Pre-training run, or "tiny"."""
    is_random: bool
    """Whether only the run's shape is taken."""
    bands: tuple[str, ...] = ()
    """Bands of the run; (): those of the options of training."""


@dataclass(frozen=True)
class Cell:
    """One training of a matrix."""

    number: int
    """Number in the plan, from 1."""
    trained_on: str
    """Region, or "all"."""
    init: str
    tune: str
    limit: int | str
    draw: int
    """Seed of the choice of labels and of the training."""

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.trained_on}, {self.init}, {self.tune}, {choice_of(self.limit)}, draw {self.draw}"

    @property
    def name(self) -> str:
        """Name of its file and folder."""
        words = f"{self.trained_on}-{self.init}-{self.tune}-{self.limit}-{self.draw}"
        return f"{self.number:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '', words)}"

    @property
    def file(self) -> str:
        """Name, below the matrix's folder, of the file that it leaves."""
        return f"{CELLS}/{self.name}.parquet"


@dataclass(frozen=True)
class Plan:
    """All that a matrix is to do."""

    config: MatrixConfig
    base: TrainConfig
    """Options that all trainings have in common."""
    regions: list[Region]
    inits: list[Init]

    @property
    def sources(self) -> list[str]:
        """What is trained on: each region, and all of one dataset together."""
        names = [region.name for region in self.regions]
        return [*names, ALL] if self.config.region_column else names

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Inits to be compared: each with the first random one, or else with the first."""
        reference = next((init for init in self.inits if init.is_random), self.inits[0]).name
        return [(init.name, reference) for init in self.inits if init.name != reference]

    @property
    def cells(self) -> list[Cell]:
        """All cells, in their order; the first draws of all come first, so that a look is worth it early."""
        config = self.config
        combined = product(
            range(config.draws), config.limit, self.sources, config.tune, (init.name for init in self.inits)
        )
        return [
            Cell(number, source, init, tune, limit, draw)
            for number, (draw, limit, source, tune, init) in enumerate(combined, 1)
        ]

    def training(self, cell: Cell) -> TrainConfig:
        """Return the options of a cell's training."""
        config = self.config
        init = next(init for init in self.inits if init.name == cell.init)
        if cell.trained_on == ALL:
            values = [region.value for region in self.regions]
            data, where, per = config.data[0], is_one_of(config.region_column, values), config.region_column
        else:
            region = next(region for region in self.regions if region.name == cell.trained_on)
            data, where, per = region.data, region.where, ""
        return self.base.with_options(
            bands=init.bands or self.base.model.bands,
            data=data,
            out=join(config.out, RUNS, cell.name),
            task=config.task,
            label=config.label,
            where=where,
            val_where=None,
            limit=cell.limit,
            per=per,
            label_seed=cell.draw,
            seed=cell.draw,
            backbone=init.backbone,
            backbone_weights=RANDOM if init.is_random and init.backbone != "tiny" else None,
            tune=cell.tune,
            deterministic=True,
            resume="auto",
            workers=0,
        )


def inits_of(config: MatrixConfig) -> list[Init]:
    """Read --init.

    Raises:
        InputError: one has not the form NAME=PLACE, or two have one name.
    """
    named = []
    for given in config.init:
        name, _, place = given.partition("=")
        if not name or not place:
            raise InputError(f"--init {given}: give NAME=RUN, a pre-training run, or NAME={RANDOM}")
        named.append((name, place))
    if not named:
        raise InputError(f"--init: is empty; give NAME=RUN or NAME={RANDOM}")
    _refuse_twice("--init", [name for name, _ in named])
    first = next((place for _, place in named if place != RANDOM), "tiny")
    return [Init(name, first if place == RANDOM else place, place == RANDOM) for name, place in named]


def check_choices(config: MatrixConfig) -> None:
    """Refuse choices that make no matrix.

    Raises:
        InputError: says which option, and what to give.
    """
    for name, least in (("draws", 1), ("workers", 0)):
        if getattr(config, name) < least:
            raise InputError(f"--{name} {getattr(config, name)}: give {least} or more")
    for name in ("data", "tune", "limit"):
        values = list(map(str, getattr(config, name)))
        if not values:
            raise InputError(f"--{name}: is empty; give one or more")
        _refuse_twice(f"--{name}", values)
    if config.task in OF_TILES and not config.label:
        raise InputError("--label: is needed for tiles; give a column of the index, such as tree_percent")


def refuse_set_here(named: dict[str, object], file: str) -> None:
    """Refuse a file of options of training that names one which the matrix sets for each cell.

    Raises:
        InputError: says which.
    """
    options = options_of(TrainConfig)
    wrong = [name for name in SET_HERE if name in named and named[name] != options[name].default]
    if wrong:
        raise InputError(
            f"{file}: names {', '.join(wrong)}, which the matrix sets for each cell; leave "
            f"{'it' if len(wrong) == 1 else 'them'} out"
        )


def _refuse_twice(option: str, values: list[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{option}: {value} is given {count} times; give each once")
