"""Where a reader is, as a few plain values; enough to go on, also on another number of ranks."""

from dataclasses import asdict, dataclass
from typing import Any

from shards.errors import InputError


@dataclass(frozen=True)
class ReaderState:
    """The next chip to be met is place `seen` of the order that (seed, epoch) gives to the chosen chips."""

    epoch: int
    seen: int
    """Chips of this epoch that were met, over all ranks."""
    seed: int
    fingerprint: str
    """Of the dataset and of the choice of chips in it."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ReaderState":
        """The inverse of `to_json`.

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
                raise InputError(f"not the state of a reader: {name} {number!r} is no number of 0 or more")
        if not isinstance(state.fingerprint, str):
            raise InputError(f"not the state of a reader: fingerprint {state.fingerprint!r} is no text")
        return state
