"""Scores of single chips: the sums of each, as rows of chips.parquet, and which err most and least.

    scores = read_chip_scores("run/evaluation")
    scores.rows["key"].take(scores.ranked[-3:])       # the three worst chips
    scores.intervals(names)                           # of the RMSE, over blocks of ground

A row has what is known of a chip's place, the `block` of ground that it lies in, and sums over its pixels
with an image and a height, in metres and square metres: how many they are (`pixels`), their heights
(`height`, `height_squared`), and the regressor's errors (`error`, `absolute`, `squared`). Those of the
baselines follow, as `linear_error` and `mean_error`. Sums over rows are those of the whole evaluation.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.errors import DatasetError, InputError
from shards.format.index import read_table
from shards.format.manifest import understood
from shards.storage.objects import join
from trainer.score.binding import AGAIN, EVALUATION
from trainer.score.intervals import rmse_difference, rmse_interval
from trainer.score.metrics import SUMS, Metrics, metrics_of

CHIPS = "chips.parquet"
BLOCK = "block"
"""Column with the name of a chip's block of ground; "" where there are no blocks."""
NO_BLOCKS = "none: "
"""Start of what is said of blocks of ground where there are none; the reason follows."""
OWN, LINEAR, MEAN = "", "linear_", "mean_"
"""Starts of the columns of errors: the regressor's own, the regression's, the mean's."""
_PIXELS, _ERRORS, _HEIGHTS = "pixels", SUMS[1:4], SUMS[4:]
_SUMS = (*_HEIGHTS, *(f"{start}{name}" for start in (OWN, LINEAR, MEAN) for name in _ERRORS))
_ROUNDING = 1e-9
"""Largest share by which sums of chips differ from the total, which is rounded once."""


@dataclass(frozen=True, eq=False)
class ChipScores:
    """Sums of N chips."""

    rows: pa.Table
    """One row for each chip; see above."""

    @classmethod
    def of(cls, facts: pa.Table, sums_NPS: NDArray[np.float64]) -> "ChipScores":
        """Put facts of chips and their sums into one table.

        Args:
            facts: the chips' key, block and whatever else is known of them.
            sums_NPS: sums of each chip by prediction (the regressor's, the regression's, the mean's) and kind
                of sum (see trainer.score.metrics).
        """
        rows = facts.append_column(_PIXELS, pa.array(sums_NPS[:, 0, 0].astype(np.int64)))
        for name in _HEIGHTS:
            rows = rows.append_column(name, pa.array(sums_NPS[:, 0, SUMS.index(name)]))
        for place, start in enumerate((OWN, LINEAR, MEAN)):
            for name in _ERRORS:
                values_N = sums_NPS[:, place, SUMS.index(name)]
                rows = rows.append_column(f"{start}{name}", pa.array(values_N))
        return cls(rows)

    @property
    def evaluation(self) -> str:
        """What ties the rows to an evaluation (trainer.score.binding); "" in files of earlier versions."""
        return bytes((self.rows.schema.metadata or {}).get(EVALUATION.encode(), b"")).decode(errors="replace")

    @property
    def pixels_N(self) -> NDArray[np.int64]:
        """Number of pixels of each chip that have an image and a height."""
        return np.asarray(self.rows[_PIXELS].to_numpy())

    def sums_NS(self, start: str = OWN) -> NDArray[np.float64]:
        """Return the sums of each chip, in the order of SUMS, with the errors of these columns."""
        names = (_PIXELS, *(f"{start}{name}" for name in _ERRORS), *_HEIGHTS)
        return np.stack([self.rows[name].to_numpy().astype(np.float64) for name in names], axis=1)

    def metrics(self, chip: int) -> Metrics:
        """Return the regressor's metrics on the chip in this row."""
        return metrics_of(ChipScores(self.rows.slice(chip, 1)).sums_NS()[0])

    def adds_up_to(self, total: Metrics, start: str) -> bool:
        """Tell whether the chips' sums with the errors of these columns give this total."""
        found = metrics_of(self.sums_NS(start).sum(0))
        if found.count != total.count or not total.count:
            return found.count == total.count
        near = _ROUNDING * total.rmse
        return all(
            math.isclose(one, other, rel_tol=0, abs_tol=near)
            for one, other in ((found.mae, total.mae), (found.rmse, total.rmse), (found.bias, total.bias))
        )

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Rows of the chips with pixels by RMSE, the best one first; of equal ones in the order of keys."""
        sums_NS = self.sums_NS()
        there = np.flatnonzero(sums_NS[:, 0])
        mean_square = sums_NS[there, SUMS.index("squared")] / sums_NS[there, 0]
        keys = np.array(self.rows["key"].to_pylist(), object)[there]
        return there[sorted(range(there.size), key=lambda place: (mean_square[place], keys[place]))]

    def intervals(self, names: Sequence[str]) -> dict[str, Any]:
        """Return 95 % intervals of RMSEs over the blocks of ground, as plain JSON values; {} without blocks.

        Args:
            names: names of the regressor, the regression and the mean.

        Returns:
            number of blocks; by name both ends of the RMSE ("rmse") and, for a baseline, the regressor's RMSE
            less its own with both ends ("difference").
        """
        there_N = self.pixels_N > 0
        block_N = np.array(self.rows[BLOCK].to_pylist(), str)[there_N]
        blocks, place_N = np.unique(block_N, return_inverse=True)
        if len(blocks) < 2:
            return {}

        def added(values_N: NDArray[Any]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(place_N, values_N[there_N], len(blocks)), np.float64)

        counts_B = added(self.pixels_N)
        columns = zip(names, (OWN, LINEAR, MEAN), strict=True)
        squares = {name: added(self.rows[f"{start}squared"].to_numpy())[None] for name, start in columns}
        rmse = {name: rmse_interval(squares_DB, counts_B) for name, squares_DB in squares.items()}
        ours, *baselines = names
        less = {name: rmse_difference(squares[ours], squares[name], counts_B) for name in baselines}
        return {
            "blocks": len(blocks),
            "rmse": {name: [one.low, one.high] for name, one in rmse.items()},
            "difference": {name: [one.value, one.low, one.high] for name, one in less.items()},
        }

    def to_bytes(self, evaluation: str) -> bytes:
        """Encode the rows as a Parquet file that carries what ties them to this evaluation."""
        encoded = io.BytesIO()
        pq.write_table(self.rows.replace_schema_metadata({EVALUATION: evaluation}), encoded)
        return encoded.getvalue()


def read_chip_scores(url: str) -> ChipScores:
    """Read the chips of the evaluation in the folder `url`.

    Raises:
        InputError: the file is missing or damaged.
    """
    where = join(url, CHIPS)
    with understood(where, AGAIN):
        try:
            rows = read_table(where)
        except DatasetError as error:
            raise InputError(f"{where}: is damaged; {AGAIN}") from error
        _check(rows)
        return ChipScores(rows)


def _check(rows: pa.Table) -> None:
    """Refuse rows without the columns that are read here, or with others of these names.

    Raises:
        KeyError: a column is missing.
        ValueError: a column is of another type, or has a gap.
    """
    kinds: list[tuple[Callable[[pa.DataType], bool], tuple[str, ...]]] = [
        (_is_text, ("key", "crs")),
        (pa.types.is_integer, (_PIXELS,)),
        (pa.types.is_floating, ("x", "y", *_SUMS)),
    ]
    for is_kind, names in kinds:
        for name in names:
            kind = rows[name].type
            if not is_kind(kind):
                raise ValueError(f"the column {name} holds {kind}")
    for name in ("key", _PIXELS, *_SUMS):
        if rows[name].null_count:
            raise ValueError(f"the column {name} has gaps")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))
