"""Batch norm over ranks is nn.BatchNorm2d on all their chips; its running statistics change once a step.

Three real processes with gloo share a batch in unequal parts, also of no chip at all: with parts of none they
are two ranks, or one, with ranks that only take part. A rank without chips has one that stands in.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import in_group, run_ranks
from torch import Tensor, nn

from trainer.decoders.batch_norm import AddUp, BatchNorm, BatchNorms

WORLD, CHANNELS = 3, 5
PARTS = ((6, 0, 0), (0, 4, 2), (1, 5, 0), (3, 2, 1), (1, 1, 1))
"""Chips of each rank."""
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5}


def layers(dtype: torch.dtype) -> tuple[nn.Sequential, nn.Sequential]:
    """Ours and torch's, the same: a norm between two convolutions, so that gradients pass through it."""
    torch.manual_seed(1)
    torchs = nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 2, 1)
    )
    nn.init.normal_(torchs[1].weight)
    nn.init.normal_(torchs[1].bias)
    ours = copy.deepcopy(torchs)
    ours[1] = BatchNorm(CHANNELS)
    ours[1].load_state_dict(torchs[1].state_dict())
    return ours.to(dtype), torchs.to(dtype)


def batch(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Chips whose mean is not 0, and the slope of what comes out."""
    generator = torch.Generator().manual_seed(count)
    image_BCHW = 5 + torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64)
    return image_BCHW.to(dtype), torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64).to(
        dtype
    )


def passed(model: nn.Sequential, image_BCHW: Tensor, slope_BCHW: Tensor) -> dict[str, Tensor]:
    """What a pass forward and backward gives: output, gradients of weights, running statistics."""
    output_BCHW = model(image_BCHW)
    output_BCHW.backward(slope_BCHW)
    gradients = {
        f"gradient {name}": one.grad for name, one in model.named_parameters() if one.grad is not None
    }
    return {"output": output_BCHW.detach(), **gradients, **dict(model.named_buffers())}


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference, beside the largest number of that name."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[name].double() - one.double()).abs().max() / one.double().abs().max().clamp(min=1e-3))
        for name, one in wanted.items()
        if one.numel()
    )


def part_of_joined(add_up: AddUp, rank: int, parts: tuple[int, ...], dtype: torch.dtype) -> float:
    """How far ours, on this rank's part, is from torch's on the joined batch."""
    ours, torchs = layers(dtype)
    image_BCHW, slope_BCHW = batch(sum(parts), dtype)
    wanted = passed(torchs, image_BCHW, slope_BCHW)
    own = slice(sum(parts[:rank]), sum(parts[: rank + 1]))
    norms = BatchNorms(ours, add_up)
    norms.count(parts[rank] > 0)
    if parts[rank]:
        found = passed(ours, image_BCHW[own], slope_BCHW[own])
        wanted["output"] = wanted["output"][own]
    else:  # it must take part, and give nothing
        found = passed(ours, 1e3 * image_BCHW[:1], 0 * slope_BCHW[:1])
        wanted["output"] = found["output"]
    norms.note()
    norms.update()
    found |= {name: add_up(one) for name, one in found.items() if name.startswith("gradient")}
    found |= dict(ours.named_buffers())
    return difference(found, wanted)


def as_rank(rank: int, folder: Path) -> None:
    """In a process of its own: one of three."""

    def work(ranks: Any) -> list[list[float]]:
        return [[part_of_joined(ranks.sum, rank, parts, dtype) for parts in PARTS] for dtype in TOLERANCES]

    (folder / f"{rank}.json").write_text(json.dumps(in_group(rank, WORLD, folder / "rendezvous", work)))


def test_ranks_are_torch_on_the_joined_batch(tmp_path: Path) -> None:
    run_ranks(as_rank, WORLD, (tmp_path,))
    for rank in range(WORLD):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        for of_dtype, tolerance in zip(told, TOLERANCES.values(), strict=True):
            assert max(of_dtype) < tolerance, (rank, of_dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("add_up", [None, lambda sums: sums], ids=["alone", "one of one"])
def test_one_rank_is_torch(dtype: torch.dtype, layout: torch.memory_format, add_up: AddUp | None) -> None:
    ours, torchs = layers(dtype)
    ours[1].add_up = add_up
    for count in (2, 3):
        image_BCHW, slope_BCHW = (one.contiguous(memory_format=layout) for one in batch(count, dtype))
        both = (passed(model, image_BCHW, slope_BCHW) for model in (ours, torchs))
        assert difference(*both) < TOLERANCES[dtype]
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    ours.load_state_dict(torchs.state_dict())
    assert torch.equal(ours.eval()(image_BCHW), torchs.eval()(image_BCHW))


def test_its_gradient_is_the_slope() -> None:
    norm = BatchNorm(3).double()
    norm.add_up = lambda sums: sums
    image_BCHW = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (image_BCHW,))


@pytest.mark.parametrize("add_up", [None, lambda sums: sums], ids=["alone", "one of one"])
def test_statistics_of_bfloat16_are_not_rounded(add_up: AddUp | None) -> None:
    image_BCHW = (100 + torch.randn(64, 4, 8, 8)).bfloat16().requires_grad_()
    norm, exact = BatchNorm(4), nn.BatchNorm2d(4).double()
    norm.add_up = add_up
    normalised = norm(image_BCHW)
    normalised.square().sum().backward()
    exact(image_BCHW.detach().double())
    assert normalised.dtype == torch.bfloat16
    assert image_BCHW.grad is not None
    torch.testing.assert_close(norm.running_mean, exact.running_mean.float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_var, exact.running_var.float(), rtol=1e-4, atol=0)


# --- once a step ---


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(BatchNorm(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=None))


def statistics(model: nn.Module) -> list[Tensor]:
    return [one.clone() for one in model.buffers()]


def test_statistics_change_after_the_step_by_the_mean_of_its_pieces(model: nn.Sequential) -> None:
    norms, before = BatchNorms(model), statistics(model)
    pieces = [torch.randn(count, 2, 4, 4) for count in (3, 2)]
    model(torch.full((2, 2, 4, 4), torch.inf))  # a pass that is not noted
    for piece in pieces:
        model(piece)
        norms.note()
    assert all(map(torch.equal, statistics(model), before))
    norms.update()
    mean_C = torch.stack([piece.mean((0, 2, 3)) for piece in pieces]).mean(0)
    torch.testing.assert_close(model[0].running_mean, 0.1 * mean_C)
    # Without momentum: the mean of all steps, of which this is the first; what comes in has a mean of 0.
    torch.testing.assert_close(model[2].running_mean, model[1].bias.detach(), rtol=1e-5, atol=1e-6)
    assert [int(layer.num_batches_tracked) for layer in (model[0], model[2])] == [1, 1]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_step_that_is_left_out_changes_no_statistics(model: nn.Sequential, is_late: bool) -> None:
    norms, before = BatchNorms(model), statistics(model)
    model(torch.full((2, 2, 4, 4), torch.nan))
    norms.note()
    if is_late:
        norms.update(torch.tensor(1.0))
    else:
        norms.forget()
        norms.update()
    assert all(map(torch.equal, statistics(model), before))


def test_whether_a_step_counts_may_be_known_on_the_device_alone(model: nn.Sequential) -> None:
    other, found_inf = copy.deepcopy(model), torch.tensor(0.0)
    image_BCHW = torch.randn(2, 2, 4, 4)
    for one, late in ((model, ()), (other, (found_inf,))):
        norms = BatchNorms(one)
        one(image_BCHW)
        norms.note()
        norms.update(*late)
    assert all(map(torch.equal, statistics(model), statistics(other)))


def test_chips_of_no_rank_and_a_single_value_leave_numbers(model: nn.Sequential) -> None:
    norms = BatchNorms(model)
    for counts, image_BCHW in ((False, torch.randn(1, 2, 4, 4)), (True, torch.randn(1, 2, 1, 1))):
        norms.count(counts)
        before = statistics(model)
        model(image_BCHW).sum().backward()
        norms.note()
        norms.update()
        assert all(one.isfinite().all() for one in (*model.buffers(), *(w.grad for w in model.parameters())))
        if not counts:
            torch.testing.assert_close(model[0].running_mean, before[0])
            torch.testing.assert_close(model[0].running_var, before[1])


def test_copies_and_pickles_stand_alone(model: nn.Sequential) -> None:
    BatchNorms(model, add_up=lambda sums: sums)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[0].add_up is None
        assert not other[0].is_deferred
        before = statistics(other)
        other(torch.randn(2, 2, 4, 4))
        assert not torch.equal(other[0].running_mean, before[0])
