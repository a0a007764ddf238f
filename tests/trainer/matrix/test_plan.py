"""Cells of a matrix differ in what they are named for, and in nothing else."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from regressors import CHIP_SCHEMA, SMALL_BACKBONE, write_dataset

from shards.errors import InputError
from shards.nested import flat
from shards.read.dataset import open_dataset
from shards.storage.objects import join, publish
from trainer.config import TrainConfig
from trainer.matrix.plan import SET_HERE, Plan, inits_of, refuse_set_here
from trainer.matrix.regions import Region
from trainer.matrix_config import MatrixConfig
from trainer.model.backbone import build_backbone
from trainer.model.make import new_tile_model
from trainer.model.pretrained import Pretrained
from trainer.model.tile_model import TileHead

BANDS = ("nir", "red", "green")


def planned(**changes: Any) -> Plan:
    options: dict[str, Any] = {
        "data": ("tiles",),
        "out": "out",
        "init": ("pretrained=run", "scratch=random"),
        "region_column": "region",
        "label": "tree_percent",
        "draws": 3,
    }
    config = MatrixConfig(**options | changes)
    base = TrainConfig.of("tiles", "out", epochs=7, learning_rate=0.5, seed=99, workers=3)
    regions = [Region(name, "tiles", f"`region` == '{name}'", name) for name in ("a", "b")]
    return Plan(config, base, regions, inits_of(config))


def test_every_combination_is_a_cell_with_a_name_of_its_own() -> None:
    cells = planned().cells
    assert len(cells) == 3 * 2 * 2 * 3 * 3, "sources, inits, tunes, limits, draws"
    assert len({replace(cell, number=0) for cell in cells}) == len(cells)
    assert len({cell.name for cell in cells}) == len({cell.title for cell in cells}) == len(cells)
    assert [cell.number for cell in cells] == list(range(1, len(cells) + 1))
    first = [cell.draw for cell in cells]
    assert first == sorted(first), "first draws of all come first"


def test_two_cells_differ_only_in_the_options_that_they_are_named_for() -> None:
    plan = planned()
    by_name = {
        "trained_on": {"where", "per"},
        "init": {"backbone_weights"},
        "tune": {"tune"},
        "limit": {"limit"},
        "draw": {"label_seed", "seed"},
    }
    trainings = {cell: flat(plan.training(cell)) for cell in plan.cells}
    for one, other in combinations(plan.cells, 2):
        options = [trainings[one], trainings[other]]
        differ = {name for name in options[0] if options[0][name] != options[1][name]} - {"out"}
        named = {name for name in by_name if getattr(one, name) != getattr(other, name)}
        assert differ <= set().union(*(by_name[name] for name in named))
        assert all(differ & by_name[name] for name in named)
    base = flat(plan.base)
    changed = {
        name for training in trainings.values() for name, value in training.items() if value != base[name]
    }
    assert changed <= {*SET_HERE}


def test_limits_hold_for_each_region_also_where_all_are_trained_on() -> None:
    plan = planned()
    of = {cell.trained_on: plan.training(cell) for cell in plan.cells}
    assert of["a"].chips.where == "`region` == 'a'"
    assert (of["all"].chips.where, of["all"].chips.per) == ("`region` in ('a', 'b')", "region")


def test_all_inits_are_compared_with_the_random_one() -> None:
    assert planned(init=("dino=x", "mae=y", "scratch=random")).pairs == [
        ("dino", "scratch"),
        ("mae", "scratch"),
    ]
    assert planned(init=("scratch=random", "mae=y")).pairs == [("mae", "scratch")]
    assert planned(init=("dino=x", "mae=y")).pairs == [("mae", "dino")]
    assert planned(init=("scratch=random",)).pairs == []
    dino, scratch = planned(init=("dino=x", "scratch=random")).inits
    assert (scratch.backbone, scratch.is_random, dino.is_random) == ("x", True, False)
    assert planned(init=("scratch=random",)).inits[0].backbone == "tiny"


def test_a_file_may_not_name_what_a_cell_is_named_for() -> None:
    refuse_set_here({"epochs": 3, "seed": 0, "limit": None}, "train.yaml")
    with pytest.raises(InputError, match=r"train.yaml: names where, seed, which the matrix sets"):
        refuse_set_here({"seed": 1, "where": "a == 1", "epochs": 3}, "train.yaml")


def test_scratch_differs_from_pretrained_in_the_weights_of_the_backbone_alone(tmp_path: Path) -> None:
    """The same shape, bands, statistics and output layer; so the random weights are those of the seed."""
    run, data = write_dataset(tmp_path / "run-tiles", chips=8), write_dataset(tmp_path / "tiles", chips=12)
    torch.manual_seed(5)
    backbone = build_backbone({**SMALL_BACKBONE, "num_channels": 3})
    pretrained = Pretrained("mae", CHIP_SCHEMA, BANDS, run.statistics, {"student": backbone}, {}, {})
    for name, content in pretrained.files().items():
        publish(join(str(tmp_path / "run"), name), content)
    models = []
    for weights in (None, "random", "random"):
        torch.manual_seed(3)
        training = TrainConfig.of("tiles", "out", backbone=str(tmp_path / "run"), backbone_weights=weights)
        models.append(new_tile_model(open_dataset(data.url), training.model, TileHead("height_mean")))
    one, other, again = (model.state_dict() for model in models)
    assert one.keys() == other.keys()
    assert torch.equal(one["output.weight"], other["output.weight"])
    assert all(torch.equal(value, again[name]) for name, value in other.items())
    name = "encoder.backbone.embeddings.patch_embeddings.weight"
    assert torch.equal(one[name], backbone.state_dict()["embeddings.patch_embeddings.weight"])
    assert not torch.equal(one[name], other[name])
    assert models[0].encoder.statistics == models[1].encoder.statistics
    assert models[1].encoder.statistics.bands == run.statistics.bands
