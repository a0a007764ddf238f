"""What a finished cell leaves: a Parquet file with a row for each test tile, and facts about the training.

key, tested_on, block        the tile, its region and its block of ground
truth                        label; of heights the mean of the measured pixels, metres
predicted, ridge, mean       predictions of the model, of the regression on bands, of the training mean
pixels                       measured or labelled pixels; 1 for labels of tiles
of_truth, of_predicted, ...  heights alone: sums of squared heights, and of squared errors of the three
right_predicted, ...         classes of pixels, instead of truth and predictions: pixels that are right
"""

import io
import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.sealed import SEAL
from shards.storage.json_marks import NotFinite
from shards.storage.json_text import parsed
from shards.storage.objects import read_bytes
from shards.storage.typed_json import typed_as

PREDICTORS = ("predicted", "ridge", "mean")
"""Columns with predictions: the model's, then the baselines'."""
FORMAT = "treeline-matrix-cell"
_ABOUT = b"treeline"
_DAMAGE = (AttributeError, LookupError, OSError, TypeError, ValueError)
"""Errors of Python's own with which damaged files are read."""


@dataclass(frozen=True)
class CellResult:
    """Result of a cell."""

    tiles: pa.Table
    """Test tiles of all regions; see above."""
    about: dict[str, Any]
    """Facts about the training: number of labels, best epoch, its scores."""

    def to_bytes(self) -> bytes:
        """Write the file; the same result gives the same bytes."""
        values = {"format": FORMAT, **self.about}
        about = json.dumps({**values, SEAL: _checksum(self.tiles, values)}).encode()
        buffer = io.BytesIO()
        pq.write_table(self.tiles.replace_schema_metadata({_ABOUT: about}), buffer)
        return buffer.getvalue()


def read_cell(url: str) -> CellResult:
    """Read what a cell left.

    Raises:
        InputError: it is no such file, or damaged.
    """
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(url)))
        about = typed_as(
            parsed((table.schema.metadata or {})[_ABOUT], url), dict[str, Annotated[Any, NotFinite()]], url
        )
        stated = about.pop(SEAL, None)  # cells of before have none
        if stated not in (None, _checksum(table, about)) or about.get("format") != FORMAT:
            raise ValueError("its checksum differs")
    except (pa.ArrowException, InputError, *_DAMAGE) as error:
        raise InputError(
            f"{url}: is not what a cell left; delete it, and run the same command again"
        ) from error
    return CellResult(table.replace_schema_metadata(None), about)


def _checksum(tiles: pa.Table, about: dict[str, Any]) -> str:
    """Compute a checksum of all values, which does not depend on how Parquet stores them."""
    digest = xxhash.xxh3_64(json.dumps(about, sort_keys=True).encode())
    for name in tiles.column_names:
        column = tiles[name].combine_chunks()
        digest.update(f"{name} {column.type}".encode())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).data)
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class BlockSums:
    """Sums over the test tiles of a region, by block of ground (B)."""

    blocks: tuple[str, ...]
    count_B: NDArray[np.float64]
    """Number of tiles, or of measured or labelled pixels."""
    truth_B: NDArray[np.float64]
    truth_squares_B: NDArray[np.float64]
    error_B: dict[str, NDArray[np.float64]]
    """Sum of predicted - true by predictor; 0 for classes."""
    squares_B: dict[str, NDArray[np.float64]]
    """Sum of squared errors by predictor; for classes, the number of wrong tiles or pixels."""


def block_sums(tiles: pa.Table, region: str) -> BlockSums:
    """Add up the errors of a region's tiles."""
    table = tiles.filter(pc.equal(tiles["tested_on"], region))
    blocks, block_N = np.unique(np.array(table["block"].to_pylist()), return_inverse=True)

    def added(values_N: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(block_N, values_N.astype(np.float64), len(blocks)), np.float64)

    count_N = table["pixels"].to_numpy()
    wrong = _wrong_of_classes(table)
    if wrong:
        nothing_B = np.zeros(len(blocks))
        squares = {name: added(wrong_N) for name, wrong_N in wrong.items()}
        errors = dict.fromkeys(PREDICTORS, nothing_B)
        return BlockSums(tuple(blocks.tolist()), added(count_N), nothing_B, nothing_B, errors, squares)
    truth_N = table["truth"].to_numpy()
    error_N = {name: table[name].to_numpy() - truth_N for name in PREDICTORS}
    if "of_truth" in table.column_names:
        truth_squares_N = table["of_truth"].to_numpy()
        square_N = {name: table[f"of_{name}"].to_numpy() for name in PREDICTORS}
    else:
        truth_squares_N = truth_N**2
        square_N = {name: values_N**2 for name, values_N in error_N.items()}
    return BlockSums(
        tuple(blocks.tolist()),
        added(count_N),
        added(count_N * truth_N),
        added(truth_squares_N),
        {name: added(count_N * values_N) for name, values_N in error_N.items()},
        {name: added(values_N) for name, values_N in square_N.items()},
    )


def _wrong_of_classes(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Count what is wrong in each tile, by predictor: the tile itself, or pixels; {} for numbers."""
    if right_column(PREDICTORS[0]) in table.column_names:
        count_N = table["pixels"].to_numpy()
        return {name: count_N - table[right_column(name)].to_numpy() for name in PREDICTORS}
    if pa.types.is_string(table["truth"].type):
        return {name: pc.not_equal(table[name], table["truth"]).to_numpy() for name in PREDICTORS}
    return {}


def right_column(predictor: str) -> str:
    """Name the column with the number of a tile's pixels whose class a predictor names."""
    return f"right_{predictor}"
