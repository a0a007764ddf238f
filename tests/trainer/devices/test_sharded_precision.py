"""Sharded in bfloat16, a rank's memory falls with the number of ranks, and losses are those of one process.

Real processes with gloo. Bytes of tensors are counted; on GPUs they would lie on one each.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatched import LiveBytes
from gloo_ranks import in_group, run_ranks
from pretrainings import config_of, write_tiles
from regressors import small_config, write_dataset

from shards.read.dataset import open_dataset
from trainer.commands import pretrain
from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.data.feed import feed
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import rows_of
from trainer.fit.loop import Fit
from trainer.model.backbone import TINY, build_backbone
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.state_callback import StateCallback

WIDE = {**TINY, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_channels": 3}
WIDE["num_attention_heads"] = 8
"""Shape whose weights take more memory than its activations: 6.5 million in blocks."""


class Losses(StateCallback):
    """Notes each step's loss."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)


def held_bytes(fit: Fit) -> int:
    """Bytes of this rank's weights and moments."""
    moments = [value for state in fit.optimiser.state.values() for value in state.values()]
    return sum(rows_of(value).tensor.nbytes for value in (*fit.model.parameters(), *moments))


def measured(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """Bytes of a rank in a step after the first, and whether weights and gradients stay float32."""
    fit = new_fit(config, ranks)
    learning = fit.learning
    batches = learning.dataset.batches(learning.train_chips, fit.global_batch, learning.part)
    fit._wrapped.train()
    for number, fed in enumerate(feed(batches, learning.dataset.schema, ranks.device)):
        if number == 0:
            fit._step(fed)
            fit._settle()
            continue
        with LiveBytes() as live:
            fit._step(fed)
            fit._settle()
        break
    dtypes = {str(rows_of(weight).tensor.dtype) for weight in fit.model.parameters()}
    return {"held": held_bytes(fit), "made": live.peak, "dtypes": sorted(dtypes)}


def trained(config: TrainConfig | PretrainConfig, ranks: Ranks) -> list[float]:
    """The losses of a whole training."""
    noted = Losses()
    make: Any = pretrain.new_fit if isinstance(config, PretrainConfig) else new_fit
    make(config, ranks).run(noted)
    return noted.losses


def as_rank(rank: int, wide: TrainConfig, small: dict[str, Any], folder: Path) -> None:
    def told(ranks: Ranks) -> dict[str, Any]:
        return {"bytes": measured(wide, ranks), **{name: trained(one, ranks) for name, one in small.items()}}

    (folder / f"rank-{rank}.json").write_text(json.dumps(in_group(rank, 2, folder / "rendezvous", told)))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    build_backbone(WIDE).save_pretrained(folder / "backbone")
    options: dict[str, Any] = {"decoder": "linear", "batch_size": 2, "precision": "bf16", "tune": "all"}
    return small_config(write_dataset(folder / "data", 8), folder / "backbone", **options)


@pytest.fixture(scope="module")
def small(wide: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Short trainings and pre-trainings in bfloat16; of some only a part learns."""
    folder = tmp_path_factory.mktemp("small")
    write_tiles(folder / "tiles")
    tiles = open_dataset(str(folder / "tiles"))
    few: dict[str, Any] = {"epochs": 1, "precision": "bf16"}
    return {
        "all": wide.with_options(epochs=1, recompute_activations=True, learning_rate=1e-4),
        "frozen": wide.with_options(epochs=1, tune="frozen", recompute_activations=False),
        "mae": config_of(tiles, "mae", **few),
        "ibot": config_of(tiles, "ibot", **few),
    }


@pytest.fixture(scope="module")
def two(wide: TrainConfig, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two ranks tells, whose models are sharded."""
    folder = tmp_path_factory.mktemp("two")
    sharded = {name: config.with_options(shard_model=True) for name, config in small.items()}
    run_ranks(as_rank, 2, (wide.with_options(shard_model=True), sharded, folder))
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_memory_per_rank_falls_with_ranks(two: Any, wide: TrainConfig) -> None:
    """Weights and moments by half, and with them what a step makes: gradients, and weights in 16 bits.

    Autocast would keep those of all blocks on every rank: 0.84 of what one process makes, instead of 0.61.
    """
    alone = measured(wide, Ranks())
    for one in two:
        ours = one["bytes"]
        assert ours["dtypes"] == alone["dtypes"] == ["torch.float32"]
        assert ours["held"] < 0.51 * alone["held"]
        assert ours["made"] < 0.65 * alone["made"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("all", 1e-3), ("frozen", 1e-3), ("mae", 1e-3), ("ibot", 1e-2)])
def test_losses_are_close_to_those_of_one_process(
    name: str, share: float, two: Any, small: dict[str, Any]
) -> None:
    """A rank's gradients are rounded before they are averaged. Self-distillation lets differences grow."""
    expected = trained(small[name], Ranks())
    for one in two:
        assert one[name] == pytest.approx(expected, rel=share)
        assert one[name] == two[0][name]
