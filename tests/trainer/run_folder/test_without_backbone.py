"""Training in which a rank has a part of the frozen backbone, or, with a token store, none.

- Two ranks leave what one leaves.
- With a token store the model in training has no backbone: neither on its device nor on the host.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from frozen_runs import TASKS, config_of
from gloo_ranks import in_group, run_ranks
from safetensors.torch import load_file

from shards.read.dataset import Dataset
from trainer.commands.train import new_fit, train
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit


def as_rank(rank: int, folder: Path, configs: list[TrainConfig]) -> None:
    """In a process of its own: one of two ranks."""

    def work(ranks: Ranks) -> None:
        for config in configs:
            train(config, ranks)

    in_group(rank, 2, folder / "rendezvous", work)


@pytest.mark.slow
def test_two_ranks_leave_what_one_leaves(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Sharded, where all ranks gather weights, and from stored tokens, where no rank has the backbone."""
    kinds: dict[str, dict[str, Any]] = {
        "sharded": {"shard_model": True},
        "tokens": TASKS["stored-tokens"],
    }
    configs = [
        config_of("heights", datasets, backbone, tmp_path / name, **{"flips": False, "epochs": 1, **options})
        for name, options in kinds.items()
    ]
    run_ranks(as_rank, 2, (tmp_path, configs))
    for config in configs:
        alone = config.with_options(out=config.out + "-alone", shard_model=False)
        train(alone, Ranks())
        ours, theirs = (load_file(f"{one.out}/epoch-0001/model.safetensors") for one in (config, alone))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            if ".backbone." in f".{name}":
                assert torch.equal(ours[name], tensor), name
            else:
                torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
        assert not list(Path(config.out).glob("backbone-*"))


def bytes_by_device(fit: Fit) -> dict[str, int]:
    """Bytes of the model's parameters and buffers by their device; those on "meta" take none."""
    found: dict[str, int] = {}
    for tensor in (*fit.model.parameters(), *fit.model.buffers()):
        found[tensor.device.type] = found.get(tensor.device.type, 0) + tensor.nbytes
    return found


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_with_a_token_store_the_model_in_training_has_no_backbone(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path, precision: str
) -> None:
    """Neither where this run fills the store nor where it is there; the decoder alone is held."""
    without = config_of("heights", datasets, backbone, "", flips=False, precision=precision)
    store = str(tmp_path / "tokens")
    with_backbone = bytes_by_device(new_fit(without, Ranks()))
    assert with_backbone.keys() == {"cpu"}
    for _ in range(2):
        fit = new_fit(without.with_options(token_store=store), Ranks())
        held = bytes_by_device(fit)
        decoder = sum(weight.nbytes for weight in fit.model.decoder.parameters())  # type: ignore[union-attr]
        assert decoder <= held["cpu"] < decoder + 1000
        assert held["meta"] > 100_000
        assert fit.model.backbone.config.hidden_size == 32  # type: ignore[union-attr]
    assert held["cpu"] < with_backbone["cpu"] - 100_000


def test_its_panel_is_drawn_from_stored_tokens(
    datasets: dict[str, Dataset], backbone: Path, tmp_path: Path
) -> None:
    """Without a store the backbone runs: the picture is the same."""
    options = {"flips": False, "token_dtype": "float32"}
    config = config_of("heights", datasets, backbone, "", **options)
    chips = datasets["heights"].chips("val")[:3]
    panels = [
        new_fit(one, Ranks()).objective.panel(chips)
        for one in (config, config.with_options(token_store=str(tmp_path / "tokens")))
    ]
    ours, theirs = panels
    assert ours is not None
    assert theirs is not None
    assert abs(ours.rgb_HW3.astype(int) - theirs.rgb_HW3).max() <= 1
    name = "height/predicted"
    assert ours.histograms[name] == pytest.approx(theirs.histograms[name], rel=1e-4, abs=1e-4)
