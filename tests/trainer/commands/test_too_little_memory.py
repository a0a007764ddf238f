"""A training for which memory is too small says in one line what to set, and goes on with that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from failing_trainings import failing_at, take_too_much
from in_process import treeline
from regressors import small_config, write_dataset

from shards.read.dataset import Dataset
from trainer.commands.sweep import run_trial
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.pretrain_config import PretrainConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("memory") / "chips", chips=16)


def test_the_line_names_what_was_computed_and_what_to_set(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    config = small_config(dataset, backbone, str(tmp_path / "run"), epochs=1)
    with pytest.raises(torch.OutOfMemoryError) as ended, failing_at(2, take_too_much):
        launch(config)
    assert str(ended.value) == (
        "cpu has too little memory (4503599627370496 bytes more were wanted) for 8 of a batch of 8 at once "
        "(--batch-size 8, --accumulate 1); give --accumulate 2 or --recompute-activations (also with "
        "--resume auto), or a smaller --batch-size or --precision bf16 (with another --out)"
    )
    assert ended.value.__notes__ == ["in epoch 1, step 2"]
    # What it says is so: the run that has begun takes both.
    launch(config.with_options(resume="auto", accumulate=2, recompute_activations=True))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_command_fails_with_that_line(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    options = ["--recipe", "tiny", "--backbone", str(backbone), "--decoder-widths", "32", "16", "16", "16"]
    with failing_at(1, take_too_much):
        done = treeline("train", "--data", dataset.url, "--out", str(tmp_path / "run"), *options)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("treeline: failed: OutOfMemoryError: cpu has too little memory")
    assert "; in epoch 1, step 1" in last


def test_a_trial_that_does_not_fit_is_listed_with_that_line(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    with failing_at(1, take_too_much):
        ending = run_trial(small_config(dataset, backbone, str(tmp_path / "trial")))
    assert ending.kind == "failed"
    assert ending.why.startswith("OutOfMemoryError: cpu has too little memory")


@contextmanager
def said(config: TrainConfig | PretrainConfig, ranks: Ranks, *notes: str) -> Iterator[list[str]]:
    lines: list[str] = []
    error = RuntimeError("CUDA error: out of memory")
    for note in notes:
        error.add_note(note)
    with pytest.raises(torch.OutOfMemoryError) as ended, saying_what_to_set(config, ranks):
        raise error
    lines.append(str(ended.value))
    yield lines


@pytest.mark.parametrize(
    ("options", "names", "leaves_out"),
    [
        ({"tune": "frozen"}, ["--accumulate 2"], ["--recompute-activations"]),
        (
            {"norm": "batch"},
            ["--recompute-activations (also", "--accumulate 2 or a smaller"],
            ["--accumulate 2 or --recompute"],
        ),
        (
            {"accumulate": 2, "precision": "bf16"},
            ["--accumulate 4", "for 2 of a batch of 16", "--precision bf16)"],
            ["or --precision bf16"],
        ),
        ({"batch_per_worker": 4}, ["--batch-per-worker 4", "a smaller --batch-per-worker"], ["--batch-size"]),
        ({"batch_size": 1}, ["--recompute-activations"], ["--accumulate 2", "a smaller --batch-size"]),
    ],
    ids=str,
)
def test_only_what_would_help_is_named(
    options: dict[str, Any], names: list[str], leaves_out: list[str]
) -> None:
    config = TrainConfig.of("chips", "run", **{"workers": 4, **options})
    world = 1 if config.global_batch == 1 else 4
    with said(config, Ranks(world_size=world, device=torch.device("cuda:0")), "in epoch 1, step 1") as (
        line,
    ):
        assert line.startswith("cuda:0 has too little memory for ")
        assert all(name in line for name in names), line
        assert not any(name in line for name in leaves_out), line


def test_a_model_that_does_not_fit_is_told_from_a_step(tmp_path: Path) -> None:
    with said(TrainConfig.of("chips", "run"), Ranks()) as (line,):
        assert "for the model itself; give --shard-model" in line


def test_koleo_needs_its_batch_whole() -> None:
    config = PretrainConfig.of("tiles", "run", method="dino", koleo=0.1)
    with said(config, Ranks(), "in epoch 1, step 1") as (line,):
        assert "--accumulate 2" not in line
        assert "--recompute-activations" in line


def test_another_error_stays_as_it_is() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError) as ended, saying_what_to_set(TrainConfig.of("chips", "run"), Ranks()):
        raise error
    assert ended.value is error
