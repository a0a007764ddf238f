"""A model beside its baselines, in words: is it worth anything?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WORSE = "worse"
"""First word of the verdict on a model that loses against a baseline."""


@dataclass(frozen=True)
class Compared:
    """Errors of a model and of its baselines on the same chips, or tiles."""

    errors: Mapping[str, float]
    """Errors by name: first the model's, then a regression's, then that of a constant."""
    kind: str
    """Name of the error; lower is better."""
    shown: str
    """Format of an error, with its unit: "{:.2f} m"."""

    @property
    def verdict(self) -> str:
        """Say in a sentence which baselines the model beats; the worst that can be said of it comes first."""
        (_, ours), *theirs = self.errors.items()
        said = "better than both" if len(theirs) > 1 else f"better than the {theirs[0][0]}"
        for name, error in reversed(theirs):
            if not ours < error:
                said = f"{WORSE if ours > error else 'no better'} than the {name}"
                break
        others = " and ".join(f"{self.shown.format(error)} ({name})" for name, error in theirs)
        return f"{said}: {self.kind} {self.shown.format(ours)} against {others}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {"verdict": self.verdict, "error": self.kind, "errors": dict(self.errors)}
