"""examples.npz of an evaluation: predicted heights of a few chips, the worst, the middle ones and the best.

Images and measured heights are in the dataset, under the same keys.
"""

import io
import zlib
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.manifest import understood
from shards.storage.objects import join, read_bytes
from trainer.score.binding import AGAIN, EVALUATION
from trainer.score.chip_scores import ChipScores

EXAMPLES = "examples.npz"
EACH = 4
"""Number of worst chips, of middle ones and of best ones."""
GROUPS = ("worst", "median", "best")
"""Names of the groups."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Predictions of some chips."""

    keys: tuple[str, ...]
    predicted_BHW: NDArray[np.float16]
    """Heights in metres; NaN where the image is missing."""
    evaluation: str = ""
    """Fingerprint of their evaluation (trainer.score.binding); "" in files of earlier versions."""

    def to_bytes(self, evaluation: str) -> bytes:
        """Encode as an .npz that carries what ties it to this evaluation; the same give the same bytes."""
        arrays: dict[str, Any] = {
            "keys": np.array(self.keys, str),
            "predicted": self.predicted_BHW,
            EVALUATION: np.array(evaluation),
        }
        encoded = io.BytesIO()
        np.savez_compressed(encoded, **arrays)
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
    with understood(where, AGAIN):
        try:
            with np.load(io.BytesIO(read_bytes(where)), allow_pickle=False) as stored:
                keys_B, predicted_BHW = stored["keys"], stored["predicted"]
                evaluation = str(stored[EVALUATION]) if EVALUATION in stored else ""
        except (BadZipFile, EOFError, OSError, zlib.error) as error:
            raise InputError(f"{where}: is no .npz file, or a damaged one; {AGAIN}") from error
        if keys_B.ndim != 1 or keys_B.dtype.kind != "U":
            raise ValueError("its keys are no list of texts")
        if predicted_BHW.ndim != 3 or predicted_BHW.dtype.kind != "f":
            raise ValueError("its predictions are no heights of chips")
        if len(keys_B) != len(predicted_BHW):
            raise ValueError(f"it has {len(keys_B)} keys, but predictions of {len(predicted_BHW)} chips")
        return Examples(tuple(map(str, keys_B)), predicted_BHW, evaluation)
