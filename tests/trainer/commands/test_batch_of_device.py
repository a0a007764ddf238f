"""The size of a batch where the user gave none: by the device, told in a line, kept when a run is resumed."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from regressors import small_config, write_dataset

from shards.read.dataset import Dataset
from trainer.commands.batch_of_device import LEAST_STEPS, batch_on_gpus, with_batch_of_device
from trainer.commands.train import as_it_began
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.run_writer import CONFIG


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=20)


@pytest.mark.parametrize(
    ("gpus", "each", "chips", "size"),
    [(1, 256, 400_000, 256), (8, 256, 400_000, 2048), (3, 256, 400_000, 768), (1, 4, 400_000, 16)],
)
def test_each_gpu_gets_as_many_and_none_fewer_than_a_cpu(gpus: int, each: int, chips: int, size: int) -> None:
    assert batch_on_gpus(gpus, each, chips, on_cpu=16) == size


@pytest.mark.parametrize("chips", [20, 1_000, 5_000, 12_345])
def test_an_epoch_keeps_its_steps(chips: int) -> None:
    size = batch_on_gpus(2, 256, chips, on_cpu=16)
    assert size == 16 or chips // size >= LEAST_STEPS


def test_what_was_given_stays(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ({"batch_size": 7}, {"batch_per_worker": 5}):
        config = TrainConfig.of(dataset.url, "", **options)
        assert with_batch_of_device(config, "cuda", dataset) == config
    for made, size in ((TrainConfig, 16), (PretrainConfig, 64)):
        config = made.of(dataset.url, "")
        assert config.global_batch == size
        assert with_batch_of_device(config, "cpu", dataset).fit.batch_size == size
        assert with_batch_of_device(config, "cuda", dataset).fit.batch_size == size  # so few chips
    assert capsys.readouterr().err == ""


def test_a_gpu_gets_more_and_a_line_says_so(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset is small, and its chips have a quarter of the usual pixels."""
    monkeypatch.setattr("trainer.commands.batch_of_device.LEAST_STEPS", 0.001)
    config = TrainConfig.of(dataset.url, "", workers=2)
    assert with_batch_of_device(config, "cuda", dataset).fit.batch_size == 2 * 64 * 4
    said = capsys.readouterr().err
    assert said.startswith("treeline: a batch has 512 chips, which suits 2 GPUs (on a CPU 16).")
    assert "--batch-size 16" in said


@pytest.mark.parametrize("stored", [16, 256])
def test_a_resumed_run_keeps_the_size_that_it_began_with(
    dataset: Dataset, backbone: Path, tmp_path: Path, stored: int
) -> None:
    """Also one of a version in which 16 was the default of all devices."""
    options: dict[str, Any] = {"out": str(tmp_path), "epochs": 1, "decoder": "linear", "decoder_widths": ()}
    config = small_config(dataset, backbone, **options, batch_size=None)
    launch(config)
    written = yaml.safe_load((tmp_path / CONFIG).read_text())
    assert written["batch_size"] == 16
    (tmp_path / CONFIG).write_text(yaml.safe_dump({**written, "batch_size": stored}))
    again = as_it_began(config.with_options(resume="auto"))
    assert with_batch_of_device(again, "cuda", dataset).fit.batch_size == stored
    asked = as_it_began(config.with_options(resume="auto", batch_size=8))
    assert asked.fit.batch_size == 8
