"""Options of training about its chips: which are chosen, and how they are changed.

A field is an option of `treeline train`: its text is the help of its flag.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated

from shards.errors import InputError
from shards.roles import Before, In, OnlyWith, Some, Usual
from trainer.options import OF_HEIGHTS, OF_PIXELS, refuse_out_of_range


@dataclass(frozen=True)
class AugmentOptions:
    """Augmentation of chips."""

    flips: bool = True
    """Whether to flip and turn chips at random, in all eight ways."""
    brightness: float = 0.0
    """Standard deviation of the random factor, around 1, on each band of a chip."""
    band_dropout: float = 0.0
    """Share (0..1) of a chip's bands that are replaced by their mean."""
    jitter: Annotated[float, Before(0.0)] = 0.0
    """Standard deviation of two random numbers for each band of a chip: one is added to the band (in the
    band's standard deviations), one, around 1, multiplies its distance from the mean."""
    crop: Annotated[int, Before(0), OnlyWith(task=OF_PIXELS)] = 0
    """Side in pixels of the square that is cut at random from each chip in each step; 0: the whole chip."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "brightness": (0 <= self.brightness < inf, "0 or more"),
                "jitter": (0 <= self.jitter < inf, "0 or more"),
                "crop": (self.crop >= 0, "0 or more"),
                "band_dropout": (0 <= self.band_dropout < 1, "0 or more and below 1"),
            },
        )


@dataclass(frozen=True)
class ChipOptions:
    """Choice of chips."""

    where: Annotated[str, Usual()] = ""
    """Chips to train and validate on, an expression over the index: "source != 'AK_IFSAR'"; default: all."""
    val_where: Annotated[str | None, Before("")] = None
    """Chips to validate on instead: an expression, or "" for all; default: as --where."""
    limit: Annotated[int | str | None, Usual()] = None
    """Number of chips to train on, or their share, as 1%; validation takes all. A smaller choice is part of
    any larger one."""
    per: Annotated[str, Before(""), OnlyWith(limit=Some())] = ""
    """Column of the index: --limit holds for the chips of each of its values, such as each region."""
    label_seed: Annotated[int, Before(0), OnlyWith(limit=Some())] = 0
    """Seed of the choice that --limit makes."""
    epoch_steps: Annotated[int, Before(0), In.OPTIMISER.late(4)] = 0
    """Least number of steps in an epoch; where there are too few chips, it meets them several times."""
    balance_heights: Annotated[tuple[float, ...], OF_HEIGHTS, In.OPTIMISER.late(4)] = ()
    """Edges (m) of bins of the chips' maximum height that are met equally often; default: as stored."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        self.limit_of(0)
        checks = {name: (getattr(self, name) >= 0, "0 or more") for name in ("label_seed", "epoch_steps")}
        refuse_out_of_range(self, checks)

    def limit_of(self, count: int) -> int | None:
        """Return how many of `count` chips --limit allows: of a share the nearest number, at least one.

        Raises:
            InputError: --limit is neither a number nor a share.
        """
        if self.limit is None or isinstance(self.limit, int):
            if self.limit is not None and self.limit < 0:
                raise InputError(
                    f"--limit {self.limit}: give a number of chips, 0 or more, or a share, as 1%"
                )
            return self.limit
        try:
            percent = float(self.limit.removesuffix("%"))
        except ValueError:
            percent = -1.0
        if not self.limit.endswith("%") or not 0 < percent <= 100:
            raise InputError(f"--limit {self.limit}: give a number of chips, or a share above 0%, up to 100%")
        return max(1, round(count * percent / 100))

    @property
    def validated_where(self) -> str:
        """The expression that chooses the validation chips; "" for all."""
        return self.where if self.val_where is None else self.val_where
