"""The loss term patch_gradient: edges of log heights at several resolutions; it tolerates small shifts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from trainer.losses.loss_terms import (
    ABOVE_0,
    NOT_BELOW_0,
    Total,
    filled,
    key,
    mean,
    mirrored_log,
    over_chips,
    sum_and_count,
    zeros_and_counts,
)

SCALES = (1, 2, 4)
"""Sides in pixels of the squares averaged before anything else: full, half and quarter resolution."""
PATCHES = (3, 5)
"""Sides in pixels of the patches whose spread of steepness is compared."""
FLAT = 0.1
"""Steepness below which direction hardly counts, in Sobel units of log height: 1.25 % of height per pixel."""


@dataclass(frozen=True)
class PatchGradient:
    """CHMv2's loss of edges, which tolerates a shift of some pixels (arXiv:2603.06382, algorithm 1).

    At three resolutions log heights give Sobel gradients g, their steepness m = sqrt(|g|^2 + FLAT^2), the
    spread r = max(m) - min(m) in each patch of 3 x 3 and of 5 x 5, and the direction u = g / m. The loss is
    the mean of `magnitude` |dm| + `spread` |dr| + `direction` |du|^2 / 2, where d is predicted - measured.

    Five points differ from the published algorithm, or settle what it leaves open. The mean log height is not
    subtracted, since a gradient does not see it. |du|^2 / 2 is 1 - cos of the angle where both are steep, but
    0 instead of 1 where both are flat. A pixel counts only if every pixel that it is computed from is
    measured; nothing is padded. A resolution without such a pixel counts 0. Diagonal gradients and soft
    extremes are left out, since only the paper's text has them, not its algorithm.
    """

    sum_count: ClassVar[int] = 7 * len(SCALES)
    counts_tell_slope: ClassVar[bool] = True
    smallest: float = key(0.1, ABOVE_0)
    """Height in metres below which everything is as good as ground (see mirrored_log). The paper gives no
    number. With 1 mm the step from ground to a shrub of 0.1 m would equal the step from there to a tree of
    10 m."""
    magnitude: float = key(0.3, NOT_BELOW_0)
    """Weight of steepness; default from the paper."""
    spread: float = key(0.6, NOT_BELOW_0)
    """Weight of the spread, half of it for each size of patch; default from the paper."""
    direction: float = key(0.4, NOT_BELOW_0)
    """Weight of direction; default from the paper."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute seven sums for each resolution.

        They are (magnitude, pixels, spread in 3 x 3, patches of 3 x 3, spread in 5 x 5, patches of 5 x 5,
        direction).
        """
        predicted_BHW, height_BHW = filled(predicted_BHW, measured_BHW), filled(height_BHW, measured_BHW)
        scale_sums = []
        for scale in SCALES:
            if _is_too_small(measured_BHW, scale):
                scale_sums.append(torch.stack([total(predicted_BHW).mul(0)] * 7))
                continue
            predicted_bhw = mirrored_log(avg_pool2d(predicted_BHW, scale), self.smallest)
            height_bhw = avg_pool2d(height_BHW, scale).clamp(min=self.smallest)
            # The same function as above: with other rounding a perfect prediction would have a gradient.
            height_bhw = mirrored_log(height_bhw, self.smallest)
            scale_sums.append(
                _edge_sums(predicted_bhw, height_bhw, _whole(measured_BHW, scale, scale), total)
            )
        return torch.cat(scale_sums)

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """See Term."""
        scale_counts = []
        for scale in SCALES:
            if _is_too_small(measured_BHW, scale):
                scale_counts.append(torch.zeros(7, dtype=torch.float64, device=measured_BHW.device))
                continue
            counted_BHW = _whole(_whole(measured_BHW, scale, scale), 3, 1)
            counts = zeros_and_counts(counted_BHW, *(_patches(counted_BHW, side) for side in PATCHES))
            scale_counts.append(torch.cat([counts, counts[:1]]))  # the sum of directions is 0, too
        return torch.cat(scale_counts)

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        magnitude, pixels, three, threes, five, fives, direction = sums_K.view(len(SCALES), 7).unbind(1)
        spread = (mean(three, threes) + mean(five, fives)) / 2
        without_direction = self.magnitude * mean(magnitude, pixels) + self.spread * spread
        return (without_direction + self.direction * mean(direction, pixels)).mean()


def _edge_sums(predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total) -> Tensor:
    """Compute the seven sums of PatchGradient at one resolution, from log heights."""
    counted_BHW = _whole(measured_BHW, 3, 1)
    steepness, directions = [], []
    for log_BHW in (predicted_BHW, height_BHW):
        x_BHW, y_BHW = sobel(log_BHW), sobel(log_BHW.mT).mT
        steepness.append((x_BHW.square() + y_BHW.square() + FLAT**2).sqrt())
        directions.append(torch.stack([x_BHW, y_BHW]) / steepness[-1])
    totals = sum_and_count((steepness[0] - steepness[1]).abs(), counted_BHW, total)
    for side in PATCHES:
        patches_BHW = _patches(counted_BHW, side)
        if patches_BHW is None:
            totals += [torch.zeros_like(totals[0])] * 2
            continue
        spread = [max_pool2d(m_BHW, side, 1) + max_pool2d(-m_BHW, side, 1) for m_BHW in steepness]
        totals += sum_and_count((spread[0] - spread[1]).abs(), patches_BHW, total)
    turned_BHW = (directions[0] - directions[1]).square().sum(0) / 2
    return torch.stack([*totals, sum_and_count(turned_BHW, counted_BHW, total)[0]])


def sobel(values_BHW: Tensor) -> Tensor:
    """Return 8 times the slope per pixel along W, (B, H - 2, W - 2); rows are averaged as 1 : 2 : 1."""
    # No convolution, since autocast would compute it in half precision.
    rows_BHW = values_BHW[:, :-2] + 2 * values_BHW[:, 1:-1] + values_BHW[:, 2:]
    return rows_BHW[:, :, 2:] - rows_BHW[:, :, :-2]


def _is_too_small(measured_BHW: Tensor, scale: int) -> bool:
    """Tell whether there is no chip, or fewer than the three pixels that Sobel needs at this resolution."""
    return not len(measured_BHW) or min(measured_BHW.shape[1:]) < scale * 3


def _patches(counted_BHW: Tensor, side: int) -> Tensor | None:
    """Tell for each patch of `side` pixels whether all of it counts; None if there is no room for a patch."""
    return None if min(counted_BHW.shape[1:]) < side else _whole(counted_BHW, side, 1)


def _whole(measured_BHW: Tensor, side: int, stride: int) -> Tensor:
    """Tell for each square of `side` pixels whether all of it is measured."""
    return max_pool2d((~measured_BHW).float(), side, stride) == 0
