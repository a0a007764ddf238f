"""An epoch without anything to learn from is an error, not a loss of 0.

With --on-bad-shard skip a shard that is damaged is left out, and a rank whose part is empty computes with a
chip that stands in. If that is all there was, on all ranks, all of them end with the same error, and no state
says that the epoch's chips were seen. If other ranks or other shards have chips, training goes on.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classes import write_class_dataset
from gloo_ranks import in_group, run_ranks
from in_process import treeline
from pretrainings import config_of
from regressors import CHIP_SCHEMA, local_backbone, small_config, visible_chip, write_dataset

from shards.errors import DatasetError
from shards.format.key import split_of
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import global_batches, rank_part
from shards.write.writer import DatasetWriter
from trainer.commands.pretrain import pretrain
from trainer.commands.train import train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks

SMALL = ("--batch-size", "4", "--epochs", "1", "--checkpoint-steps", "1", "--on-bad-shard", "skip")
HEIGHTS = ("train", "--recipe", "tiny", "--decoder-widths", "8", "8", "8", "8")
BEFORE = ("pretrain", "--width", "24", "--depth", "1", "--recipe")
COMMANDS = {
    "heights": HEIGHTS,
    "classes": (*HEIGHTS, "--task", "pixel-class"),
    "tiles": ("train", "--backbone", "tiny", "--task", "tile-value", "--label", "brightness"),
    "mae": (*BEFORE, "mae-tiny", "--decoder-width", "24"),
    "dino": (*BEFORE, "dino-tiny", "--patch-size", "8"),
    "ibot": (*BEFORE, "dino-tiny", "--patch-size", "8", "--ibot", "0.5", "--koleo", "0.3"),
}
BEFORE_NAMES = ("mae", "dino", "ibot")
BASELINES_FIRST = {
    "classes": "no pixel of the training chips has a class",
    "tiles": "no training tile has a valid patch",
}
"""What is said where baselines that need chips are fitted before the first step."""


def write_labelled(folder: Path) -> Dataset:
    """24 tiles with a number each."""
    columns = {"brightness": "float64"}
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10, attributes=columns) as writer:
        for number in range(24):
            chip = visible_chip(number)
            chip.attributes["brightness"] = float(chip.image_CHW.mean())
            writer.add(chip, split_of(chip.key, 0.0))
        writer.finish()
    return open_dataset(str(folder))


def dataset_for(name: str, folder: Path) -> Dataset:
    if name == "classes":
        return write_class_dataset(folder, 24, 0.0)
    return write_labelled(folder) if name == "tiles" else write_dataset(folder, chips=24)


def damage(dataset: Dataset, shards: slice = slice(None), split: str = "train") -> dict[Path, bytes]:
    """Change a byte of each chip in these shards of a split; returns what they were."""
    whole = {}
    for shard in dataset.manifest.shards_of(split)[shards]:
        path = Path(dataset.url, shard.name)
        whole[path] = path.read_bytes()
        path.write_bytes(bytes(byte ^ 1 for byte in whole[path]))
    return whole


@pytest.mark.parametrize("name", COMMANDS)
def test_training_on_damaged_shards_alone_is_one_line_and_goes_on_once_they_are_mended(
    name: str, tmp_path: Path
) -> None:
    dataset = dataset_for(name, tmp_path / "chips")
    arguments = (*COMMANDS[name], *SMALL, "--data", dataset.url, "--out")
    done = treeline(*arguments, str(tmp_path / "undisturbed"))
    assert done.returncode == 0, done.stderr
    whole, out = damage(dataset), tmp_path / "run"
    done = treeline(*arguments, str(out))
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"treeline: failed: DatasetError: {dataset.url}: ")
    what, first = BASELINES_FIRST.get(name, "nothing to learn from"), next(iter(whole))
    shards = f"{len(whole)} damaged shards ({first.relative_to(dataset.url)}, ...)"
    assert f"{what}: left out {shards}; mend what treeline verify {dataset.url} names" in last
    assert last.count(str(dataset.url)) == 2
    assert last.endswith(f"no state was saved in {out} yet: --resume auto begins there once that is mended")
    said = [line for line in done.stderr.splitlines() if "left out a bad shard" in line]
    assert len(said) == len(set(said)) == len(whole)
    if name not in BEFORE_NAMES:
        assert done.stderr.index("trains on") < done.stderr.index(said[0])
    assert not (out / "checkpoints.json").exists()
    for path, data in whole.items():
        path.write_bytes(data)
    done = treeline(*arguments, str(out), "--resume", "auto")
    assert done.returncode == 0, done.stderr
    records = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("run", "undisturbed")]
    assert records[0] == records[1]


def test_a_second_epoch_of_damaged_shards_goes_on_from_the_end_of_the_first(tmp_path: Path) -> None:
    dataset, backbone = write_dataset(tmp_path / "chips", 24), local_backbone(tmp_path / "backbone")
    config = small_config(
        dataset, backbone, str(tmp_path / "run"), on_bad_shard="skip", checkpoint_steps=1, epochs=1
    )
    train(config.with_options(epochs=2, out=str(tmp_path / "undisturbed")), Ranks())
    train(config.with_options(epochs=1), Ranks())
    whole = damage(dataset)
    again = config.with_options(epochs=2, resume="auto")
    with pytest.raises(DatasetError, match="epoch 2 had nothing to learn from"):
        train(again, Ranks())
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["position"]["epoch"], state["position"]["seen"]) == (1, 0)
    for path, data in whole.items():
        path.write_bytes(data)
    train(again, Ranks())
    records = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("run", "undisturbed")]
    assert len(records[0].splitlines()) == 2
    assert json.loads(records[0].splitlines()[1])["chips"] == 48


def test_damaged_validation_chips_are_said_before_an_epoch_is_spent(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "chips", 24, val_share=0.4)
    whole, out = damage(dataset, split="val"), tmp_path / "run"
    done = treeline(*HEIGHTS, *SMALL, "--data", dataset.url, "--out", str(out), "--resume", "auto")
    assert done.returncode == 1
    *_, left_out, last = done.stderr.splitlines()
    assert left_out.startswith("treeline: left out a bad shard: ")
    shards = f"left out {len(whole)} damaged shards ({next(iter(whole)).relative_to(dataset.url)}, ...); "
    assert f"DatasetError: {dataset.url}: no validation chip can be read: {shards}" in last
    assert last.endswith(f"no state was saved in {out} yet: --resume auto begins there once that is mended")
    assert not (out / "state.json").exists()
    assert "epoch 1" not in done.stderr
    for path, data in whole.items():
        path.write_bytes(data)
    done = treeline(*HEIGHTS, *SMALL, "--data", dataset.url, "--out", str(out), "--resume", "auto")
    assert done.returncode == 0, done.stderr


def test_one_whole_shard_is_enough(tmp_path: Path) -> None:
    dataset, backbone = write_dataset(tmp_path / "chips", 24), local_backbone(tmp_path / "backbone")
    damage(dataset, slice(1, None))
    train(small_config(dataset, backbone, str(tmp_path / "run"), on_bad_shard="skip", epochs=1), Ranks())
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["loss"] > 0


def test_images_without_a_pixel_are_nothing_to_learn_from_either(tmp_path: Path) -> None:
    with DatasetWriter(str(tmp_path / "chips"), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        for number in range(12):
            chip = visible_chip(number)
            # The image is there where the height is missing, and the other way round.
            chip.height_HW[:16] = np.nan
            chip.image_CHW[:, 16:] = CHIP_SCHEMA.nodata
            writer.add(chip, "train")
        writer.finish()
    dataset, backbone = open_dataset(str(tmp_path / "chips")), local_backbone(tmp_path / "backbone")
    with pytest.raises(DatasetError, match="no chip that was read has both an image and a value; see treeli"):
        train(small_config(dataset, backbone, str(tmp_path / "run"), epochs=1), Ranks())


# --- several ranks ---


def write_single(folder: Path) -> Dataset:
    """Eight chips, each in a shard of its own, so that ranks read different shards."""
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 1) as writer:
        for number in range(8):
            writer.add(visible_chip(number), "train")
        writer.finish()
    return open_dataset(str(folder))


def end_alike(rank: int, folder: Path, configs: list[Any]) -> None:
    """In a process of its own: one of two ranks, which writes down how each training ends."""

    def work(ranks: Ranks) -> None:
        for config in configs:
            name = Path(config.out).name
            ending = "done"
            try:
                (train if isinstance(config, TrainConfig) else pretrain)(config, ranks)
            except DatasetError as error:
                ending = str(error).partition("--on-bad-shard")[0]
            (folder / f"{name}-{rank}").write_text(ending)

    in_group(rank, 2, folder / "rendezvous", work)


@pytest.mark.slow
def test_all_ranks_end_alike(tmp_path: Path) -> None:
    """Where all shards are damaged, and where all are that one of two ranks reads."""
    backbone, small = local_backbone(tmp_path / "backbone"), {"on_bad_shard": "skip", "epochs": 1}
    one, none = (write_single(tmp_path / name) for name in ("one", "none"))
    order = one.epoch(one.chips("train"), 0, 0)
    parts = [rank_part(batch, start, 1, 2) for start, batch in global_batches(order, 4)]
    of_rank_1 = one.shard_of(np.concatenate(parts))
    assert of_rank_1.size == 4
    for number in of_rank_1.tolist():
        damage(one, slice(number, number + 1))
    damage(none)
    configs = [
        *(small_config(each, backbone, each.url + "-run", batch_size=4, **small) for each in (one, none)),
        config_of(none, "dino", tmp_path / "dino-run", **small, probe=""),
    ]
    run_ranks(end_alike, 2, (tmp_path, configs))
    endings = [
        [(tmp_path / f"{name}-run-{rank}").read_text() for rank in (0, 1)] for name in ("one", "none", "dino")
    ]
    assert endings[0] == ["done", "done"]
    for ending in endings[1:]:
        # Each names the shards that it read itself.
        assert len({re.sub(r"left out .*?\)", "", text) for text in ending}) == 1
        assert "epoch 1 had nothing to learn from" in ending[0]
