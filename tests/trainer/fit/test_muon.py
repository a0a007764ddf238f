"""Muon beside AdamW: what each learns, and that a step is the published one wherever it is taken.

- Orthogonalised matrices have the singular vectors of before, and the published polynomial's singular values.
- A step is torch.optim.Muon's, which takes matrices alone, in bfloat16.
- Matrices and kernels are Muon's, but those of the embeddings, the output layer and adapters.
- A step that is none changes neither weights nor moments.
- Stopped within an epoch a run goes on bit for bit; two ranks, whole or sharded, learn what one learns.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import in_group, run_ranks
from regressors import (
    BANDS,
    SCHEMA,
    SMALL_BACKBONE,
    local_backbone,
    small_config,
    statistics_of,
    write_dataset,
)
from stopped_runs import Stopped, Stopper, assert_equal_states
from torch import Tensor, nn

from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.decoders.features import DecoderConfig
from trainer.devices.ranks import Meeting, Ranks
from trainer.fit.loop import Fit
from trainer.fit.muon import FACTORS, ITERATIONS, MATRICES, matrices_of, orthogonalised
from trainer.fit.optimiser import BY_MUON, new_optimiser, not_finite, parameter_groups, step_unless
from trainer.model.backbone import build_backbone
from trainer.model.regressor import Regressor
from trainer.model.trainable import tune
from trainer.options import Mode, OptimiserOptions
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter, StoredState

CPU = torch.device("cpu")
MUON = OptimiserOptions(optimiser="muon")
RICH: dict[str, Any] = {
    "optimiser": "muon",
    "epochs": 2,
    "batch_size": 7,
    "learning_rate": 1e-4,
    "muon_rate": 1e-3,
    "dropout": 0.2,
    "average": 0.9,
    "accumulate": 2,
}
"""Options under which much is to be remembered, and rates so small that rounding does not grow."""
STOP = 2
"""The step after which a state is saved: within the first epoch."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- one step ---


@pytest.mark.parametrize("shape", [(2, 6, 20), (1, 20, 6), (3, 8, 8)])
def test_orthogonalised_by_singular_values(shape: tuple[int, ...]) -> None:
    matrices_KRC = random(*shape)
    left, values_KS, right = torch.linalg.svd(matrices_KRC.double(), full_matrices=False)
    values_KS = values_KS / values_KS.square().sum(-1, keepdim=True).sqrt()
    linear, cubic, quintic = FACTORS
    for _ in range(ITERATIONS):
        values_KS = linear * values_KS + cubic * values_KS**3 + quintic * values_KS**5
    assert values_KS.min() > 0.65
    assert values_KS.max() < 1.25
    expected_KRC = left @ torch.diag_embed(values_KS) @ right
    assert orthogonalised(matrices_KRC).double() == pytest.approx(expected_KRC, abs=2e-5)


def test_a_gradient_of_nothing_is_no_step() -> None:
    assert not orthogonalised(torch.zeros(2, 3, 4)).any()


def test_steps_are_torchs() -> None:
    """Wide and tall matrices, of which two are alike; bfloat16 rounds each of ten products by 0.4 %."""
    shapes = [(6, 20), (20, 6), (6, 20)]
    ours, theirs = ([nn.Parameter(random(*shape, seed=7)) for shape in shapes] for _ in range(2))
    start = [weight.detach().clone() for weight in ours]
    groups = [{"params": ours, "lr": 0.02, "weight_decay": 0.1, MATRICES: True}]
    optimisers = new_optimiser(groups, MUON, CPU), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for step in range(3):
        for weights, optimiser in zip((ours, theirs), optimisers, strict=True):
            for number, weight in enumerate(weights):
                weight.grad = random(*weight.shape, seed=10 * step + number)
            optimiser.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert (one - other).abs().max() < 0.05 * (one - before).abs().max()


def test_a_kernel_is_a_matrix_of_outputs_in_any_memory_format() -> None:
    gradient = random(8, 3, 3, 3, seed=1)
    kernel = nn.Parameter(random(8, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    matrix = nn.Parameter(random(8, 3, 3, 3).reshape(8, 27))
    for weight in (kernel, matrix):
        weight.grad = gradient.reshape(weight.shape)
        new_optimiser([{"params": [weight], "lr": 0.1, MATRICES: True}], MUON, CPU).step()
    assert torch.equal(kernel.reshape(8, 27), matrix)
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_step_that_is_none_is_left_out(bad: float | None) -> None:
    weights = nn.Parameter(random(3, 4)), nn.Parameter(random(4))
    groups = [{"params": [weights[0]], MATRICES: True}, {"params": [weights[1]]}]
    optimiser = new_optimiser(groups, MUON, CPU)
    for number in (1.0, bad if bad is not None else -2.0):
        before = [weight.detach().clone() for weight in weights]
        moments = {weight: dict(optimiser.state[weight]) for weight in weights}
        moments = {
            weight: {name: value.clone() for name, value in of.items()} for weight, of in moments.items()
        }
        for weight in weights:
            weight.grad = torch.full_like(weight, number)
        step_unless(optimiser, not_finite(torch.tensor([2.0, number], dtype=torch.float64)))
    for weight, value in zip(weights, before, strict=True):
        assert torch.equal(weight, value) == (bad is not None)
        for name, moment in moments[weight].items():
            assert torch.equal(optimiser.state[weight][name], moment) == (bad is not None), name


# --- what Muon learns ---


def regressor_of(decoder: str = "detail", mode: Mode = "all") -> Regressor:
    torch.manual_seed(0)
    backbone = tune(build_backbone(SMALL_BACKBONE).eval(), mode, blocks=1, rank=2)
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)), height_m=1.0)
    config = DecoderConfig((16, 8, 8, 8), "group", kind=decoder)
    return Regressor(SCHEMA, BANDS, statistics, backbone, config)


def learnt_by_muon(regressor: Regressor) -> set[str]:
    names = {weight: name for name, weight in regressor.named_parameters()}
    groups = parameter_groups(regressor, MUON)
    return {names[weight] for group in groups if MATRICES in group for weight in group["params"]}


@pytest.mark.parametrize("decoder", ["detail", "residual"])
def test_matrices_and_kernels_are_muons(decoder: str) -> None:
    regressor = regressor_of(decoder)
    output = set(regressor.decoder.output.parameters())
    expected = {
        name
        for name, weight in regressor.named_parameters()
        if weight.ndim in (2, 4) and weight not in output and not name.startswith("backbone.embeddings")
    }
    if decoder == "residual":  # channel attention squeezes 16 channels to one: a vector
        expected -= {name for name in expected if min(regressor.get_parameter(name).shape[:2]) == 1}
    assert learnt_by_muon(regressor) == expected
    assert any(name.startswith("backbone.model.layer.0.mlp") for name in expected)


def test_adapters_and_kernels_of_single_channels_are_adamws() -> None:
    assert all(name.startswith("decoder.") for name in learnt_by_muon(regressor_of(mode="lora")))
    apart, whole = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3)
    others = nn.Embedding(8, 8), nn.LayerNorm((8, 8)), nn.Linear(8, 1)
    assert matrices_of(nn.ModuleList([apart, whole, *others])) == {whole.weight}


def test_rates_by_hand() -> None:
    options = OptimiserOptions(optimiser="muon", backbone_rate_factor=0.25, weight_decay=0.1)
    groups = {group["name"]: group for group in parameter_groups(regressor_of(), options)}
    rates = {name: (one["lr"], one["highest_rate"], one["weight_decay"]) for name, one in groups.items()}
    assert rates[f"decoder, {BY_MUON}"] == (0.02, 0.02, 0.1)
    assert rates[f"backbone.block.0 to backbone.block.1, {BY_MUON}"] == (0.005, 0.005, 0.1)
    assert {rate for name, (rate, *_) in rates.items() if BY_MUON not in name} == {3e-3, 0.25 * 3e-3}


@pytest.mark.parametrize("wrong", [{"muon_rate": 0.0}, {"optimiser": "sgd"}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="choose"):
        OptimiserOptions(**wrong)


# --- whole runs ---


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    dataset: Dataset = write_dataset(tmp_path_factory.mktemp("muon"), chips=22, val_share=0.2)
    return small_config(dataset, local_backbone(tmp_path_factory.mktemp("backbone")), **RICH)


def test_stopped_and_continued_it_learns_the_same_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    whole, stopped, again = (new_fit(config, Ranks()) for _ in range(3))
    whole.run(Stopper())
    with pytest.raises(Stopped):
        stopped.run(Stopper(STOP, tmp_path))
    with StoredState(str(tmp_path)) as state:
        assert any(name.endswith(".momentum") for name in state.shapes)
        restore(again, state)
    again.run(Stopper())
    assert_equal_states(state_of(again), state_of(whole))


class Noting(StateCallback):
    """Notes the losses, and saves the state after a step."""

    def __init__(self, states: StateWriter) -> None:
        super().__init__()
        self.states, self.losses = states, list[float]()

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        if fit.position.step == STOP:
            self.states.write(state_of(fit))


def learn(config: TrainConfig, ranks: Ranks, save: Path, go_on: Path | None = None) -> list[float]:
    """The losses of a run that saves its state on the way."""
    fit = new_fit(config, ranks)
    if go_on:
        with StoredState(str(go_on)) as state:
            restore(fit, state)
    noting = Noting(StateWriter(str(save), Meeting(ranks if config.fit.shard_model else Ranks())))
    fit.run(noting if ranks.is_first or config.fit.shard_model else (noting := Stopper()))
    return noting.losses


def as_rank(rank: int, folder: Path, config: TrainConfig) -> None:
    """In a process of its own: one of two ranks, whole, sharded, and sharded from what one process saved."""

    def work(ranks: Ranks) -> list[list[float]]:
        sharded = config.with_options(shard_model=True)
        return [
            learn(config, ranks, folder / "whole"),
            learn(sharded, ranks, folder / "sharded"),
            learn(sharded, ranks, folder / "rest", go_on=folder / "alone"),
        ]

    told = in_group(rank, 2, folder / "rendezvous", work)
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_two_ranks_whole_and_sharded_learn_what_one_learns(config: TrainConfig, tmp_path: Path) -> None:
    alone = learn(config, Ranks(), tmp_path / "alone")
    assert alone[-1] < alone[0]
    run_ranks(as_rank, 2, (tmp_path, config))
    for rank in range(2):
        whole, sharded, rest = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert whole == pytest.approx(alone, rel=1e-5)
        assert sharded == pytest.approx(alone, rel=1e-5)
        assert rest == pytest.approx(alone[STOP:], rel=1e-5)
    rest = learn(config, Ranks(), tmp_path / "last", go_on=tmp_path / "sharded")
    assert rest == pytest.approx(alone[STOP:], rel=1e-5)
