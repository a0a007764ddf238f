"""Rules for holding out chips: facts about chips in, their splits out.

    places = Places(keys, scenes, x_N, y_N, crs, side=1024.0)
    rule = resolved(SplitRule("strips", (0.6, 0.2, 0.2), buffer=500), places)
    split_N = assign(rule, places)  # "train", "val", "test" or "buffer" for each chip

- key, scene: by a stable hash of the chip's name, or of its scene's name, so that a scene is in one split
- blocks: by the same hash of the square block of ground that holds the chip's centre
- strips: cuts across one coordinate; the first share of the chips is train

The dataset keeps the resolved rule. With it, a chip's split follows from that chip alone, so later additions
move no chip. Chips that lie too near to another split are "buffer": kept, but used by neither.
"""

import hashlib
import math
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.manifest import SPLITS
from shards.format.schema import Schema

BUFFER = SPLITS.index("buffer")
FAR = sys.float_info.max
"""Edge beyond every chip. Infinity would be clearer, but JSON has none."""
SLACK = 1e-9
"""Share of a chip's side by which its footprint is shrunk, so that rounding is no overlap in a grid without
gaps."""
SAME_LEVEL = 1e-6
"""Share of a chip's side. Centres that differ by less lie in one row of a grid, which strips never cut."""
MOST_BLOCKS = 16
"""Most blocks along an axis that a chip with its buffer may cover. With smaller blocks, nearly all chips are
buffer."""
ROWS_AT_ONCE = 16_384
"""Rows of a table's column that are Python objects at a time."""
CORNERS_52 = np.array([(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)], np.float64)
"""Centre and corners of a footprint, in half sides."""


@dataclass(frozen=True)
class SplitRule:
    """A rule that assigns chips to splits.

    Raises:
        InputError: a value is out of range, or does not fit `by`.
    """

    by: Literal["key", "scene", "blocks", "strips"] = SplitOptions.split_by
    shares: tuple[float, ...] = SplitOptions.shares
    """Shares of train, val and test, one to three of them; they sum to 1. Names and blocks get them on
    average. Strips are cut to have them, before chips are lost to "buffer"."""
    block_size: float = SplitOptions.block_size
    """Side of a block in units of crs."""
    axis: Literal["x", "y"] = SplitOptions.split_axis
    """Coordinate along which strips follow each other."""
    buffer: float = SplitOptions.buffer
    """Least distance, in units of crs, between footprints of different splits, to a billionth of a chip. Only
    for blocks and strips."""
    crs: str = SplitOptions.split_crs
    """CRS of blocks and strips; "": the chips' CRS, which they must share. Best is a projected one: in
    degrees, places on both sides of the antimeridian seem far apart."""
    edges: tuple[float, ...] = ()
    """Coordinates of the cuts between strips, ascending, one fewer than shares; (): see `resolved`."""

    def __post_init__(self) -> None:
        self._check_shares()
        if self.by not in ("key", "scene", "blocks", "strips"):
            raise InputError(f"--split-by {self.by}: choose one of key, scene, blocks, strips")
        if self.axis not in ("x", "y"):
            raise InputError(f"--split-axis {self.axis}: choose x or y")
        if not 0 < self.block_size < math.inf:
            raise InputError(f"--block-size {self.block_size:g}: give a size above 0")
        if not 0 <= self.buffer < math.inf:
            raise InputError(f"--buffer {self.buffer:g}: give a distance of 0 or more")
        if self.buffer and not self.is_spatial:
            raise InputError(f"--buffer {self.buffer:g}: needs --split-by blocks or strips, not {self.by}")
        if self.crs and not self.is_spatial:
            raise InputError(f"--split-crs {self.crs}: needs --split-by blocks or strips, not {self.by}")
        if self.edges:
            self._check_edges()

    def _check_shares(self) -> None:
        shown = f"--shares {' '.join(f'{share:g}' for share in self.shares)}".strip()
        if not 1 <= len(self.shares) <= 3:
            raise InputError(f"{shown}: has {len(self.shares)} numbers; give one to three: train, val, test")
        if not all(0 <= share <= 1 for share in self.shares):
            raise InputError(f"{shown}: each must be a number from 0 to 1")
        if abs(sum(self.shares) - 1) > 1e-9:
            raise InputError(f"{shown}: sum to {sum(self.shares):.10g}; give numbers that sum to 1")

    def _check_edges(self) -> None:
        shown = f"edges of strips {' '.join(f'{edge:g}' for edge in self.edges)}"
        if self.by != "strips":
            raise InputError(f"{shown}: need --split-by strips, not {self.by}")
        if len(self.edges) != len(self.shares) - 1:
            raise InputError(f"{shown}: {len(self.shares)} --shares need {len(self.shares) - 1} of them")
        if not all(map(math.isfinite, self.edges)) or list(self.edges) != sorted(self.edges):
            raise InputError(f"{shown}: must be numbers that ascend")

    @property
    def is_spatial(self) -> bool:
        """Whether positions decide the split."""
        return self.by in ("blocks", "strips")

    @classmethod
    def of(cls, options: SplitOptions) -> "SplitRule":
        """Make the rule from a command's options."""
        return cls(
            options.split_by,
            options.shares,
            options.block_size,
            options.split_axis,
            options.buffer,
            options.split_crs,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SplitRule":
        """Make the rule from its `dataclasses.asdict` that was written as JSON."""
        return cls(**{**values, "shares": tuple(values["shares"]), "edges": tuple(values["edges"])})


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
    """Side of a chip's square footprint, in units of its own CRS."""

    def known(self, crs: str = "") -> NDArray[np.bool_]:
        """Tell which positions are known, and CRSs too if any chip has one or `crs` is given: (N,)."""
        known_N = np.isfinite(self.x_N) & np.isfinite(self.y_N)
        has_crs_N = np.fromiter((name is not None for name in self.crs), np.bool_, len(self.crs))
        return known_N & has_crs_N if crs or has_crs_N.any() else known_N


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


def places_of(table: pa.Table, schema: Schema) -> Places:
    """Take the places from an index, or from any table with key and perhaps scene, x, y and crs."""

    def column(name: str, kind: pa.DataType) -> Any:
        return table[name] if name in table.column_names else pa.nulls(table.num_rows, kind)

    x_N, y_N = (
        column(name, pa.float64()).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("x", "y")
    )
    keys, scenes, crs = (_Column(column(name, pa.string())) for name in ("key", "scene", "crs"))
    return Places(keys, scenes, x_N, y_N, crs, schema.chip_size * schema.pixel_size)


class Footprints(NamedTuple):
    """Footprints of N chips in one CRS: (x, y) of centres and of upright boxes that hold the chips."""

    centre_N2: NDArray[np.float64]
    low_N2: NDArray[np.float64]
    high_N2: NDArray[np.float64]


def resolved(rule: SplitRule, places: Places) -> SplitRule:
    """Complete a rule with what follows from all chips together: the CRS, and the edges of strips.

    An edge lies midway between the two centres that it separates, where the chips before it come nearest to
    their share; every share above 0 gets a chip. Rules by name, rules with edges, and rules for no chips are
    returned as they are.

    Raises:
        InputError: a position is unknown, there are several CRSs and none is named, or too few coordinates
            differ.
    """
    if not rule.is_spatial or rule.edges or not len(places.keys):
        return rule
    crs = _crs_for(rule, places)
    if rule.by == "blocks":
        return replace(rule, crs=crs)
    return replace(rule, crs=crs, edges=_edges(rule, footprints(places, crs)))


def assign(rule: SplitRule, places: Places) -> NDArray[np.str_]:
    """Assign a split to each chip by a resolved rule: (N,) of SPLITS.

    With a larger share of val, or a test share taken from train, chips leave train only.

    Raises:
        InputError: a position is unknown, there are several CRSs and none is named, or blocks are far smaller
            than chips.
        ValueError: the rule is by strips that are not cut yet.
    """
    if not len(places.keys):
        return np.array([], np.str_)
    if not rule.is_spatial:
        keyed = zip(places.keys, places.scenes, strict=True)
        names = places.keys if rule.by == "key" else (key if scene is None else scene for key, scene in keyed)
        return np.array(SPLITS)[_dealt(names, rule.shares)]
    seen = footprints(places, _crs_for(rule, places))
    return np.array(SPLITS)[_of_blocks(rule, seen) if rule.by == "blocks" else _of_strips(rule, seen)]


def footprints(places: Places, crs: str) -> Footprints:
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
    return Footprints(centre_N2, low_N2, high_N2)


def _crs_for(rule: SplitRule, places: Places) -> str:
    """Return the CRS of blocks and strips; "" if no chip has a CRS."""
    unknown = np.flatnonzero(~places.known(rule.crs))
    if unknown.size:
        raise InputError(
            f"--split-by {rule.by}: needs positions, and {unknown.size:,} of {len(places.keys):,} chips have "
            f"none, {places.keys[unknown[0]]} first; give them by a table, GeoTIFF chips or scenes"
        )
    names = list(dict.fromkeys(name for name in places.crs if name is not None))
    if len(names) > 1 and not rule.crs:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"--split-by {rule.by}: the chips have {len(names)} CRSs ({shown}); give --split-crs, "
            "the one to split in"
        )
    return rule.crs or (names[0] if names else "")


def _dealt(names: Iterable[str], shares: tuple[float, ...]) -> NDArray[np.int64]:
    """Return (names,) numbers of splits, from 64 bits of each name's SHA-256 as a fraction of 2^64.

    val takes the lowest fractions and test the next, so that both take from train only, and val is the same
    as in all datasets so far. Python compares integers with floats exactly; NumPy would round to 53 bits.
    """
    limits = [sum(shares[1:last]) * 2**64 for last in range(2, len(shares) + 1)]
    hashes = (hashlib.sha256(name.encode()).digest()[:8] for name in names)
    # Number of limits at or below the hash: 0 is val, 1 is test if there is one, and the last is train.
    ranks = [bisect_right(limits, int.from_bytes(eight, "big")) for eight in hashes]
    return (np.array(ranks, np.int64) + 1) % len(shares)


def _grown(rule: SplitRule, seen: Footprints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, 2) low and high corners of footprints with half the buffer around them.

    Each of these boxes must lie in one split. If two boxes lie in areas that do not overlap, they do not
    overlap each other: along x or y, one ends before the other begins. So the footprints are at least twice
    half the buffer apart.
    """
    slack_N2 = SLACK * (seen.high_N2 - seen.low_N2)
    return seen.low_N2 - rule.buffer / 2 + slack_N2, seen.high_N2 + rule.buffer / 2 - slack_N2


def _of_blocks(rule: SplitRule, seen: Footprints) -> NDArray[np.int64]:
    """Return (N,) split numbers: that of the centre's block, or BUFFER if a block in reach has another."""
    low_N2, high_N2 = _grown(rule, seen)
    own_N2 = np.floor(seen.centre_N2 / rule.block_size)
    # Intervals are open: a chip that ends where a block begins does not reach into it.
    first_N2, last_N2 = np.floor(low_N2 / rule.block_size), np.ceil(high_N2 / rule.block_size) - 1
    across_2 = (last_N2 - first_N2).max(axis=0) + 1
    if across_2.max() > MOST_BLOCKS:
        raise InputError(
            f"--block-size {rule.block_size:g}: a chip and its buffer reach over {across_2.max():.0f} blocks "
            f"in a row; give {(high_N2 - low_N2).max():.3g} or more"
        )
    own_N = _dealt_blocks(own_N2, rule.shares)
    split_N = own_N.copy()
    for step in product(*(range(int(count)) for count in across_2)):
        block_N2 = first_N2 + step
        is_other_N = (block_N2 <= last_N2).all(axis=1) & (block_N2 != own_N2).any(axis=1)
        chips = np.flatnonzero(is_other_N & (split_N != BUFFER))
        reached_C = _dealt_blocks(block_N2[chips], rule.shares)
        split_N[chips[reached_C != own_N[chips]]] = BUFFER
    return split_N


def _dealt_blocks(block_N2: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.int64]:
    """Return (N,) numbers of the splits of blocks; each block is hashed once."""
    # Pairs as complex numbers: these sort by x, then y, much faster than rows do.
    blocks, block_N = np.unique(block_N2[:, 0] + 1j * block_N2[:, 1], return_inverse=True)
    dealt_B = _dealt((f"block {int(block.real)} {int(block.imag)}" for block in blocks), shares)
    return np.asarray(dealt_B[block_N], np.int64)


def _of_strips(rule: SplitRule, seen: Footprints) -> NDArray[np.int64]:
    """Return (N,) split numbers: that of the strip that holds chip and buffer, or BUFFER if none does."""
    if len(rule.edges) != len(rule.shares) - 1:
        raise ValueError("strips without edges: resolve the rule first")
    axis = "xy".index(rule.axis)
    low_N2, high_N2 = _grown(rule, seen)
    first_N = np.searchsorted(rule.edges, low_N2[:, axis], side="right")
    last_N = np.searchsorted(rule.edges, high_N2[:, axis], side="left")
    return np.where(first_N == last_N, first_N, BUFFER)


def _edges(rule: SplitRule, seen: Footprints) -> tuple[float, ...]:
    """Find the cuts that give strips their shares of all chips."""
    axis = "xy".index(rule.axis)
    centre_N = np.sort(seen.centre_N2[:, axis])
    apart = SAME_LEVEL * (seen.high_N2 - seen.low_N2)[:, axis].max()
    gap_at = np.flatnonzero(np.diff(centre_N) > apart) + 1
    before_G = np.array([0, *gap_at, centre_N.size])  # chips before each gap; both ends count as gaps
    edge_G = [-FAR, *(centre_N[gap_at - 1] / 2 + centre_N[gap_at] / 2), FAR]
    if before_G.size - 1 < sum(share > 0 for share in rule.shares):
        raise InputError(
            f"--split-by strips: the chips' centres have {before_G.size - 1} different {rule.axis}, fewer "
            "than --shares; cut along the other --split-axis, or split by blocks"
        )
    gap, edges = 0, []
    for number, share in enumerate(rule.shares[:-1], 1):
        if share > 0:
            wanted = sum(rule.shares[:number]) * centre_N.size
            later = sum(share > 0 for share in rule.shares[number:])  # each of them needs a gap, too
            gap += 1 + int(np.abs(before_G[gap + 1 : before_G.size - later] - wanted).argmin())
        edges.append(float(edge_G[gap]))
    return tuple(edges)
