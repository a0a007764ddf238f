"""Layout of the sums of self-distillation, which add up over pieces and ranks, and the loss from them."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from trainer.fit.objective import Numbers
from trainer.pretrain.distillation import HealthSums
from trainer.pretrain.ibot import PATCH_SUMS
from trainer.pretrain.koleo import KOLEO_SUMS, compared

CLASS_SUMS = 4


class Parts(NamedTuple):
    """Parts of the sums; those of a loss that is off are empty."""

    classes: Tensor
    """Cross entropies of class tokens, pairs, agreements, and tiles that were asked whether they agree."""
    koleo: Tensor
    """Terms and their number; see trainer.pretrain.koleo."""
    ibot: Tensor
    """Cross entropies of crops' hidden patches, and number of such crops; see trainer.pretrain.ibot."""
    health: Tensor
    """See HealthSums."""
    patch_health: Tensor
    """The same of hidden patches."""


@dataclass(frozen=True)
class DinoSums:
    """Layout of the sums, and weights of the losses."""

    koleo: float
    """Weight of KoLeo; 0: none."""
    ibot: float
    """Weight of the loss of hidden patches; 0: none."""
    health: HealthSums
    """Layout of the sums of health, of class tokens as of patches."""

    @property
    def _lengths(self) -> list[int]:
        return [
            CLASS_SUMS,
            KOLEO_SUMS * bool(self.koleo),
            PATCH_SUMS * bool(self.ibot),
            self.health.length,
            self.health.length * bool(self.ibot),
        ]

    def parts(self, sums_K: Tensor) -> Parts:
        """Take sums apart."""
        return Parts(*sums_K.split(self._lengths))

    def known(self, pairs: Tensor, seen_V: Tensor, masked: Tensor) -> Tensor:
        """Return sums_K in which the numbers of terms are right and all else is 0.

        Args:
            pairs: number of pairs of views.
            seen_V: number of tiles with pixels in each global view.
            masked: number of crops with hidden patches.
        """
        sums_K = pairs.new_zeros(sum(self._lengths))
        parts = self.parts(sums_K)
        parts.classes[1] = pairs
        if self.koleo:
            parts.koleo[1] = compared(seen_V).sum()
        if self.ibot:
            parts.ibot[1] = masked
        return sums_K

    def value(self, sums_K: Tensor) -> Tensor:
        """Return the loss: the mean over tiles and pairs of views, and the weighted means of the others."""
        parts = self.parts(sums_K)
        value = _mean(parts.classes)
        if self.koleo:
            value = value + self.koleo * _mean(parts.koleo)
        if self.ibot:
            value = value + self.ibot * _mean(parts.ibot)
        return value

    def losses(self, sums_K: Tensor) -> Numbers:
        """Return each loss without its weight; nothing where there is only one."""
        parts, numbers = self.parts(sums_K), Numbers()
        if self.koleo or self.ibot:
            numbers["loss_dino"] = float(_mean(parts.classes))
        if self.koleo:
            numbers["loss_koleo"] = float(_mean(parts.koleo))
        if self.ibot:
            numbers["loss_ibot"] = float(_mean(parts.ibot))
        return numbers


def _mean(sums: Tensor) -> Tensor:
    """Divide the first sum by the second, which is a number of terms."""
    return sums[0] / sums[1].clamp(min=1)
