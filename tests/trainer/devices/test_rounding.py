"""Rounding a part's weights together gives the bits of autocast, with fewer kernels, and leaves no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dispatched import Counted
from pretrainings import config_of as pretraining_of
from pretrainings import write_tiles
from regressors import local_backbone, small_config, write_dataset
from torch import nn

from shards.read.dataset import open_dataset
from trainer.commands.pretrain import pretrain
from trainer.commands.train import train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.devices.rounding import round_together
from trainer.model.pixel_model import PixelModel
from trainer.pretrain.masked import Masked

CASES: dict[str, dict[str, Any]] = {
    "all": {"tune": "all", "average": 0.9},
    "last": {"tune": "last", "tune_blocks": 1, "decoder": "residual"},
    "lora": {"tune": "lora", "accumulate": 2},
    "recomputed": {"tune": "all", "recompute_activations": True},
    "batch norm": {"tune": "all", "norm": "batch", "dropout": 0.2},
    "float16": {"tune": "all", "precision": "fp16", "batch_size": 1},
}


def config_of(folder: Path, **options: Any) -> TrainConfig:
    dataset = write_dataset(folder / "data", 24, 0.25)
    given = {"precision": "bf16", "epochs": 1, "batch_size": 8, **options}
    return small_config(dataset, local_backbone(folder / "backbone"), **given)


@pytest.mark.parametrize("case", CASES)
def test_training_has_the_bits_of_autocast(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, **CASES[case])
    train(config.with_options(out=str(tmp_path / "together")), Ranks())
    monkeypatch.setattr(PixelModel, "round_together", lambda model, precision: None)
    train(config.with_options(out=str(tmp_path / "apart")), Ranks())
    for name in ("metrics.jsonl", "epoch-0001/model.safetensors"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes(), name


def test_pre_training_has_the_bits_of_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiles(tmp_path / "tiles")
    config = pretraining_of(open_dataset(str(tmp_path / "tiles")), "mae", epochs=1, precision="bf16")
    pretrain(config.with_options(out=str(tmp_path / "together")), Ranks())
    monkeypatch.setattr(Masked, "round_together", lambda model, precision: None)
    pretrain(config.with_options(out=str(tmp_path / "apart")), Ranks())
    stored = sorted(path.relative_to(tmp_path / "apart") for path in tmp_path.glob("apart/**/*.safetensors"))
    assert stored
    for name in (Path("metrics.jsonl"), *stored):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes(), name


def part_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3), nn.Flatten())


def test_two_kernels_take_the_place_of_two_for_each_weight() -> None:
    kernels = []
    image_BCHW = torch.ones(1, 2, 8, 8)
    for together in (False, True):
        part = part_of()
        if together:
            round_together(part, "bf16")
        with Counted() as count, torch.autocast("cpu", torch.bfloat16):
            part(image_BCHW).float().sum().backward()
        kernels.append(count.kernels)
    weights = 4
    assert kernels[0] - kernels[1] == 2 * weights - 2


def test_the_weights_are_back_also_after_an_error() -> None:
    part = part_of()
    own = dict(part.named_parameters())
    round_together(part, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        part(torch.ones(1, 2, 8, 8))
        with pytest.raises(RuntimeError):
            part(torch.ones(1, 3, 8, 8))
    assert all(found is own[name] for name, found in part.named_parameters())
    assert set(part.state_dict()) == set(own)


class Interrupted(nn.Module):
    """Passes its input on, but is interrupted the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt
        return image_BCHW


def test_after_an_interruption_the_next_pass_learns_as_before() -> None:
    part = nn.Sequential(*part_of(), Interrupted())
    own = dict(part.named_parameters())
    round_together(part, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyboardInterrupt):
            part(torch.ones(1, 2, 8, 8))
        part(torch.ones(1, 2, 8, 8)).float().sum().backward()
    assert all(found is own[name] for name, found in part.named_parameters())
    assert all(weight.grad is not None for weight in own.values())


def test_weights_that_do_not_learn_get_no_gradient() -> None:
    part = part_of()
    part[0].requires_grad_(False)
    round_together(part, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        part(torch.ones(1, 2, 8, 8)).float().sum().backward()
    assert part[0].weight.grad is None
    assert part[2].weight.grad is not None
    assert part[2].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_nothing_changes_where_nothing_is_rounded(precision: Any) -> None:
    part = part_of()
    round_together(part, precision)
    assert not part._forward_pre_hooks
