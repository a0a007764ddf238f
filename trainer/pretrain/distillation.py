"""The loss of self-distillation, and what tells a collapse. Tensors in, tensors out.

    targets_VBK = softmax((teacher - centre) / temperature)
    cross entropy of the student's softmax with the targets of every other view, averaged over pairs

All that needs the whole batch is a sum over its tiles: centre, entropies, use of prototypes, moments of class
tokens. So ranks and pieces of a batch add up to the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, exp, log, pi

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

SINKHORN_ROUNDS = 3
"""Rounds of balancing, as in SwAV (Caron et al. 2020, arXiv:2006.09882)."""
TINIEST = 1e-30
"""Number that keeps logarithms and quotients of 0 finite."""


def cosine(first: float, last: float, share_done: float) -> float:
    """Return a value between `first` and `last` along half a cosine."""
    return last + (first - last) * 0.5 * (1 + cos(pi * share_done))


def centred_targets(scores_VBK: Tensor, centre_K: Tensor, temperature: float) -> Tensor:
    """Return the teacher's targets_VBK: a sharpened softmax of centred scores, float32."""
    return softmax((scores_VBK.float() - centre_K) / temperature, -1)


def next_centre(centre_K: Tensor, mean_scores_K: Tensor, momentum: float) -> Tensor:
    """Return the running mean after a step."""
    return centre_K * momentum + mean_scores_K * (1 - momentum)


def cross_entropy_sums(
    targets_VBK: Tensor, student_scores_WBK: Tensor, seen_WB: Tensor, temperature: float, first: int
) -> Tensor:
    """Return the sum of cross entropies over tiles and pairs of views, and the number of pairs, float64.

    Args:
        targets_VBK: the teacher's targets for the global views; all 0 for a view without a valid patch.
        student_scores_WBK: the student's scores for some views.
        seen_WB: whether such a view has a valid patch.
        temperature: the student's.
        first: number of the first of these views among all; a view is never compared with itself.
    """
    logs_WBK = log_softmax(student_scores_WBK.float() / temperature, -1) * seen_WB[..., None]
    total, all_BK = logs_WBK.new_zeros((), dtype=torch.float64), logs_WBK.sum(0)
    for view, targets_BK in enumerate(targets_VBK):
        is_among = first <= view < first + len(logs_WBK)
        others_BK = all_BK - logs_WBK[view - first] if is_among else all_BK
        total = total - (targets_BK * others_BK).sum(dtype=torch.float64)
    return torch.stack([total, count_pairs(targets_VBK, seen_WB, first)])


def count_pairs(targets_VBK: Tensor, seen_WB: Tensor, first: int) -> Tensor:
    """Return the number of pairs of a tile's views that are compared, float64; see `cross_entropy_sums`."""
    pairs = seen_WB.new_zeros((), dtype=torch.int64)
    for view, targets_BK in enumerate(targets_VBK):
        both_WB = seen_WB & (targets_BK.sum(-1) > 0)
        pairs = pairs + both_WB.sum()
        if first <= view < first + len(seen_WB):
            pairs = pairs - both_WB[view - first].sum()
    return pairs.double()


def balanced_targets(
    scores_VBK: Tensor, temperature: float, seen_VB: Tensor, sum_over_ranks: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the teacher's targets_VBK, balanced so that the batch uses all prototypes alike.

    This is Sinkhorn and Knopp's algorithm.

    Args:
        scores_VBK: the teacher's scores for this rank's tiles.
        temperature: the teacher's.
        seen_VB: views that have a valid patch; the others get no target.
        sum_over_ranks: adds up a tensor over ranks.
    """
    # Scores are cosines, so exp((score - 1) / temperature) is at most 1; in float64 all stay above 0.
    shares_VBK = torch.exp((scores_VBK.double() - 1) / temperature) * seen_VB[..., None]
    for _ in range(SINKHORN_ROUNDS):
        of_prototype_K = sum_over_ranks(shares_VBK.sum((0, 1)))
        shares_VBK = shares_VBK / of_prototype_K.clamp(min=TINIEST)
        shares_VBK = shares_VBK / shares_VBK.sum(-1, keepdim=True).clamp(min=TINIEST)
    return shares_VBK.float()


@dataclass(frozen=True)
class Health:
    """Signs of a collapse, over some tiles."""

    teacher_entropy: float
    """Mean entropy of the teacher's targets, as a share (0..1) of ln K. Near 1: they say nothing."""
    batch_entropy: float
    """Entropy of the mean target, as a share of ln K. Near 0: all tiles have the same one."""
    prototypes_in_effect: float
    """Number of equally frequent prototypes that would have this entropy: its exponential."""
    prototypes_used: int
    """Prototypes that are some view's likeliest one."""
    token_spread: float
    """Mean standard deviation of the class token's numbers over tiles."""
    centre_norm: float
    """Length of the centre."""


@dataclass(frozen=True)
class HealthSums:
    """Layout of the sums from which health and the next centre follow; they add up over tiles."""

    width: int
    """Numbers in a class token (D)."""
    prototypes: int
    """Prototypes (K)."""

    @property
    def _lengths(self) -> list[int]:
        return [2, self.width, self.width**2, self.prototypes, self.prototypes, self.prototypes]

    @property
    def length(self) -> int:
        """Number of the sums."""
        return sum(self._lengths)

    def of(self, targets_NK: Tensor, tokens_ND: Tensor, scores_NK: Tensor) -> Tensor:
        """Return the sums over N views of tiles, float64, in one axis."""
        entropy = -(targets_NK * targets_NK.clamp(min=TINIEST).log()).sum().double()
        # Not torch's bincount, which on a GPU makes the host wait for the largest number.
        used_K = entropy.new_zeros(self.prototypes)
        used_K.index_add_(0, targets_NK.argmax(-1), entropy.new_ones(len(targets_NK)))
        tokens_ND = tokens_ND.double()
        count = torch.full_like(entropy, len(tokens_ND))
        parts = (
            torch.stack([count, entropy]),
            tokens_ND.sum(0),
            (tokens_ND.mT @ tokens_ND).flatten(),
            scores_NK.double().sum(0),
            targets_NK.double().sum(0),
            used_K,
        )
        return torch.cat(parts)

    def mean_scores(self, sums: Tensor) -> Tensor:
        """Return the teacher's mean scores_K."""
        (count, _), _, _, scores_K, _, _ = sums.split(self._lengths)
        mean_K: Tensor = scores_K / count.clamp(min=1)
        return mean_K

    def health(self, sums: Tensor, centre_K: Tensor) -> Health:
        """Return the signs that follow from the sums; the host waits for the device once."""
        (count, entropy), total_D, products_DD, _, targets_K, used_K = sums.split(self._lengths)
        count = count.clamp(min=1)
        mean_K, scale = targets_K / count, log(self.prototypes)
        variance_D = (products_DD.view(self.width, -1).diagonal() - total_D.square() / count) / count
        batch_entropy = -(mean_K * mean_K.clamp(min=TINIEST).log()).sum()
        spread, used = variance_D.clamp(min=0).sqrt().mean(), (used_K > 0).sum().double()
        numbers = torch.stack([entropy / count, batch_entropy, used, spread, centre_K.norm().double()])
        of_teacher, of_batch, used_number, *others = numbers.tolist()
        return Health(of_teacher / scale, of_batch / scale, exp(of_batch), int(used_number), *others)

    def effective_rank(self, sums: Tensor) -> float:
        """Return exp(entropy) of the class token's normalised variances (Roy and Vetterli 2007)."""
        (count, _), total_D, products_DD, *_ = sums.split(self._lengths)
        count = count.clamp(min=1)
        mean_D = total_D / count
        covariance_DD = products_DD.view(self.width, -1) / count - mean_D[:, None] * mean_D
        variance_D = torch.linalg.eigvalsh(covariance_DD.cpu()).clamp(min=0)
        share_D = variance_D / variance_D.sum().clamp(min=TINIEST)
        return float(torch.exp(-(share_D * share_D.clamp(min=TINIEST).log()).sum()))
