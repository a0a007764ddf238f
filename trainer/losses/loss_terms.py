"""The terms of losses. Each computes a few sums over measured pixels, and a value from the sums.

    squared  absolute  smooth_l1  asymmetric  asymmetric_focal  charbonnier     errors of single pixels
    silog                                                                       logarithms of heights
    gradient                                                                    differences of neighbours
    patch_gradient, in trainer.losses.patch_gradient                               edges
    a user's own, in trainer.losses.own_term

Sums add up over batches and ranks; averages do not if the parts have unequal numbers of measured pixels. Most
terms are such averages: their slope follows from the counts, which are known before any prediction. A term's
fields are its keys (`asymmetric(factor=3)`). Heights are metres; predictions are unclamped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

ABOVE_0, NOT_BELOW_0, SHARE, FINITE = "above 0", "of 0 or more", "from 0 to 1", "that is finite"
MUST_BE = "must be"
"""Key in a field's metadata for the one of these that its number must be."""


Total = Callable[[Tensor], Tensor]
"""Function that adds up values of pixels (B, H, W) in float64: of all chips, or of each chip (B,)."""


def over_chips(values_BHW: Tensor) -> Tensor:
    """Add up the values of all chips: a scalar, differentiable."""
    return values_BHW.sum(dtype=torch.float64)


class Term(Protocol):
    """One term of a loss."""

    sum_count: ClassVar[int]
    """Number of sums that the term needs (K)."""
    counts_tell_slope: ClassVar[bool]
    """Whether the slope of `value` depends on nothing but `counts`."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute sums_K, float64 and differentiable, over the pixels where the bool `measured_BHW` is true.

        Elsewhere both heights may have any value, even NaN: they do not count, and their gradient is 0. If
        `total` adds up the values of each chip, they are sums_KB.
        """

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """Return sums_K in which the counts are those of `sums`, and all else is 0."""

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute the loss (a scalar) from the sums over all ranks' pixels; 0 if none is measured."""


def key(default: float, must_be: str) -> float:
    """Make a field for a term's key."""
    number: float = field(default=default, metadata={MUST_BE: must_be})
    return number


def filled(height_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """Set heights to 0 where nothing is measured, in float32 at least: sums in half precision are coarse."""
    precise = torch.promote_types(height_BHW.dtype, torch.float32)
    return height_BHW.to(precise).masked_fill(~measured_BHW, 0.0)


def sum_and_count(values: Tensor, counted: Tensor, total: Total) -> list[Tensor]:
    """Sum `values` where the bool `counted` is true, and count these, in float64.

    float32 counts no further than 2^24 = 16,777,216, which 4,096 chips of 64 x 64 pixels reach.
    """
    return [total(values.masked_fill(~counted, 0.0)), total(counted)]


def zeros_and_counts(*counted: Tensor | None) -> Tensor:
    """Return 0 and the count of each of these masks in turn; for None 0 and 0."""
    counts = [None if one is None else over_chips(one) for one in counted]
    zero = next(one for one in counts if one is not None).new_zeros(())
    return torch.stack([part for one in counts for part in (zero, zero if one is None else one)])


def mean(sum_: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by its count; 0 if nothing counts."""
    return sum_ / count.clamp(min=1)


# --- errors of single pixels ---


class MeanCost(ABC):
    """Mean over pixels of each pixel's cost."""

    sum_count: ClassVar[int] = 2
    counts_tell_slope: ClassVar[bool] = True

    @abstractmethod
    def cost_at(self, predicted_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """Return cost_BHW of predicted heights where these are measured, in metres."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of costs, number of pixels)."""
        cost_BHW = self.cost_at(filled(predicted_BHW, measured_BHW), filled(height_BHW, measured_BHW))
        return torch.stack(sum_and_count(cost_BHW, measured_BHW, total))

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """See Term."""
        return zeros_and_counts(measured_BHW)

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute the cost per pixel."""
        return mean(sums_K[0], sums_K[1])


class PixelTerm(MeanCost):
    """Mean over pixels of a cost that depends on the error, and perhaps on the measured height."""

    @abstractmethod
    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """Return cost_BHW of errors in metres (predicted minus measured) at these measured heights."""

    def cost_at(self, predicted_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See MeanCost."""
        return self.cost(predicted_BHW - height_BHW, height_BHW)


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

    beta: float = key(1.0, ABOVE_0)
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

    epsilon: float = key(1e-3, ABOVE_0)
    """Radius of the tip in metres."""

    def cost(self, error_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See the class."""
        return (error_BHW.square() + self.epsilon**2).sqrt() - self.epsilon


@dataclass(frozen=True)
class Asymmetric(PixelTerm):
    """Squared error in square metres, times `factor` where the prediction is too low.

    Tall shrubs and trees are rare, and missing them is the costlier error.
    """

    factor: float = key(3.0, ABOVE_0)
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

    factor: float = key(3.0, ABOVE_0)
    """Cost of a prediction that is too low, as a multiple of one that is too high."""
    gamma: float = key(1.0, NOT_BELOW_0)
    """Excess of the exponent over 2."""
    threshold: float = key(2.0, NOT_BELOW_0)
    """Measured height in metres above which vegetation is tall."""
    tall_gamma: float = key(1.0, NOT_BELOW_0)
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
    counts_tell_slope: ClassVar[bool] = False
    variance: float = key(0.85, SHARE)
    """Weight of the squared mean. With 1 a common factor of all predictions costs nothing; with 0 it costs
    the plain error of logarithms."""
    smallest: float = key(1e-3, ABOVE_0)
    """Height in metres below which everything counts as ground."""

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of d^2, sum of d, number of pixels)."""
        predicted_BHW = filled(predicted_BHW, measured_BHW)
        height_BHW = filled(height_BHW, measured_BHW).clamp(min=self.smallest)
        d_BHW = mirrored_log(predicted_BHW, self.smallest) - mirrored_log(height_BHW, self.smallest)
        squares, count = sum_and_count(d_BHW.square(), measured_BHW, total)
        return torch.stack([squares, sum_and_count(d_BHW, measured_BHW, total)[0], count])

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """See Term."""
        zero, count = zeros_and_counts(measured_BHW)
        return torch.stack([zero, zero, count])

    def value(self, sums_K: Tensor) -> Tensor:
        """See the class."""
        squares, plain, count = sums_K
        inside = mean(squares, count) - self.variance * mean(plain, count).square()
        tip = 1e-4  # The slope of a root is infinite at 0; this rounds the tip, in units of log height.
        return (inside + tip**2).sqrt() - tip


# --- differences of neighbours ---


@dataclass(frozen=True)
class Gradient:
    """Mean of |predicted difference of neighbours - measured difference|, in metres per pixel.

    The mean runs over pairs of horizontal and of vertical neighbours that are both measured.
    """

    sum_count: ClassVar[int] = 2
    counts_tell_slope: ClassVar[bool] = True

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute (sum of absolute differences, number of pairs)."""
        # A difference of differences equals the difference of the errors.
        error_BHW = filled(predicted_BHW, measured_BHW) - filled(height_BHW, measured_BHW)
        totals = []
        for axis in (1, 2):
            pairs = _pairs(measured_BHW, axis)
            totals.append(torch.stack(sum_and_count(error_BHW.diff(dim=axis).abs(), pairs, total)))
        return totals[0] + totals[1]

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """See Term."""
        return zeros_and_counts(_pairs(measured_BHW, 1)) + zeros_and_counts(_pairs(measured_BHW, 2))

    def value(self, sums_K: Tensor) -> Tensor:
        """Compute metres per pair."""
        return mean(sums_K[0], sums_K[1])


def _pairs(measured_BHW: Tensor, axis: int) -> Tensor:
    """Tell for each pair of neighbours along `axis` whether both are measured."""
    later = measured_BHW.narrow(axis, 1, max(0, measured_BHW.shape[axis] - 1))
    return later & measured_BHW.narrow(axis, 0, later.shape[axis])
