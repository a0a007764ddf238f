"""A reader's position as a few plain values: enough to resume, also on another number of ranks."""

from dataclasses import asdict, dataclass
from typing import Any

from shards.errors import InputError


@dataclass(frozen=True)
class ReaderState:
    """Position of a reader: the next chip is at place `seen` of the order that (seed, epoch) gives."""

    epoch: int
    seen: int
    """Chips of this epoch that were read, over all ranks."""
    seed: int
    fingerprint: str
    """Fingerprint of the dataset and of the choice of chips in it."""

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ReaderState":
        """Make the state that `to_json` was called on.

        Raises:
            InputError: these are not a reader's values.
        """
        try:
            state = cls(**values)
        except TypeError as error:
            raise InputError(f"not the state of a reader: {values!r} ({error})") from error
        for name in ("epoch", "seen", "seed"):
            number = getattr(state, name)
            if type(number) is not int or number < 0:
                raise InputError(f"not the state of a reader: {name} {number!r} is not a number of 0 or more")
        if not isinstance(state.fingerprint, str):
            raise InputError(f"not the state of a reader: fingerprint {state.fingerprint!r} is not text")
        return state
