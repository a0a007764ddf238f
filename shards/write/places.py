"""Where chips lie: their names, positions, regions and footprints, from a table of them.

places = places_of(dataset.index, dataset.schema)
seen = footprints(places, "EPSG:3338")  # centres and upright boxes that hold the chips, in that CRS
grids = chip_grids(dataset.url, dataset.index, dataset.schema)  # pixels of each chip on the ground
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.index import INDEX_SCHEMA
from shards.format.schema import Schema

if TYPE_CHECKING:
    from rasterio.crs import CRS

    from shards.raster.grid import Grid

SLACK = 1e-9
"""Share of a chip's side by which its footprint is shrunk, so that rounding is no overlap in a grid without
gaps."""
ROWS_AT_ONCE = 16_384
"""Rows of a table's column that are Python objects at a time."""
CORNERS_52 = np.array([(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)], np.float64)
"""Centre and corners of a footprint, in half sides."""
REGION_FACTS = ("source", "sensor")
"""Columns of every index that may name a chip's region; attributes may, too."""
_OWN = "_"
"""First letter of columns that a source of chips keeps for itself: they reach no dataset."""


@dataclass(frozen=True, eq=False)
class Places:
    """Names and positions of N chips."""

    keys: Sequence[str]
    scenes: Sequence[str | None]
    x_N: NDArray[np.float64]
    """x of centres, in units of each chip's own CRS; NaN: unknown."""
    y_N: NDArray[np.float64]
    crs: Sequence[str | None]
    side: float
    """Side of a chip's footprint, the longer one, in units of its own CRS."""
    regions: Sequence[str | None] = ()
    """Region of each chip, where each region is split on its own; (): all are one region."""

    def known(self, crs: str = "") -> NDArray[np.bool_]:
        """Tell which positions are known, and CRSs too if any chip has one or `crs` is given: (N,)."""
        known_N = np.isfinite(self.x_N) & np.isfinite(self.y_N)
        has_crs_N = np.fromiter((name is not None for name in self.crs), np.bool_, len(self.crs))
        return known_N & has_crs_N if crs or has_crs_N.any() else known_N

    def taken(self, chips: NDArray[np.int64]) -> "Places":
        """Return the places of these chips alone, given by number."""
        keys, scenes, crs = (_taken(column, chips) for column in (self.keys, self.scenes, self.crs))
        regions = _taken(self.regions, chips) if len(self.regions) else ()
        return Places(keys, scenes, self.x_N[chips], self.y_N[chips], crs, self.side, regions)


def each_of(values: Any) -> Iterator[Any]:
    """Yield the values of an Arrow array as Python objects, with some thousands in memory at a time."""
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield from values.slice(start, ROWS_AT_ONCE).to_pylist()


class _Column(Sequence[Any]):
    """A column of a table whose values become Python objects only when they are read."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        return self._values[int(place)].as_py()

    def __iter__(self) -> Iterator[Any]:
        return each_of(self._values)

    def taken(self, places: NDArray[np.int64]) -> "_Column":
        """Return the column of these rows."""
        return _Column(self._values.take(pa.array(places)))


def _taken(column: Sequence[Any], chips: NDArray[np.int64]) -> Sequence[Any]:
    return column.taken(chips) if isinstance(column, _Column) else [column[chip] for chip in chips]


def places_of(table: pa.Table, schema: Schema, region_column: str = "") -> Places:
    """Take the places from an index, or from any table with key and perhaps scene, x, y and crs.

    Raises:
        InputError: no column of the table that can name regions is called `region_column`.
    """

    def column(name: str, kind: pa.DataType) -> Any:
        return table[name] if name in table.column_names else pa.nulls(table.num_rows, kind)

    x_N, y_N = (
        column(name, pa.float64()).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("x", "y")
    )
    keys, scenes, crs = (_Column(column(name, pa.string())) for name in ("key", "scene", "crs"))
    regions = _Column(_regions(table, region_column)) if region_column else ()
    return Places(keys, scenes, x_N, y_N, crs, schema.chip_size * max(schema.pixel_sides), regions)


def _regions(table: pa.Table, name: str) -> Any:
    """Return the column of the chips' regions as text; null where a chip has none."""
    own = {*INDEX_SCHEMA.names} - {*REGION_FACTS}
    named = [column for column in table.column_names if column not in own and not column.startswith(_OWN)]
    if name not in named:
        raise InputError(
            f"--region-column {name}: chips have no such column; choose one of {', '.join(named) or 'none'}"
        )
    column = table[name]
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


class ChipFootprints(NamedTuple):
    """Footprints of N chips in one CRS: (x, y) of centres and of upright boxes that hold the chips."""

    centre_N2: NDArray[np.float64]
    low_N2: NDArray[np.float64]
    high_N2: NDArray[np.float64]


def footprints(places: Places, crs: str) -> ChipFootprints:
    """Compute the chips' footprints in `crs`, or in their own CRS if that is ""; NaN where not known.

    A footprint rotates when its CRS changes; its box holds its corners. Sides also bend, by centimetres for a
    chip of 1 km, which is ignored.

    Raises:
        InputError: the CRS is unknown, or a chip has no place in it.
    """
    from shards.raster.grid import in_crs, known_crs  # rasterio, which few splits need

    centre_N2 = np.stack([places.x_N, places.y_N], axis=1).astype(np.float64)
    centre_N2[~places.known(crs)] = np.nan
    low_N2, high_N2 = centre_N2 - places.side / 2, centre_N2 + places.side / 2
    number_of = {name: number for number, name in enumerate(dict.fromkeys(places.crs))}
    crs_N = np.fromiter((number_of[name] for name in places.crs), np.int64, len(places.crs))
    for name, number in number_of.items():
        chips = np.flatnonzero((crs_N == number) & np.isfinite(centre_N2).all(axis=1))
        if name is None or crs in ("", name) or not chips.size:
            continue
        points_C52 = centre_N2[chips, None] + CORNERS_52 * (places.side / 2)
        moved_2N = in_crs(
            points_C52.reshape(-1, 2).T, known_crs("--split-crs", name), known_crs("--split-crs", crs)
        )
        points_C52 = moved_2N.T.reshape(-1, 5, 2)
        lost = np.flatnonzero(~np.isfinite(points_C52).all(axis=(1, 2)))
        if lost.size:
            key = places.keys[chips[lost[0]]]
            raise InputError(
                f"--split-crs {crs}: chip {key}, in {name}, has no place in it; name another CRS"
            )
        centre_N2[chips] = points_C52[:, 0]
        low_N2[chips], high_N2[chips] = points_C52.min(axis=1), points_C52.max(axis=1)
    return ChipFootprints(centre_N2, low_N2, high_N2)


def refuse_unplaced(by: str, places: Places, crs: str) -> None:
    """Refuse chips without a position.

    Raises:
        InputError: names the first one, for a split by `by` in `crs`.
    """
    unknown = np.flatnonzero(~places.known(crs))
    if unknown.size:
        raise InputError(
            f"--split-by {by}: needs positions, and {unknown.size:,} of {len(places.keys):,} chips have "
            f"none, {places.keys[unknown[0]]} first; give them by a table, GeoTIFF chips or scenes"
        )


def one_crs(by: str, crs: Iterable[str | None], chips: str = "the chips") -> str:
    """Return the CRS that chips share; "" if none has one.

    Raises:
        InputError: there are several.
    """
    names = list(dict.fromkeys(name for name in crs if name is not None))
    if len(names) > 1:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"--split-by {by}: {chips} have {len(names)} CRSs ({shown}); give --split-crs, "
            "the one to split in"
        )
    return names[0] if names else ""


def chip_grids(url: str, table: pa.Table, schema: Schema) -> "Iterator[Grid | None]":
    """Yield the pixels of each chip of an index on the ground; None for a chip without a position.

    Args:
        url: the dataset, for messages.
        table: its index, or rows of it.
        schema: format of its chips.

    Raises:
        InputError: a CRS is unknown, or positions are in degrees and pixels in metres.
    """
    from shards.raster.grid import known_crs  # see footprints

    places = places_of(table, schema)
    crs_of = {name: known_crs(url, name) for name in dict.fromkeys(places.crs) if name is not None}
    for name, crs in crs_of.items():
        if crs.is_geographic and not schema.is_in_degrees:
            raise InputError(
                f"{url}: chips have positions in degrees ({name}) and pixels of {schema.pixel_size:g}, which "
                "must be metres, so their ground is unknown; ingest them with positions in metres"
            )
    for x, y, own in zip(places.x_N.tolist(), places.y_N.tolist(), places.crs, strict=True):
        if own is None or not (math.isfinite(x) and math.isfinite(y)):
            yield None
        else:
            yield _chip_grid(x, y, schema, crs_of[own])


def _chip_grid(x: float, y: float, schema: Schema, crs: "CRS") -> "Grid":
    """Lay the pixels of a chip around its centre, rows from west to east and from north to south."""
    from rasterio import Affine

    from shards.raster.grid import Grid

    size, (width, height) = schema.chip_size, schema.pixel_sides
    corner = x - size * width / 2, y + size * height / 2
    return Grid(crs, Affine(width, 0, corner[0], 0, -height, corner[1]), size, size)
