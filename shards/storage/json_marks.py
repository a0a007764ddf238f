"""Demands on a value of JSON besides its type: metadata of `Annotated` in the dataclasses it is read into."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Mark(Protocol):
    """A demand on a value besides its type, as metadata of `Annotated`."""

    @property
    def words(self) -> str:
        """Words behind those of the type, e.g. "of at least 0"; "": none."""

    def accepts(self, value: Any) -> bool:
        """Tell whether a value of the right type is right; InputError says more."""


@dataclass(frozen=True)
class AtLeast:
    """A number must be at least this."""

    low: float

    @property
    def words(self) -> str:
        """Say what is wanted."""
        return f"of at least {self.low:,}"

    def accepts(self, value: Any) -> bool:
        """Compare a number."""
        return bool(value >= self.low)


@dataclass(frozen=True)
class Between:
    """A number must be from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def words(self) -> str:
        """Say what is wanted."""
        return f"from {self.low:,} to {self.high:,}"

    def accepts(self, value: Any) -> bool:
        """Compare a number."""
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True)
class Matching:
    """A text must be as the regular expression says, from its beginning to its end."""

    pattern: str
    words: str

    def accepts(self, value: Any) -> bool:
        """Compare a text."""
        return re.fullmatch(self.pattern, value) is not None


HEXADECIMAL = Matching("[0-9a-f]{16}", "of sixteen hexadecimal digits")
"""An XXH3, or a fingerprint."""


@dataclass(frozen=True)
class Checked:
    """A value must pass a function that raises InputError."""

    check: Callable[[Any], object]
    words: str = ""

    def accepts(self, value: Any) -> bool:
        """Call the function."""
        self.check(value)
        return True


@dataclass(frozen=True)
class NotFinite:
    """A number may be NaN or infinite."""

    words: str = ""

    def accepts(self, value: Any) -> bool:
        """Accept any number."""
        return True
