"""--precision auto: bf16 where the device has it in hardware, else float32, decided once and kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from regressors import small_config, write_dataset

from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.devices.cards import CPU_BF16, Card, computes, on_cards
from trainer.devices.choice import Precision
from trainer.devices.choice_on_ray import _looked
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.run_writer import CONFIG

PLAIN, T4, A100 = {"avx2": True}, Card("T4", (7, 5)), Card("A100", (8, 0))


def has_cpu(patch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    """Let torch say this of the machine's CPU."""
    patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.mark.parametrize("name", CPU_BF16)
def test_a_cpu_decides_by_its_instructions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, precision in (({**PLAIN, name: True}, "bf16"), ({**PLAIN, name: False}, "float32")):
        has_cpu(monkeypatch, capabilities)
        assert computes("auto", "cpu").precision == precision
        assert _looked("auto", "cpu")[1].precision == precision  # as a task on a machine of Ray workers


@pytest.mark.parametrize(
    ("cards", "precision"), [([A100], "bf16"), ([T4], "float32"), ([A100, T4], "float32")]
)
def test_gpus_decide_by_their_capability(cards: list[Card], precision: Precision) -> None:
    assert on_cards(cards, "auto").precision == precision


def test_what_was_given_stays() -> None:
    for made in (TrainConfig, PretrainConfig):
        config = made.of("chips", "run", precision="fp16")
        assert config.decided_by(computes("auto", "cpu")) == config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=20)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_writes_its_precision_and_keeps_it_on_another_machine(
    precision: Precision,
    dataset: Dataset,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"out": str(tmp_path), "decoder": "linear", "decoder_widths": ()}
    config = small_config(dataset, backbone, **options, epochs=2, stop_patience=1, precision="auto")
    has_cpu(monkeypatch, {**PLAIN, "avx512_bf16": precision == "bf16"})
    launch(config)
    assert yaml.safe_load((tmp_path / CONFIG).read_text())["precision"] == precision
    assert ("computes in bf16" in capsys.readouterr().err) == (precision == "bf16")
    has_cpu(monkeypatch, {**PLAIN, "avx512_bf16": precision != "bf16"})
    for given in ({"precision"}, None):
        launch(config.with_options(resume="auto"), given)
        assert yaml.safe_load((tmp_path / CONFIG).read_text())["precision"] == precision
    with pytest.raises(InputError, match="precision"):
        launch(config.with_options(resume="auto", precision="fp16"), {"precision"})
