"""The probe: neighbours are the nearest, and classes are told apart by a regression made for classes."""

from pathlib import Path

import numpy as np
from regressors import CHIP_SCHEMA, visible_chip

from shards.read.dataset import open_dataset
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


def test_a_class_whose_tokens_lie_between_those_of_two_others_is_found(tmp_path: Path) -> None:
    class_N = np.arange(120) % 3
    attributes = {"cover": "string"}
    with DatasetWriter(str(tmp_path), CHIP_SCHEMA, {"command": "test"}, 60, attributes=attributes) as writer:
        for number in range(120):
            chip = visible_chip(number)
            chip.attributes.clear()
            chip.attributes["cover"] = ("bog", "fen", "forest")[class_N[number]]
            writer.add(chip, "train" if number < 60 else "val")
        writer.finish()
    dataset = open_dataset(str(tmp_path))
    tiles = probe_tiles(dataset, "cover", 60)
    assert tiles.size == 120
    kinds_N = dataset.index["cover"].take(tiles).to_pylist()
    between_N = np.array([("bog", "fen", "forest").index(kind) for kind in kinds_N])
    features_NF = np.stack([between_N + GENERATOR.normal(0, 0.1, 120), GENERATOR.normal(size=120)], 1)
    scores = Probe(dataset, tiles, "cover").scored(features_NF, "probe", with_neighbours=False)
    assert scores["probe_error"] < 0.05, "a regression on indicators misses the class between"
