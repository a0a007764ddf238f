"""What losses are made of: each term is a few sums over measured pixels, and a value made of the sums.

    squared  absolute  smooth_l1  asymmetric  asymmetric_focal  charbonnier     of each pixel's error
    silog                                                                       of logarithms of heights
    gradient  patch_gradient                                                    of differences of neighbours

Sums add up over batches and ranks; averages do not, where parts have unequal numbers of measured pixels.
The fields of a term are its keys (`asymmetric(factor=3)`). Heights are metres; predictions are unclamped.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, smooth_l1_loss

ABOVE_0, NOT_BELOW_0, SHARE = "above 0", "0 or more", "from 0 to 1"
MUST_BE = "must be"
"""Where a field's metadata says which of the three its number is."""


class Term(Protocol):
    """One term of a loss."""

    sum_count: ClassVar[int]
    """K: how many sums it needs."""

    def sums(self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
        """sums_K, float64 and differentiable, over the pixels where the bool `measured_BHW` is true.

        Elsewhere both heights may be anything, NaN too: they count nothing and get a gradient of 0.
        """

    def value(self, sums_K: Tensor) -> Tensor:
        """The loss (a scalar) from the sums over all pixels of all ranks; 0 if none is measured."""


def _key(default: float, must_be: str) -> float:
    number: float = field(default=default, metadata={MUST_BE: must_be})
    return number


def _filled(height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """The heights, 0 where nothing is measured, in float32 at least: half precision is too coarse to sum."""
    precise = torch.promote_types(height_BHW.dtype, torch.float32)
    return height_BHW.to(precise).masked_fill(~measured_BHW, 0.0)


def _total(values: Tensor, counted: Tensor) -> list[Tensor]:
    """[sum of `values` where the bool `counted` is true, how many these are] in float64.

    float32 counts no further than 2^24 = 16,777,216, fewer pixels than 4,096 chips have.
    """
    masked = values.masked_fill(~counted, 0.0)
    return [masked.sum(dtype=torch.float64), counted.sum(dtype=torch.float64)]


def _mean(sum_: Tensor, count: Tensor) -> Tensor:
    return sum_ / count.clamp(min=1)


# --- of each pixel's error ---


class PixelTerm(ABC):
    """The mean over pixels of a cost of each."""

    sum_count: ClassVar[int] = 2

    @abstractmethod
    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """cost_BHW of errors in metres (predicted minus measured) at these measured heights."""

    def sums(self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
        """(sum of costs, pixels)."""
        height_BHW = _filled(height_BHW, measured_BHW)
        error_BHW = _filled(predicted_BHW, measured_BHW) - height_BHW
        return torch.stack(_total(self.cost(error_BHW, height_BHW), measured_BHW))

    def value(self, sums_K: Tensor) -> Tensor:
        """Cost per pixel."""
        return _mean(sums_K[0], sums_K[1])


@dataclass(frozen=True)
class Squared(PixelTerm):
    """e^2, square metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return error_BHW.square()


@dataclass(frozen=True)
class Absolute(PixelTerm):
    """|e|, metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return error_BHW.abs()


@dataclass(frozen=True)
class SmoothL1(PixelTerm):
    """e^2 / (2 beta) for |e| < beta, |e| - beta / 2 beyond: metres (Girshick 2015, arXiv:1504.08083)."""

    beta: float = _key(1.0, ABOVE_0)
    """Metres: where the square goes over into the straight line."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return smooth_l1_loss(error_BHW, torch.zeros_like(error_BHW), reduction="none", beta=self.beta)


@dataclass(frozen=True)
class Charbonnier(PixelTerm):
    """sqrt(e^2 + epsilon^2) - epsilon, metres: |e| with a round tip (Charbonnier et al. 1994, ICIP).

    The published form lacks the last summand, which changes no gradient and makes a perfect prediction 0.
    """

    epsilon: float = _key(1e-3, ABOVE_0)
    """Metres: how round the tip is."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return (error_BHW.square() + self.epsilon**2).sqrt() - self.epsilon


@dataclass(frozen=True)
class Asymmetric(PixelTerm):
    """e^2, and factor times that where the prediction is too low, square metres.

    Tall shrubs and trees are rare, and missing them is the costlier error.
    """

    factor: float = _key(3.0, ABOVE_0)
    """How many times more a too low prediction costs than a too high one."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return _dearer_if_low(error_BHW.square(), error_BHW, self.factor)


@dataclass(frozen=True)
class AsymmetricFocal(PixelTerm):
    """|e|^(2 + gamma), above the threshold |e|^(2 + gamma + tall_gamma); factor times that where too low.

    As in the notebook of github.com/nasa-nccs-hpda/CHM_DINOv3 (AsymmetricFocalMSELoss), which tried
    factor=1.5, gamma=0.5, threshold=10, tall_gamma=0.5. Errors are in metres: what is above 1 m off counts
    more than its square, what is less than 1 m off counts less, and the tall the more so.
    """

    factor: float = _key(3.0, ABOVE_0)
    """How many times more a too low prediction costs than a too high one."""
    gamma: float = _key(1.0, NOT_BELOW_0)
    """By how much the exponent is above 2."""
    threshold: float = _key(2.0, NOT_BELOW_0)
    """Metres: a measured height above it is tall."""
    tall_gamma: float = _key(1.0, NOT_BELOW_0)
    """By how much more the exponent is above 2 where it is tall."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        size_BHW = error_BHW.abs()
        short_BHW = size_BHW.pow(2 + self.gamma)
        tall_BHW = size_BHW.pow(2 + self.gamma + self.tall_gamma)
        cost_BHW = torch.where(height_BHW > self.threshold, tall_BHW, short_BHW)
        return _dearer_if_low(cost_BHW, error_BHW, self.factor)


def _dearer_if_low(cost_BHW: Tensor, error_BHW: Tensor, factor: float) -> Tensor:
    return cost_BHW * (1.0 + (factor - 1.0) * (error_BHW < 0))


# --- of logarithms of heights ---


def mirrored_log(height_BHW: Tensor, smallest: float) -> Tensor:
    """log h from s = `smallest` up, 2 log s - log(2 s - h) below: the curve mirrored at its point (s, log s).

    A clamp would cut the gradient off where a prediction is at or below 0, and those pixels would stay there.
    A straight line would carry the slope 1 / s = 1,000 on, and one pixel at -1 m would outweigh a whole
    batch. This has a slope of 1 / (s + the distance from s) on either side.
    """
    above_BHW = (height_BHW - smallest) / smallest
    upper_BHW, lower_BHW = above_BHW.clamp(min=0).log1p(), (-above_BHW).clamp(min=0).log1p()
    return torch.where(above_BHW >= 0, upper_BHW, -lower_BHW) + log(smallest)


@dataclass(frozen=True)
class SiLog:
    """sqrt(mean(d^2) - variance * mean(d)^2), d = log predicted - log measured: scale-invariant.

    Eigen et al. 2014, arXiv:1406.2283, with the root and 0.85 of Lee et al. 2019, arXiv:1907.10326, who
    multiply by 10 (`silog:10`). Means are over all pixels of the batch. Measured heights below `smallest`
    count as `smallest`; for predictions see mirrored_log. Pixels of bare ground count: a prediction of 0.1 m
    is 4.6 off there, as 100 m is where 1 m is measured.
    """

    sum_count: ClassVar[int] = 3
    variance: float = _key(0.85, SHARE)
    """1: a common factor of all predictions costs nothing; 0: the plain error of logarithms."""
    smallest: float = _key(1e-3, ABOVE_0)
    """Metres: what is below counts as ground."""

    def sums(self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
        """(sum of d^2, sum of d, pixels)."""
        predicted_BHW = _filled(predicted_BHW, measured_BHW)
        height_BHW = _filled(height_BHW, measured_BHW).clamp(min=self.smallest)
        d_BHW = mirrored_log(predicted_BHW, self.smallest) - mirrored_log(height_BHW, self.smallest)
        squares, count = _total(d_BHW.square(), measured_BHW)
        return torch.stack([squares, _total(d_BHW, measured_BHW)[0], count])

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        squares, plain, count = sums_K
        inside = _mean(squares, count) - self.variance * _mean(plain, count).square()
        tip = 1e-4  # The slope of a root is infinite at 0; this rounds it off, in units of log height.
        return (inside + tip**2).sqrt() - tip


# --- of differences of neighbours ---


@dataclass(frozen=True)
class Gradient:
    """Mean |difference of neighbours predicted - difference measured|, metres per pixel.

    Over pairs of horizontal and of vertical neighbours of which both are measured.
    """

    sum_count: ClassVar[int] = 2

    def sums(self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
        """(sum of absolute differences, pairs)."""
        # A difference of differences is one of errors.
        error_BHW = _filled(predicted_BHW, measured_BHW) - _filled(height_BHW, measured_BHW)
        totals = []
        for axis in (1, 2):
            pairs = measured_BHW.narrow(axis, 1, max(0, measured_BHW.shape[axis] - 1))
            pairs = pairs & measured_BHW.narrow(axis, 0, pairs.shape[axis])
            totals.append(torch.stack(_total(error_BHW.diff(dim=axis).abs(), pairs)))
        return totals[0] + totals[1]

    def value(self, sums_K: Tensor) -> Tensor:
        """Metres per pair."""
        return _mean(sums_K[0], sums_K[1])


SCALES = (1, 2, 4)
"""Pixels along a side that are averaged before anything else: full, half and quarter resolution."""
PATCHES = (3, 5)
"""Sides in pixels of the patches whose spread of steepness is compared."""
FLAT = 0.1
"""Sobel units of log height: 1.25 % of height per pixel. What is flatter has hardly a direction."""


@dataclass(frozen=True)
class PatchGradient:
    """CHMv2's loss of edges that are alike, though perhaps some pixels aside (arXiv:2603.06382, algorithm 1).

    Of log heights at three resolutions: Sobel's gradients g, their steepness m = sqrt(|g|^2 + FLAT^2), the
    spread r = max(m) - min(m) in each patch of 3 x 3 and of 5 x 5, the direction u = g / m. Then the mean of
    `magnitude` |dm| + `spread` |dr| + `direction` |du|^2 / 2, where d is predicted minus measured.

    It differs from the published algorithm in what that leaves open or has no need of. Subtracting the mean
    log height is left out: a gradient does not see it. |du|^2 / 2 is 1 - cos of the angle where both are
    steep, and 0 instead of 1 where both are flat. A pixel counts only if all that it is made of is measured:
    nothing is padded. A resolution at which none is counts 0. Diagonal gradients and soft extremes, which the
    paper's text has and its algorithm has not, are left out.
    """

    sum_count: ClassVar[int] = 7 * len(SCALES)
    smallest: float = _key(0.1, ABOVE_0)
    """Metres: lower heights are as good as ground, see mirrored_log. The paper gives no number; with 1 mm,
    the step from ground to a shrub of 0.1 m would be as large as from there to a tree of 10 m."""
    magnitude: float = _key(0.3, NOT_BELOW_0)
    """The paper's weight of steepness."""
    spread: float = _key(0.6, NOT_BELOW_0)
    """The paper's weight of the spread, of which either size of patch gets half."""
    direction: float = _key(0.4, NOT_BELOW_0)
    """The paper's weight of direction."""

    def sums(self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
        """Of each resolution (magnitude, pixels, spread in 3 x 3, patches, in 5 x 5, patches, direction)."""
        predicted_BHW, height_BHW = _filled(predicted_BHW, measured_BHW), _filled(height_BHW, measured_BHW)
        of_scales = []
        for scale in SCALES:
            if not len(height_BHW) or min(height_BHW.shape[1:]) < scale * 3:  # Sobel needs three pixels
                of_scales.append(predicted_BHW.sum(dtype=torch.float64).mul(0).expand(7))
                continue
            predicted_bhw = mirrored_log(avg_pool2d(predicted_BHW, scale), self.smallest)
            height_bhw = avg_pool2d(height_BHW, scale).clamp(min=self.smallest)
            # The same function: rounded otherwise, a perfect prediction would be pulled.
            height_bhw = mirrored_log(height_bhw, self.smallest)
            of_scales.append(_edge_sums(predicted_bhw, height_bhw, _whole(measured_BHW, scale, scale)))
        return torch.cat(of_scales)

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        magnitude, pixels, three, threes, five, fives, direction = sums_K.view(len(SCALES), 7).unbind(1)
        spread = (_mean(three, threes) + _mean(five, fives)) / 2
        of_scales = self.magnitude * _mean(magnitude, pixels) + self.spread * spread
        return (of_scales + self.direction * _mean(direction, pixels)).mean()


def _edge_sums(predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """The seven sums of PatchGradient at one resolution, of log heights."""
    counted_BHW = _whole(measured_BHW, 3, 1)
    steepness, directions = [], []
    for log_BHW in (predicted_BHW, height_BHW):
        x_BHW, y_BHW = sobel(log_BHW), sobel(log_BHW.mT).mT
        steepness.append((x_BHW.square() + y_BHW.square() + FLAT**2).sqrt())
        directions.append(torch.stack([x_BHW, y_BHW]) / steepness[-1])
    totals = _total((steepness[0] - steepness[1]).abs(), counted_BHW)
    for side in PATCHES:
        if min(counted_BHW.shape[1:]) < side:
            totals += [torch.zeros_like(totals[0])] * 2
            continue
        spread = [max_pool2d(m_BHW, side, 1) + max_pool2d(-m_BHW, side, 1) for m_BHW in steepness]
        totals += _total((spread[0] - spread[1]).abs(), _whole(counted_BHW, side, 1))
    turned_BHW = (directions[0] - directions[1]).square().sum(0) / 2
    return torch.stack([*totals, _total(turned_BHW, counted_BHW)[0]])


def sobel(values_BHW: Tensor) -> Tensor:
    """(B, H - 2, W - 2): 8 times the slope per pixel along W, averaged over three rows as 1 : 2 : 1."""
    # Not as a convolution, which mixed precision would compute in half precision.
    rows_BHW = values_BHW[:, :-2] + 2 * values_BHW[:, 1:-1] + values_BHW[:, 2:]
    return rows_BHW[:, :, 2:] - rows_BHW[:, :, :-2]


def _whole(measured_BHW: Tensor, side: int, stride: int) -> Tensor:
    """Whether each square of `side` pixels is measured everywhere."""
    return max_pool2d((~measured_BHW).float(), side, stride) == 0
