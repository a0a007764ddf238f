"""The probe: neighbours are the nearest, and classes are told apart by a regression made for classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from regressors import CHIP_SCHEMA, visible_chip

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.pretrain.probe import Probe, neighbours, probe_tiles

GENERATOR = np.random.default_rng(5)


def test_neighbours_are_the_nearest_by_angle() -> None:
    angle_N = np.linspace(0, np.pi, 60)
    features_NF = np.stack([np.cos(angle_N), np.sin(angle_N)], 1) * GENERATOR.uniform(0.1, 9, (60, 1))
    is_train_N = np.arange(60) != 30
    predicted = neighbours(features_NF, angle_N[:, None], is_train_N)
    near = np.sort(np.abs(np.delete(angle_N, 30) - angle_N[30]))[:20]
    chosen = np.abs(np.delete(angle_N, 30) - angle_N[30]) <= near[-1]
    np.testing.assert_allclose(predicted, np.delete(angle_N, 30)[chosen].mean(), rtol=1e-6)


def write_classes(folder: Path, class_of: Callable[[int], int], count: int = 120) -> Dataset:
    """Half of the tiles to fit on, half to score on."""
    attributes = {"cover": "string"}
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 60, attributes=attributes) as writer:
        for number in range(count):
            chip = visible_chip(number)
            chip.attributes.clear()
            chip.attributes["cover"] = ("bog", "fen", "forest")[class_of(number)]
            writer.add(chip, "train" if number < count // 2 else "val")
        writer.finish()
    return open_dataset(str(folder))


def test_a_class_whose_tokens_lie_between_those_of_two_others_is_found(tmp_path: Path) -> None:
    dataset = write_classes(tmp_path, lambda number: number % 3)
    tiles = probe_tiles(dataset, "cover", 60)
    assert tiles.size == 120
    kinds_N = dataset.index["cover"].take(tiles).to_pylist()
    between_N = np.array([("bog", "fen", "forest").index(kind) for kind in kinds_N])
    features_NF = np.stack([between_N + GENERATOR.normal(0, 0.1, 120), GENERATOR.normal(size=120)], 1)
    scores = Probe(dataset, tiles, "cover").scored(features_NF, "probe", with_neighbours=False)
    assert scores["probe_error"] < 0.05, "a regression on indicators misses the class between"


def test_classes_that_validation_alone_has_are_refused(tmp_path: Path) -> None:
    dataset = write_classes(tmp_path, lambda number: number % 2 if number < 10 else 2, 20)
    with pytest.raises(InputError, match="no validation tile has one of a training tile"):
        probe_tiles(dataset, "cover", 60)


def test_tokens_that_are_no_numbers_end_the_run(tmp_path: Path) -> None:
    dataset = write_classes(tmp_path, lambda number: number % 2, 20)
    probe = Probe(dataset, probe_tiles(dataset, "cover", 60), "cover")
    with pytest.raises(FloatingPointError, match="the tokens are not numbers any more"):
        probe.scored(np.full((20, 3), np.nan), "probe")
