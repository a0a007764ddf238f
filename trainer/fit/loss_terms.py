"""The terms of losses. Each computes a few sums over measured pixels, and a value from the sums.

    squared  absolute  smooth_l1  asymmetric  asymmetric_focal  charbonnier     errors of single pixels
    silog                                                                       logarithms of heights
    gradient  patch_gradient                                                    differences of neighbours

Sums add up over batches and ranks; averages do not if the parts have unequal numbers of measured pixels. The
fields of a term are its keys (`asymmetric(factor=3)`). Heights are metres; predictions are unclamped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, smooth_l1_loss

ABOVE_0, NOT_BELOW_0, SHARE = "above 0", "of 0 or more", "from 0 to 1"
MUST_BE = "must be"
"""Key in a field's metadata for the one of these three that its number must be."""


Total = Callable[[Tensor], Tensor]
"""Function that adds up values of pixels (B, H, W) in float64: of all chips, or of each chip (B,)."""


def over_chips(values_BHW: Tensor) -> Tensor:
    """Add up the values of all chips: a scalar, differentiable."""
    return values_BHW.sum(dtype=torch.float64)


class Term(Protocol):
    """One term of a loss."""

    sum_count: ClassVar[int]
    """Number of sums that the term needs (K)."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute sums_K, float64 and differentiable, over the pixels where the bool `measured_BHW` is true.

        Elsewhere both heights may have any value, even NaN: they do not count, and their gradient is 0. If
        `total` adds up the values of each chip, they are sums_KB.
        """

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute the loss (a scalar) from the sums over all ranks' pixels; 0 if none is measured."""


def _key(default: float, must_be: str) -> float:
    number: float = field(default=default, metadata={MUST_BE: must_be})
    return number


def _filled(height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """Set heights to 0 where nothing is measured, in float32 at least: sums in half precision are coarse."""
    precise = torch.promote_types(height_BHW.dtype, torch.float32)
    return height_BHW.to(precise).masked_fill(~measured_BHW, 0.0)


def _total(values: Tensor, counted: Tensor, total: Total) -> list[Tensor]:
    """Sum `values` where the bool `counted` is true, and count these, in float64.

    float32 counts no further than 2^24 = 16,777,216, which 4,096 chips of 64 x 64 pixels reach.
    """
    return [total(values.masked_fill(~counted, 0.0)), total(counted)]


def _mean(sum_: Tensor, count: Tensor) -> Tensor:
    return sum_ / count.clamp(min=1)


# --- errors of single pixels ---


class PixelTerm(ABC):
    """Mean over pixels of each pixel's cost."""

    sum_count: ClassVar[int] = 2

    @abstractmethod
    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """Return cost_BHW of errors in metres (predicted minus measured) at these measured heights."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of costs, number of pixels)."""
        height_BHW = _filled(height_BHW, measured_BHW)
        error_BHW = _filled(predicted_BHW, measured_BHW) - height_BHW
        return torch.stack(_total(self.cost(error_BHW, height_BHW), measured_BHW, total))

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute the cost per pixel."""
        return _mean(sums_K[0], sums_K[1])


@dataclass(frozen=True)
class Squared(PixelTerm):
    """Squared error, e^2, in square metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return error_BHW.square()


@dataclass(frozen=True)
class Absolute(PixelTerm):
    """Absolute error, |e|, in metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return error_BHW.abs()


@dataclass(frozen=True)
class SmoothL1(PixelTerm):
    """Smooth L1, in metres: e^2 / (2 beta) if |e| < beta, else |e| - beta / 2.

    From Girshick 2015, arXiv:1504.08083.
    """

    beta: float = _key(1.0, ABOVE_0)
    """Error in metres at which the square becomes a straight line."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return smooth_l1_loss(error_BHW, torch.zeros_like(error_BHW), reduction="none", beta=self.beta)


@dataclass(frozen=True)
class Charbonnier(PixelTerm):
    """Charbonnier loss, sqrt(e^2 + epsilon^2) - epsilon, in metres: |e| with a round tip.

    From Charbonnier et al. 1994, ICIP, where "- epsilon" is missing. It changes no gradient, and makes the
    loss of a perfect prediction 0.
    """

    epsilon: float = _key(1e-3, ABOVE_0)
    """Radius of the tip in metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return (error_BHW.square() + self.epsilon**2).sqrt() - self.epsilon


@dataclass(frozen=True)
class Asymmetric(PixelTerm):
    """Squared error in square metres, times `factor` where the prediction is too low.

    Tall shrubs and trees are rare, and missing them is the costlier error.
    """

    factor: float = _key(3.0, ABOVE_0)
    """Cost of a prediction that is too low, as a multiple of one that is too high."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return _dearer_if_low(error_BHW.square(), error_BHW, self.factor)


@dataclass(frozen=True)
class AsymmetricFocal(PixelTerm):
    """|e|^(2 + gamma), or |e|^(2 + gamma + tall_gamma) if tall; times `factor` where the prediction is low.

    It follows the notebook of github.com/nasa-nccs-hpda/CHM_DINOv3 (AsymmetricFocalMSELoss), which tried
    factor=1.5, gamma=0.5, threshold=10, tall_gamma=0.5. Errors are in metres: one above 1 m counts more than
    its square, one below 1 m counts less, and both effects are stronger for tall vegetation.
    """

    factor: float = _key(3.0, ABOVE_0)
    """Cost of a prediction that is too low, as a multiple of one that is too high."""
    gamma: float = _key(1.0, NOT_BELOW_0)
    """Excess of the exponent over 2."""
    threshold: float = _key(2.0, NOT_BELOW_0)
    """Measured height in metres above which vegetation is tall."""
    tall_gamma: float = _key(1.0, NOT_BELOW_0)
    """Further excess of the exponent if tall."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        size_BHW = error_BHW.abs()
        short_BHW = size_BHW.pow(2 + self.gamma)
        tall_BHW = size_BHW.pow(2 + self.gamma + self.tall_gamma)
        cost_BHW = torch.where(height_BHW > self.threshold, tall_BHW, short_BHW)
        return _dearer_if_low(cost_BHW, error_BHW, self.factor)


def _dearer_if_low(cost_BHW: Tensor, error_BHW: Tensor, factor: float) -> Tensor:
    return cost_BHW * (1.0 + (factor - 1.0) * (error_BHW < 0))


# --- logarithms of heights ---


def mirrored_log(height_BHW: Tensor, smallest: float) -> Tensor:
    """Return log h from s = `smallest` up; below s, 2 log s - log(2 s - h), the curve mirrored at (s, log s).

    A clamp would cut off the gradient of predictions at or below 0, and those pixels would stay there. A
    straight line would continue with the slope 1 / s = 1,000, and one pixel at -1 m would outweigh a whole
    batch. The mirrored curve has a slope of 1 / (s + distance from s) on either side.
    """
    above_BHW = (height_BHW - smallest) / smallest
    upper_BHW, lower_BHW = above_BHW.clamp(min=0).log1p(), (-above_BHW).clamp(min=0).log1p()
    return torch.where(above_BHW >= 0, upper_BHW, -lower_BHW) + log(smallest)


@dataclass(frozen=True)
class SiLog:
    """Scale-invariant loss sqrt(mean(d^2) - variance * mean(d)^2), d = log predicted - log measured.

    From Eigen et al. 2014, arXiv:1406.2283, with the root and the 0.85 of Lee et al. 2019, arXiv:1907.10326,
    who multiply by 10 (`silog:10`). Means run over all pixels of the batch. Measured heights below `smallest`
    count as `smallest`; for predictions see mirrored_log. Pixels of bare ground count: there a prediction of
    0.1 m has d = 4.6, the same as 100 m where 1 m is measured.
    """

    sum_count: ClassVar[int] = 3
    variance: float = _key(0.85, SHARE)
    """Weight of the squared mean. With 1 a common factor of all predictions costs nothing; with 0 it costs
    the plain error of logarithms."""
    smallest: float = _key(1e-3, ABOVE_0)
    """Height in metres below which everything counts as ground."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of d^2, sum of d, number of pixels)."""
        predicted_BHW = _filled(predicted_BHW, measured_BHW)
        height_BHW = _filled(height_BHW, measured_BHW).clamp(min=self.smallest)
        d_BHW = mirrored_log(predicted_BHW, self.smallest) - mirrored_log(height_BHW, self.smallest)
        squares, count = _total(d_BHW.square(), measured_BHW, total)
        return torch.stack([squares, _total(d_BHW, measured_BHW, total)[0], count])

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        squares, plain, count = sums_K
        inside = _mean(squares, count) - self.variance * _mean(plain, count).square()
        tip = 1e-4  # The slope of a root is infinite at 0; this rounds the tip, in units of log height.
        return (inside + tip**2).sqrt() - tip


# --- differences of neighbours ---


@dataclass(frozen=True)
class Gradient:
    """Mean of |predicted difference of neighbours - measured difference|, in metres per pixel.

    The mean runs over pairs of horizontal and of vertical neighbours that are both measured.
    """

    sum_count: ClassVar[int] = 2

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of absolute differences, number of pairs)."""
        # A difference of differences equals the difference of the errors.
        error_BHW = _filled(predicted_BHW, measured_BHW) - _filled(height_BHW, measured_BHW)
        totals = []
        for axis in (1, 2):
            pairs = measured_BHW.narrow(axis, 1, max(0, measured_BHW.shape[axis] - 1))
            pairs = pairs & measured_BHW.narrow(axis, 0, pairs.shape[axis])
            totals.append(torch.stack(_total(error_BHW.diff(dim=axis).abs(), pairs, total)))
        return totals[0] + totals[1]

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute metres per pair."""
        return _mean(sums_K[0], sums_K[1])


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
    smallest: float = _key(0.1, ABOVE_0)
    """Height in metres below which everything is as good as ground (see mirrored_log). The paper gives no
    number. With 1 mm the step from ground to a shrub of 0.1 m would equal the step from there to a tree of
    10 m."""
    magnitude: float = _key(0.3, NOT_BELOW_0)
    """Weight of steepness; default from the paper."""
    spread: float = _key(0.6, NOT_BELOW_0)
    """Weight of the spread, half of it for each size of patch; default from the paper."""
    direction: float = _key(0.4, NOT_BELOW_0)
    """Weight of direction; default from the paper."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute seven sums for each resolution.

        They are (magnitude, pixels, spread in 3 x 3, patches of 3 x 3, spread in 5 x 5, patches of 5 x 5,
        direction).
        """
        predicted_BHW, height_BHW = _filled(predicted_BHW, measured_BHW), _filled(height_BHW, measured_BHW)
        scale_sums = []
        for scale in SCALES:
            if not len(height_BHW) or min(height_BHW.shape[1:]) < scale * 3:  # Sobel needs three pixels
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

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        magnitude, pixels, three, threes, five, fives, direction = sums_K.view(len(SCALES), 7).unbind(1)
        spread = (_mean(three, threes) + _mean(five, fives)) / 2
        without_direction = self.magnitude * _mean(magnitude, pixels) + self.spread * spread
        return (without_direction + self.direction * _mean(direction, pixels)).mean()


def _edge_sums(predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total) -> Tensor:
    """Compute the seven sums of PatchGradient at one resolution, from log heights."""
    counted_BHW = _whole(measured_BHW, 3, 1)
    steepness, directions = [], []
    for log_BHW in (predicted_BHW, height_BHW):
        x_BHW, y_BHW = sobel(log_BHW), sobel(log_BHW.mT).mT
        steepness.append((x_BHW.square() + y_BHW.square() + FLAT**2).sqrt())
        directions.append(torch.stack([x_BHW, y_BHW]) / steepness[-1])
    totals = _total((steepness[0] - steepness[1]).abs(), counted_BHW, total)
    for side in PATCHES:
        if min(counted_BHW.shape[1:]) < side:
            totals += [torch.zeros_like(totals[0])] * 2
            continue
        spread = [max_pool2d(m_BHW, side, 1) + max_pool2d(-m_BHW, side, 1) for m_BHW in steepness]
        totals += _total((spread[0] - spread[1]).abs(), _whole(counted_BHW, side, 1), total)
    turned_BHW = (directions[0] - directions[1]).square().sum(0) / 2
    return torch.stack([*totals, _total(turned_BHW, counted_BHW, total)[0]])


def sobel(values_BHW: Tensor) -> Tensor:
    """Return 8 times the slope per pixel along W, (B, H - 2, W - 2); rows are averaged as 1 : 2 : 1."""
    # No convolution, since autocast would compute it in half precision.
    rows_BHW = values_BHW[:, :-2] + 2 * values_BHW[:, 1:-1] + values_BHW[:, 2:]
    return rows_BHW[:, :, 2:] - rows_BHW[:, :, :-2]


def _whole(measured_BHW: Tensor, side: int, stride: int) -> Tensor:
    """Tell for each square of `side` pixels whether all of it is measured."""
    return max_pool2d((~measured_BHW).float(), side, stride) == 0
