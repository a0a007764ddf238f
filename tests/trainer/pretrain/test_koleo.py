"""KoLeo: the term and its gradient equal brute force, over any ranks; tiles without pixels count nowhere."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import in_group, run_ranks
from torch import Tensor

from trainer.devices.ranks import Ranks
from trainer.pretrain.koleo import CLOSEST, koleo_sums, nearness

VIEWS, TILES, D = 2, 7, 5
TOKENS_VBD = torch.tensor(np.random.default_rng(3).normal(size=(VIEWS, TILES, D)), dtype=torch.float32)
EVERY_VB = np.ones((VIEWS, TILES), np.bool_)


def alone(rows: Tensor) -> tuple[Tensor, int]:
    return rows, 0


def brute_force(tokens_VBD: Tensor, kept: list[int]) -> Tensor:
    """The sum over views and tiles, worked out pair by pair in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for tokens_BD in tokens_VBD.double():
        points = [tokens_BD[tile] / tokens_BD[tile].norm() for tile in kept]
        for place, point in enumerate(points):
            total = (
                total
                - torch.stack([(point - other).norm() for at, other in enumerate(points) if at != place])
                .min()
                .log()
            )
    return total


@pytest.mark.parametrize("kept", [list(range(TILES)), [0, 2, 3, 6], [1, 4]])
def test_the_term_and_its_gradient_equal_brute_force(kept: list[int]) -> None:
    """Also where some tiles have no pixels, whatever their tokens are."""
    seen_VB = np.zeros_like(EVERY_VB)
    seen_VB[:, kept] = True
    tokens, expected = TOKENS_VBD.clone().requires_grad_(), TOKENS_VBD.clone().requires_grad_()
    total, count = koleo_sums(tokens, seen_VB, alone)
    whole = brute_force(expected, kept)
    assert int(count) == VIEWS * len(kept)
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, at)[0] for value, at in ((total, tokens), (whole, expected))),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("bounds", [(0, 3, 7), (0, 1, 7), (0, 2, 4, 7)])
def test_the_ranks_add_up_to_one(bounds: tuple[int, ...]) -> None:
    """Values count each tile once; each rank's gradient is the whole term's, by its own rows."""
    seen_VB = EVERY_VB.copy()
    seen_VB[:, 5], seen_VB[1, 2] = False, False
    whole = TOKENS_VBD.clone().requires_grad_()
    sums = koleo_sums(whole, seen_VB, alone)
    (gradient_VBD,) = torch.autograd.grad(sums[0], whole)
    asked: list[Tensor] = []
    koleo_sums(TOKENS_VBD, seen_VB, lambda rows: (asked.append(rows) or rows, 0))  # type: ignore[func-returns-value]
    added = torch.zeros(2, dtype=torch.float64)
    for first, end in itertools.pairwise(bounds):
        own, everyone = TOKENS_VBD[:, first:end].clone().requires_grad_(), iter(asked)
        part = koleo_sums(own, seen_VB[:, first:end], lambda _, f=first, e=everyone: (next(e), f))  # type: ignore[misc]
        torch.testing.assert_close(torch.autograd.grad(part[0], own)[0], gradient_VBD[:, first:end])
        added = added + part.detach()
    torch.testing.assert_close(added, sums.detach())


def gather_as_rank(rank: int, folder: Path) -> None:
    """The first rank has three tiles, the second four; each leaves its sums and its gradient."""
    own = TOKENS_VBD[:, (0, 3)[rank] : (3, 7)[rank]].clone().requires_grad_()
    seen_VB = EVERY_VB[:, : own.shape[1]]

    def work(ranks: Ranks) -> tuple[Tensor, int]:
        sums = koleo_sums(own, seen_VB, ranks.gathered)
        torch.save([sums.detach(), *torch.autograd.grad(sums[0], own)], folder / f"{rank}.pt")
        return ranks.gathered(own.detach()[0])

    rows, first = in_group(rank, 2, folder / "rendezvous", work)
    assert torch.equal(rows, TOKENS_VBD[0])
    assert first == (0, 3)[rank]


@pytest.mark.slow
def test_ranks_with_unequal_parts_gather_each_other(tmp_path: Path) -> None:
    run_ranks(gather_as_rank, 2, (tmp_path,))
    whole = TOKENS_VBD.clone().requires_grad_()
    sums = koleo_sums(whole, EVERY_VB, Ranks().gathered)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(parts[0][0] + parts[1][0], sums.detach())
    gradient_VBD = torch.cat([parts[0][1], parts[1][1]], 1)
    torch.testing.assert_close(gradient_VBD, torch.autograd.grad(sums[0], whole)[0])


def test_a_tile_without_neighbours_has_no_term() -> None:
    seen_VB = np.zeros_like(EVERY_VB)
    seen_VB[:, 3] = True
    assert koleo_sums(TOKENS_VBD, seen_VB, alone).tolist() == [0, 0]


def test_equal_tokens_have_a_finite_term_and_gradient() -> None:
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    nearness_N = nearness(tokens)
    np.testing.assert_allclose(nearness_N.detach(), [-np.log(CLOSEST)] * 2 + [-np.log(2) / 2], rtol=1e-6)
    assert torch.autograd.grad(nearness_N.sum(), tokens)[0].isfinite().all()


def test_the_term_spreads_tokens() -> None:
    """Descending it brings the tiles apart: the least distance grows."""
    tokens = (TOKENS_VBD * 0.1 + 1).requires_grad_()
    before, optimiser = float(nearness_of(tokens)), torch.optim.SGD([tokens], 0.05)
    for _ in range(20):
        optimiser.zero_grad()
        koleo_sums(tokens, EVERY_VB, alone)[0].backward()
        optimiser.step()
    assert float(nearness_of(tokens)) < before - 1


def nearness_of(tokens_VBD: Tensor) -> Tensor:
    total, count = koleo_sums(tokens_VBD.detach(), EVERY_VB, alone)
    return total / count
