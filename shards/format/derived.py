"""Values of bands from stored numbers: scale and offset of each, and bands made of two others.

schema = with_values(schema, ("vv_vh = vv - vh",), scale=("30/255",), offset=("-30",))

The values themselves: `shards.format.band_values`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from shards.errors import InputError

_FORMULA = re.compile(
    r"\s*(?P<name>[^\s=]+)\s*=\s*"
    # Without spaces around it, a sign could also belong to a band's name.
    r"(?:(?P<first>\w+)(?P<sign>[-+])(?P<second>\w+)|(?P<a>[^\s=]+)\s+(?P<op>[-+])\s+(?P<b>[^\s=]+))\s*"
)


@dataclass(frozen=True)
class DerivedBand:
    """A band that is not stored: the difference or the sum of two stored ones, in their unit."""

    name: str
    first: str
    """Name of a stored band."""
    sign: Literal["-", "+"]
    second: str
    """Name of a stored band."""

    def __str__(self) -> str:
        return f"{self.name} = {self.first} {self.sign} {self.second}"

    @property
    def factor(self) -> float:
        """Factor of the second band."""
        return -1.0 if self.sign == "-" else 1.0

    @classmethod
    def parse(cls, text: str) -> "DerivedBand":
        """Read a formula such as "vv_vh = vv - vh".

        Raises:
            InputError: it has another form.
        """
        found = _FORMULA.fullmatch(text)
        if not found:
            raise InputError(f'--derive {text!r}: cannot be read; give "NAME = BAND - BAND", or with +')
        parts = found.group("first", "sign", "second") if found["first"] else found.group("a", "op", "b")
        first, sign, second = parts
        return cls(found["name"], first, "-" if sign == "-" else "+", second)


def check_derived(derived: Sequence[DerivedBand], bands: Sequence[str]) -> None:
    """Refuse derived bands that cannot be made of these stored `bands`, or whose name is taken.

    Raises:
        InputError: says which.
    """
    names: set[str] = set()
    for band in derived:
        DerivedBand.parse(str(band))  # so that a manifest keeps it; not with spaces in a name
        unknown = [name for name in (band.first, band.second) if name not in bands]
        if unknown:
            raise InputError(
                f"--derive {str(band)!r}: no stored band {' or '.join(unknown)}: there are {' '.join(bands)}"
            )
        if band.first == band.second:
            raise InputError(f"--derive {str(band)!r}: says nothing new; name two different bands")
        if band.name in bands:
            raise InputError(f"--derive {str(band)!r}: {band.name} is a stored band; choose another name")
        if band.name in names:
            raise InputError(f"--derive {str(band)!r}: another derived band has that name; choose another")
        names.add(band.name)


def numbers_of_bands(
    option: str, words: Sequence[str], bands: Sequence[str], otherwise: Sequence[float]
) -> tuple[float, ...]:
    """Read a number for each band from words such as "30/255" (for all bands) and "vv=0.1" (for one).

    Args:
        option: name of the option, for messages.
        words: numbers or fractions; one for a band counts more than the one for all.
        bands: names of the stored bands.
        otherwise: number of each band, for those that no word names.

    Raises:
        InputError: a word is no number, names no band, or says what another has said.
    """
    said: dict[str, float] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if name and name not in bands:
            raise InputError(f"--{option} {word}: no stored band {name}: there are {' '.join(bands)}")
        if name in said:
            raise InputError(f"--{option} {word}: is given twice; leave one out")
        said[name] = _number(option, word, number)
    return tuple(said.get(band, said.get("", number)) for band, number in zip(bands, otherwise, strict=True))


def _number(option: str, word: str, number: str) -> float:
    try:
        return float(Fraction(number))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"--{option} {word}: not a number; give one for all bands (0.5 or 30/255), or NAME=NUMBER"
        ) from error


def check_numbers(scale: Sequence[float], offset: Sequence[float], bands: Sequence[str]) -> None:
    """Refuse scales and offsets that make no values.

    Raises:
        InputError: a scale is 0, one of them is not a number, or there are not as many as bands.
    """
    for option, numbers in (("scale", scale), ("offset", offset)):
        if numbers and len(numbers) != len(bands):
            raise InputError(f"--{option}: {len(numbers)} numbers for {len(bands)} bands")
        for band, number in zip(bands, numbers, strict=False):
            with np.errstate(
                over="ignore", under="ignore"
            ):  # values are float32, so what that makes of it counts
                held = np.float32(number)
            if not np.isfinite(held) or (option == "scale" and not held):
                wanted = "a number other than 0" if option == "scale" else "a finite number"
                raise InputError(f"--{option} {band}={number:g}: give {wanted}")
