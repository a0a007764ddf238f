"""Errors of a matrix of trainings: predictions.parquet of `treeline matrix`, by pair of regions and by tile.

A row is a tile as one training predicted it: key, tested_on, trained_on, truth, predicted, and
columns that tell trainings apart. Trainings that differ in draw or seed alone are repetitions of one another.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.errors import InputError
from shards.storage.objects import read_bytes

NEEDED = ("key", "tested_on", "trained_on", "truth", "predicted")
OF_PIXEL_CLASSES = "right_predicted"
"""Column that a matrix of pixel classes has instead of truth and predictions."""
CONDITIONS = ("init", "tune", "limit", "share")
"""Columns that make another kind of training, as far as the file has them."""
REPEATED = ("draw", "seed")
"""Columns that number repetitions of one training."""
EVERY = "all trainings"
"""Name of the only kind, where nothing tells kinds apart."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Squared errors of tiles."""

    url: str
    table: pa.Table
    """Columns of NEEDED but truth and predicted, repetition, kind and square: the squared error."""
    kinds: tuple[str, ...]
    """Kinds of trainings, in the file's order."""

    def rmse_RR(self, kind: str, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return the RMSE of trainings on the row's region, tested on the column's; NaN: there is none.

        It is the mean over repetitions.
        """
        of_kind = self.table.filter(pc.equal(self.table["kind"], kind))
        squares = of_kind.group_by(["trained_on", "tested_on", "repetition"]).aggregate([("square", "mean")])
        total_RR, count_RR = np.zeros((2, len(names), len(names)))
        for row in squares.to_pylist():
            if row["trained_on"] in names and row["tested_on"] in names:
                place = names.index(row["trained_on"]), names.index(row["tested_on"])
                total_RR[place] += row["square_mean"] ** 0.5
                count_RR[place] += 1
        with np.errstate(invalid="ignore"):
            return np.asarray(total_RR / count_RR, np.float64)

    def of_tiles(self, kind: str, trained_on: str, region: str) -> dict[str, float]:
        """Return the error of each tile by key: the root of its mean square over repetitions."""
        conditions = (("kind", kind), ("trained_on", trained_on), ("tested_on", region))
        chosen = np.logical_and.reduce([np.asarray(pc.equal(self.table[name], v)) for name, v in conditions])
        squares = self.table.filter(pa.array(chosen)).group_by("key").aggregate([("square", "mean")])
        keys, means = squares["key"].to_pylist(), squares["square_mean"].to_pylist()
        return {key: mean**0.5 for key, mean in sorted(zip(keys, means, strict=True))}


def read_errors(url: str) -> Errors:
    """Read the predictions of a matrix.

    Raises:
        InputError: it is not such a file, or no tile has both a truth and a prediction.
    """
    try:
        table = pq.ParquetFile(pa.BufferReader(read_bytes(url))).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"--errors {url}: is not a Parquet file; give predictions.parquet of treeline matrix"
        ) from error
    of_pixels = OF_PIXEL_CLASSES in table.column_names
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing and not of_pixels:
        raise InputError(
            f"--errors {url}: has no column {', '.join(missing)}; give predictions.parquet of treeline matrix"
        )
    kinds = [] if of_pixels else [table[name].type for name in ("truth", "predicted")]
    if of_pixels or not all(pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in kinds):
        raise InputError(
            f"--errors {url}: holds classes, which have no squared error; give a matrix of numbers"
        )
    truth, predicted = (pc.cast(table[name], "float64") for name in ("truth", "predicted"))
    if "of_predicted" in table.column_names:  # heights: the mean square over a tile's pixels
        square = pc.divide(table["of_predicted"], pc.cast(table["pixels"], "float64"))
    else:
        square = pc.power(pc.subtract(predicted, truth), 2)
    columns = {name: pc.cast(table[name], "string") for name in ("key", "tested_on", "trained_on")}
    columns["kind"] = _joined(table, CONDITIONS, EVERY)
    columns["repetition"] = _joined(table, REPEATED, "")
    table = pa.table({**columns, "square": square})
    table = table.filter(pc.fill_null(pc.is_finite(table["square"]), False))
    if not table.num_rows:
        raise InputError(f"--errors {url}: no tile has both a truth and a prediction")
    return Errors(url, table, tuple(pc.unique(table["kind"]).to_pylist()))


def _joined(table: pa.Table, names: tuple[str, ...], default: str) -> pa.ChunkedArray:
    """Join the columns of these names that there are, as words."""
    there = [pc.fill_null(pc.cast(table[name], "string"), "") for name in names if name in table.column_names]
    if not there:
        return pa.chunked_array([pa.array([default] * table.num_rows, pa.string())])
    return pc.binary_join_element_wise(*there, " ")
