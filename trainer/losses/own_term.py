"""Terms of the user's own, by import path: a function of heights, or a class that is a Term.

    def relative(predicted_BHW, height_BHW, least=1.0):          # cost_BHW; the term is its mean
        return (predicted_BHW - height_BHW).abs() / height_BHW.clamp(min=least)

Arguments after the first two are the term's keys. A small call on zeros shows that a term can be trained
with.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shards.errors import InputError
from shards.own_parts import blaming, imported
from trainer.losses.loss_terms import MeanCost, Term

TRIED_BHW = (2, 16, 16)
"""Shape of the zeros that a term is tried on."""
HEIGHTS = 2
"""Number of a function's first arguments, which are heights."""
PARTS = ("sum_count", "counts_tell_slope", "sums", "counts", "value")
"""Names that a class needs to be a Term."""


@dataclass(frozen=True)
class OwnCost(MeanCost):
    """Mean over pixels of a function of the user's own."""

    function: Callable[..., Tensor]
    """Function of (predicted_BHW, height_BHW) and keys that returns cost_BHW."""
    keys: Mapping[str, float]

    def cost_at(self, predicted_BHW: Tensor, height_BHW: Tensor) -> Tensor:
        """See MeanCost."""
        return self.function(predicted_BHW, height_BHW, **self.keys)


@dataclass(frozen=True)
class OwnKind:
    """Kind of a term of the user's own."""

    word: str
    """Option as it was given, for messages."""
    path: str
    made: Callable[..., Any]
    """Function of a pixel's cost, or class of a Term."""
    keys: Mapping[str, bool]
    """Whether a key may be left out, by its name."""

    def term(self, numbers: Mapping[str, float]) -> Term:
        """Make the term with these values of keys, and try it.

        Raises:
            InputError: a key is missing, or the term cannot be trained with.
        """
        for key, is_optional in self.keys.items():
            if not is_optional and key not in numbers:
                raise self.wrong(f"has no default for {key}; write {self.path}({key}=NUMBER)")
        with self.blaming("raised"):
            term = self.made(**numbers) if isinstance(self.made, type) else OwnCost(self.made, numbers)
        self._try(term)
        return term

    def wrong(self, what: str) -> InputError:
        """Return an error that says what is wrong with it."""
        return InputError(f"--loss {self.word}: {self.path} {what}")

    def blaming(self, doing: str) -> AbstractContextManager[None]:
        """Turn what its code raises into an InputError."""
        return blaming(f"--loss {self.word}: {self.path} {doing}")

    def _try(self, term: Term) -> None:
        """Call a term on zeros.

        Raises:
            InputError: shapes, numbers or gradients are not those of a loss.
        """
        predicted_BHW = torch.zeros(TRIED_BHW, requires_grad=True)
        zero_BHW, all_BHW = torch.zeros(TRIED_BHW), torch.ones(TRIED_BHW, dtype=torch.bool)
        with (
            torch.enable_grad(),
            torch.random.fork_rng(devices=[]),
            self.blaming("failed where all heights are 0"),
        ):
            if isinstance(term, OwnCost):
                cost_BHW = term.cost_at(predicted_BHW, zero_BHW)
                self._check("returns values", cost_BHW, TRIED_BHW, "; return a value for each pixel")
            sums_K = term.sums(predicted_BHW, zero_BHW, all_BHW)
            self._check("has sums", sums_K, (term.sum_count,))
            sums_KB = term.sums(
                predicted_BHW, zero_BHW, all_BHW, lambda one_BHW: one_BHW.double().sum((1, 2))
            )
            self._check("has sums of each chip", sums_KB, (term.sum_count, TRIED_BHW[0]))
            self._check("has counts", term.counts(all_BHW), (term.sum_count,))
            value = term.value(sums_K)
            self._check("has a value", value, ())
            (slope_BHW,) = (
                torch.autograd.grad(value, predicted_BHW, allow_unused=True)
                if value.requires_grad
                else (None,)
            )
        if slope_BHW is None:
            raise self.wrong("has no gradient to the predicted heights; compute with them, in torch")
        if not slope_BHW.isfinite().all():
            raise self.wrong(
                "has a gradient that is no number where predicted and measured heights are 0; round its tip, "
                "as sqrt(e * e + 1e-6)"
            )

    def _check(self, what: str, found: Any, shape: tuple[int, ...], cure: str = "") -> None:
        if not isinstance(found, Tensor):
            raise self.wrong(f"{what} of type {type(found).__name__}, not a tensor")
        if found.shape != shape:
            tried = f"for heights of shape {TRIED_BHW}"
            raise self.wrong(f"{what} of shape {tuple(found.shape)} instead of {shape} {tried}{cure}")
        if not found.is_floating_point() or not found.isfinite().all():
            raise self.wrong(f"{what} that are no finite numbers where all heights are 0")


def own_kind(word: str, path: str) -> OwnKind:
    """Import the kind of term that a path names.

    Args:
        word: the option as it was given.
        path: import path of the function or the class.

    Raises:
        InputError: it cannot be imported, or cannot be called as a term.
    """
    made = imported(f"--loss {word}", path)
    empty = OwnKind(word, path, made, {})
    if not callable(made):
        raise empty.wrong(f"is a {type(made).__name__}; name a function, or a class")
    with empty.blaming("has no signature that can be read"):
        arguments = list(inspect.signature(made).parameters.values())
    if isinstance(made, type):
        if lacks := [name for name in PARTS if not hasattr(made, name)]:
            raise empty.wrong(
                f"is a class without {', '.join(lacks)}; see Term in trainer/losses/loss_terms.py"
            )
    else:
        heights, arguments = arguments[:HEIGHTS], arguments[HEIGHTS:]
        if len(heights) < HEIGHTS or any(one.kind > one.POSITIONAL_OR_KEYWORD for one in heights):
            raise empty.wrong(
                "takes too few arguments; define it as f(predicted_BHW, height_BHW, KEY=NUMBER)"
            )
    if unnamed := [one.name for one in arguments if one.kind is one.POSITIONAL_ONLY]:
        raise empty.wrong(f"takes {unnamed[0]} by its place alone; keys are given by name")
    keys = [one for one in arguments if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return OwnKind(word, path, made, {one.name: one.default is not one.empty for one in keys})
