"""examples.npz of an evaluation: predicted heights of a few chips, the worst, the middle ones and the best.

Images and measured heights are in the dataset, under the same keys.
"""

import io
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.storage.objects import join, read_bytes
from trainer.score.chip_scores import ChipScores

EXAMPLES = "examples.npz"
EACH = 4
"""Number of worst chips, of middle ones and of best ones."""
DAMAGED = "copy it again, or evaluate again"
GROUPS = ("worst", "median", "best")
"""Names of the groups."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Predictions of some chips."""

    keys: tuple[str, ...]
    predicted_BHW: NDArray[np.float16]
    """Heights in metres; NaN where the image is missing."""

    def to_bytes(self) -> bytes:
        """Encode as an .npz; the same examples give the same bytes."""
        encoded = io.BytesIO()
        np.savez_compressed(encoded, keys=np.array(self.keys, str), predicted=self.predicted_BHW)
        return encoded.getvalue()


def example_rows(scores: ChipScores, each: int = EACH) -> dict[str, list[int]]:
    """Choose rows of the worst chips (the worst first), of middle ones and of the best (the best first).

    A chip is in one group only, so few chips make small groups.
    """
    ranked = scores.ranked.tolist()
    each = min(each, max(1, len(ranked) // len(GROUPS)))
    middle = max(0, (len(ranked) - each) // 2)
    worst = ranked[::-1][:each]
    found = {"worst": worst, "median": ranked[middle : middle + each], "best": ranked[:each]}
    taken = set[int]()
    for name, rows in found.items():
        found[name] = [row for row in rows if row not in taken]
        taken |= set(rows)
    return found


def read_examples(url: str) -> Examples:
    """Read the examples of the evaluation in the folder `url`.

    Raises:
        InputError: the file is missing or damaged.
    """
    where = join(url, EXAMPLES)
    try:
        with np.load(io.BytesIO(read_bytes(where)), allow_pickle=False) as stored:
            return Examples(tuple(map(str, stored["keys"])), stored["predicted"])
    except (BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{where}: cannot be understood; {DAMAGED}") from error
