"""KoLeo (Sablayrolles et al. 2018, arXiv:1806.03198): a loss that spreads the class tokens of a batch.

    loss = mean over tiles of -log(distance to the nearest other tile's token), tokens brought to length 1

It needs the whole batch. Ranks gather each other's tokens without gradients, so each knows the whole term.
Its own tokens are in it as points and as the nearest neighbours of others, and have gradients as both.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from trainer.devices.transfer import rows_where, to_device

CLOSEST = 1e-8
"""Distance that is told apart from 0; closer tokens count as this far apart."""
KOLEO_SUMS = 2
Gather = Callable[[Tensor], tuple[Tensor, int]]
"""See trainer.devices.ranks.Ranks.gathered."""


def nearness(tokens_ND: Tensor) -> Tensor:
    """Return nearness_N: -log of the distance from each token to the nearest other one; two at least."""
    with torch.no_grad():
        likeness_NN = tokens_ND @ tokens_ND.mT
        nearest_N = likeness_NN.fill_diagonal_(-torch.inf).argmax(1)
    squares_N = (tokens_ND - tokens_ND[nearest_N]).square().sum(1)
    return -squares_N.clamp(min=CLOSEST**2).log() / 2


def compared(seen_V: Tensor) -> Tensor:
    """Return how many tiles have a neighbour in each view, from the tiles of the batch that have pixels."""
    return torch.where(seen_V > 1, seen_V, 0)


def koleo_sums(tokens_VBD: Tensor, is_seen_VB: NDArray[np.bool_], gather: Gather) -> Tensor:
    """Return the sum over this rank's tiles and views, and their number, float64.

    The sum has the gradient of all ranks' sum with respect to this rank's tokens. With several ranks the host
    waits for the device, since only the other ranks know whether their tiles have pixels.

    Args:
        tokens_VBD: this rank's class tokens, each view compared on its own.
        is_seen_VB: whether a view has a valid patch; the others count nowhere.
        gather: function that gathers the rows of all ranks.
    """
    total, count = tokens_VBD.new_zeros((), dtype=torch.float64), 0
    for tokens_BD, is_seen_B in zip(normalize(tokens_VBD.float(), dim=-1), is_seen_VB, strict=True):
        seen_B1 = to_device(is_seen_B[:, None], tokens_BD.device)
        rows_NF, first = gather(torch.cat([tokens_BD.detach(), seen_B1], 1))
        last, is_alone = first + len(tokens_BD), len(rows_NF) == len(tokens_BD)
        is_seen_N = is_seen_B if is_alone else rows_NF[:, -1].cpu().numpy() > 0
        if np.count_nonzero(is_seen_N) < 2:
            continue
        tokens_ND = torch.cat([rows_NF[:first, :-1], tokens_BD, rows_NF[last:, :-1]])
        nearness_N = nearness(rows_where(tokens_ND, is_seen_N)).double()
        before, own = int(is_seen_N[:first].sum()), int(is_seen_B.sum())
        whole = nearness_N.sum()
        total = total + nearness_N[before : before + own].sum().detach() + (whole - whole.detach())
        count += own
    return torch.stack([total, torch.full_like(total, count)])
