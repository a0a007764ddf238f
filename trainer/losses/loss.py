"""The loss: a weighted sum of terms, each a function of sums over every measured pixel.

    loss = parse_loss(("silog:1:0@0..0.3", "charbonnier:0:1@0..0.3", "patch_gradient:0:0.075@0.05..0.5"))
    local_K = loss.sums(predicted_BHW, height_BHW, measured_BHW)        # on each rank
    global_K = ranks.sum(local_K.detach())                              # the same on every rank
    surrogate(loss, local_K, global_K, share_done).backward()             # in trainer.fit.objective
    loss.value(global_K, share_done), loss.parts(global_K)                # for the log

A term is a word, NAME(KEY=NUMBER,...):WEIGHT:END_WEIGHT@FROM..TO, in which all but the name is optional. The
weight is WEIGHT (default 1). With END_WEIGHT it changes in a straight line from WEIGHT at FROM (default 0) to
END_WEIGHT at TO (default 1), and stays there. Before FROM the term is off. FROM and TO are shares of the
whole training. The words above are the stages of CHMv2 (arXiv:2603.06382, section 2.6). A name with a dot is
the import path of a term of the user's own (trainer.losses.own_term).
"""

import re
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf, isfinite

import torch
from torch import Tensor

from shards.errors import InputError
from trainer.losses.loss_terms import (
    ABOVE_0,
    FINITE,
    MUST_BE,
    NOT_BELOW_0,
    SHARE,
    Absolute,
    Asymmetric,
    AsymmetricFocal,
    Charbonnier,
    Gradient,
    SiLog,
    SmoothL1,
    Squared,
    Term,
    Total,
    over_chips,
)
from trainer.losses.own_term import own_kind
from trainer.losses.patch_gradient import PatchGradient

TERMS: dict[str, type[Term]] = {
    "squared": Squared,
    "absolute": Absolute,
    "smooth_l1": SmoothL1,
    "asymmetric": Asymmetric,
    "asymmetric_focal": AsymmetricFocal,
    "charbonnier": Charbonnier,
    "silog": SiLog,
    "gradient": Gradient,
    "patch_gradient": PatchGradient,
}
_WORD = re.compile(
    r"(?P<name>[^(:@]*)(\((?P<keys>[^()]*)\))?"
    r"(:(?P<weight>[^:@]*))?(:(?P<end>[^:@]*))?(@(?P<start>.*?)(\.\.(?P<stop>.*))?)?"
)
_BOUNDS = {ABOVE_0: (5e-324, inf), NOT_BELOW_0: (0.0, inf), SHARE: (0.0, 1.0), FINITE: (-inf, inf)}


@dataclass(frozen=True)
class Weighted:
    """A term with its weight over training."""

    name: str
    """Name of the term."""
    term: Term
    weight: float = 1.0
    """Weight at `start`."""
    end_weight: float = 1.0
    """Weight from `stop` on."""
    start: float = 0.0
    """Share (0..1) of training before which the term is off."""
    stop: float = 1.0
    """Share (0..1) of training at which the weight reaches `end_weight`."""

    def at(self, share_done: float) -> float:
        """Return the weight when this share (0..1) of training is done."""
        if share_done < self.start:
            return 0.0
        share = min(1.0, (share_done - self.start) / (self.stop - self.start))
        return self.weight + (self.end_weight - self.weight) * share


@dataclass(frozen=True)
class Loss:
    """Weighted terms; their sums lie one after another in sums_K."""

    terms: tuple[Weighted, ...]

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """Compute sums_K, float64 and differentiable; sums of batches and ranks add up.

        Args:
            predicted_BHW: metres, not clamped.
            height_BHW: metres; any value, for example NaN, where nothing is measured.
            measured_BHW: bool: the height is measured and the image valid.
            total: function that adds up values of pixels; if it does so for each chip, this returns sums_KB.
        """
        heights = predicted_BHW, height_BHW, measured_BHW
        return torch.cat([one.term.sums(*heights, total) for one in self.terms])

    @property
    def counts_tell_slope(self) -> bool:
        """Whether the slope of `value` depends on nothing but `counts`."""
        return all(one.term.counts_tell_slope for one in self.terms)

    def counts(self, measured_BHW: Tensor) -> Tensor:
        """Return sums_K in which the counts of pixels are those of `sums`, and all else is 0."""
        return torch.cat([one.term.counts(measured_BHW) for one in self.terms])

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """Compute the loss (a scalar) from all ranks' sums; 0 if nothing is measured.

        Args:
            sums_K: sums over all chips and ranks.
            share_done: share (0..1) of training that is done.
        """
        values = zip(self.terms, self._values(sums_K), strict=True)
        return torch.stack([one.at(share_done) * value for one, value in values]).sum()

    def parts(self, sums_K: Tensor) -> dict[str, float]:
        """Return the value of each term by its name, not weighted."""
        names = [one.name for one in self.terms]
        return dict(zip(names, torch.stack(self._values(sums_K.detach())).tolist(), strict=True))

    def _values(self, sums_K: Tensor) -> list[Tensor]:
        """Return the value of each term, not weighted."""
        term_sums = sums_K.split([one.term.sum_count for one in self.terms])
        return [one.term.value(part) for one, part in zip(self.terms, term_sums, strict=True)]


def parse_loss(words: tuple[str, ...]) -> Loss:
    """Make the loss that these words describe, in the form shown above.

    Raises:
        InputError: a word cannot be read, a term comes twice, or all terms are off at some time.
    """
    if not words:
        raise InputError(f"--loss: names no term; choose one of {', '.join(TERMS)}")
    terms = tuple(_parse_word(word) for word in words)
    for place, one in enumerate(terms):
        if one.name in [other.name for other in terms[:place]]:
            raise InputError(f"--loss {words[place]}: {one.name} is given twice; name each term once")
    changes = sorted({0.0, 1.0, *(one.start for one in terms), *(one.stop for one in terms)})
    for start, stop in pairwise(changes):
        if not any(one.at((start + stop) / 2) for one in terms):
            raise InputError(
                f"--loss {' '.join(words)}: all terms are off from {start:g} to {stop:g} of the training; "
                "give a term a weight there"
            )
    return Loss(terms)


def _parse_word(word: str) -> Weighted:
    found = _WORD.fullmatch(word)
    if not found:
        form = "NAME(KEY=NUMBER,...):WEIGHT:END_WEIGHT@FROM..TO"
        raise InputError(f"--loss {word}: cannot be read; write {form}, where only NAME is required")
    name, weight, end = found["name"], found["weight"], found["end"]
    if name not in TERMS and "." not in name:
        raise InputError(
            f"--loss {word}: there is no term {name!r}; choose one of {', '.join(TERMS)}, or name your own, "
            "package.module.function"
        )
    term = _new_term(word, name, found["keys"])
    first = _number(word, "the weight", weight, NOT_BELOW_0, 1.0)
    last = _number(word, "the end weight", end, NOT_BELOW_0, first)
    start = _number(word, "FROM", found["start"], SHARE, 0.0)
    stop = _number(word, "TO", found["stop"], SHARE, 1.0)
    if start >= stop:
        raise InputError(f"--loss {word}: ends at {stop:g} before it begins; let FROM be less than TO")
    if found["stop"] is not None and end is None:
        raise InputError(f"--loss {word}: TO is when END_WEIGHT is reached, but there is none; give both")
    return Weighted(name, term, first, last, start, stop)


def _new_term(word: str, name: str, keys: str | None) -> Term:
    """Make the term; `keys` is the text between the brackets, None without brackets."""
    own = own_kind(word, name) if name not in TERMS else None
    must_be = (
        dict.fromkeys(own.keys, FINITE)
        if own
        else {key.name: key.metadata[MUST_BE] for key in fields(TERMS[name])}  # type: ignore[arg-type]
    )
    numbers: dict[str, float] = {}
    for pair in keys.split(",") if keys else ():
        key, _, text = (part.strip() for part in pair.partition("="))
        if key not in must_be:
            choices = (
                f"choose one of {', '.join(must_be)}" if must_be else "it has no keys; leave the brackets out"
            )
            raise InputError(f"--loss {word}: {name} has no key {key!r}; {choices}")
        if key in numbers:
            raise InputError(f"--loss {word}: {key} is given twice; give it once")
        numbers[key] = _number(word, key, text, must_be[key], 0.0)
    return own.term(numbers) if own else TERMS[name](**numbers)


def _number(word: str, what: str, text: str | None, must_be: str, default: float) -> float:
    """Read the number in `text`; None gives `default`."""
    if text is None:
        return default
    lowest, highest = _BOUNDS[must_be]
    try:
        number = float(text)
    except ValueError:
        number = inf
    if not isfinite(number) or not lowest <= number <= highest:
        raise InputError(f"--loss {word}: {what} is {text!r}; it must be a number {must_be}")
    return number
