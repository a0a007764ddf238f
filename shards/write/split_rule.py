"""Rules for holding out chips: facts about chips in, their splits out.

    places = Places(keys, scenes, x_N, y_N, crs, side=1024.0)
    rule = resolved(SplitRule("strips", (0.6, 0.2, 0.2), buffer=500), places)
    split_N = assign(rule, places)  # "train", "val", "test" or "buffer" for each chip

- key, scene: by a stable hash of the chip's name, or of its scene's name, so that a scene is in one split
- blocks: by the same hash of the square block of ground that holds the chip's centre
- strips: cuts across one coordinate; the first share of the chips is train
- bands: many strips of equal width at an angle, dealt in turn, for each region on its own
- auto: one of these, which `shards.write.split_auto` chooses

The dataset keeps the resolved rule. With it, a chip's split follows from that chip alone, so later additions
move no chip. Chips that lie too near to another split are "buffer": kept, but used by neither.
"""

import hashlib
import json
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shards.config import BY_PLACE, SplitBy, SplitOptions
from shards.errors import InputError
from shards.format.manifest import SPLITS
from shards.storage.typed_json import typed
from shards.write.places import SLACK, ChipFootprints, Places, footprints, one_crs, refuse_unplaced
from shards.write.split_bands import BandGrid, angles_of, banded, grids_of, refuse_empty
from shards.write.split_turn import turn_of

BUFFER = SPLITS.index("buffer")
_BY_PLACE = f"{', '.join(BY_PLACE[:-1])} or {BY_PLACE[-1]}"
FAR = sys.float_info.max
"""Edge beyond every chip. Infinity would be clearer, but JSON has none."""
SAME_LEVEL = 1e-6
"""Share of a chip's side. Centres that differ by less lie in one row of a grid, which strips never cut."""
MOST_BLOCKS = 16
"""Most blocks along an axis that a chip with its buffer may cover. With smaller blocks, nearly all chips are
buffer."""
OF_BANDS = ("band_count", "angle", "region_column", "grids")
"""Fields that only bands need; other rules are written without them, as before there were bands."""


RULE_FIELDS = {
    "split_by": "by",
    "shares": "shares",
    "block_size": "block_size",
    "split_axis": "axis",
    "buffer": "buffer",
    "split_crs": "crs",
    "split_bands": "band_count",
    "split_angle": "angle",
    "region_column": "region_column",
}
"""Field of a rule for each option of `SplitOptions`."""


@dataclass(frozen=True)
class SplitRule:
    """A rule that assigns chips to splits.

    Raises:
        InputError: a value is out of range, or does not fit `by`.
    """

    by: SplitBy = SplitOptions.split_by
    shares: tuple[float, ...] = SplitOptions.shares
    """Shares of train, val and test, one to three of them; they sum to 1. Names and blocks get them on
    average. Strips are cut to have them, before chips are lost to "buffer". Bands have them to within one
    band of each region."""
    block_size: float = SplitOptions.block_size
    """Side of a block in units of crs."""
    axis: Literal["x", "y"] = SplitOptions.split_axis
    """Coordinate along which strips follow each other."""
    buffer: float = SplitOptions.buffer
    """Least distance, in units of crs, between footprints of different splits, to a billionth of a chip. With
    0, bands go by centres: then footprints of different splits overlap where chips do. Not for names."""
    crs: str = SplitOptions.split_crs
    """CRS of blocks, strips and bands; "": the chips' CRS, which they must share, or those of
    a region with bands. Best is a projected one: in degrees, places on both sides of the antimeridian seem
    far apart."""
    edges: tuple[float, ...] = ()
    """Coordinates of the cuts between strips, ascending, one fewer than shares; (): see `resolved`."""
    band_count: int = SplitOptions.split_bands
    """Number of bands of a region."""
    angle: tuple[float | str, ...] = SplitOptions.split_angle
    """Direction of bands: degrees from the x axis (east), counter-clockwise; one number, or "NAME=DEGREES"
    for each region."""
    region_column: str = SplitOptions.region_column
    """Column whose values are the chips' regions; "": all are one."""
    grids: tuple[BandGrid, ...] = ()
    """Bands of each region; (): see `resolved`."""

    def __post_init__(self) -> None:
        self._check_shares()
        if self.by not in get_args(SplitBy):
            raise InputError(f"--split-by {self.by}: choose one of {', '.join(get_args(SplitBy))}")
        if self.axis not in ("x", "y"):
            raise InputError(f"--split-axis {self.axis}: choose x or y")
        if not 0 < self.block_size < math.inf:
            raise InputError(f"--block-size {self.block_size:g}: give a size above 0")
        if not 0 <= self.buffer < math.inf:
            raise InputError(f"--buffer {self.buffer:g}: give a distance of 0 or more")
        if self.buffer and not self.is_spatial:
            raise InputError(f"--buffer {self.buffer:g}: needs --split-by {_BY_PLACE}, not {self.by}")
        if self.crs and not self.is_spatial:
            raise InputError(f"--split-crs {self.crs}: needs --split-by {_BY_PLACE}, not {self.by}")
        if self.edges:
            self._check_edges()
        if self.by == "bands":
            self._check_bands()
        elif self.region_column or self.grids:
            raise InputError(f"--region-column {self.region_column}: needs --split-by bands, not {self.by}")

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

    def _check_bands(self) -> None:
        turn_of(self.shares, self.band_count)
        if "" not in self.angles and not self.region_column:
            raise InputError(
                f"--split-angle {' '.join(map(str, self.angle))}: needs --region-column, the column with "
                "these names; or give one number"
            )
        if not all(math.isfinite(grid.origin) and 0 < grid.width < math.inf for grid in self.grids):
            raise InputError("bands: origins must be numbers, widths above 0")

    @property
    def is_spatial(self) -> bool:
        """Whether positions decide the split."""
        return self.by in BY_PLACE

    @cached_property
    def angles(self) -> dict[str, float]:
        """Angle of bands in degrees by region; of all regions under ""."""
        return angles_of(self.angle)

    @classmethod
    def of(cls, options: SplitOptions) -> "SplitRule":
        """Make the rule from a command's options; those of bands count only for bands."""
        of_bands: dict[str, Any] = {}
        if options.split_by == "bands":
            of_bands["band_count"], of_bands["angle"] = options.split_bands, options.split_angle
            of_bands["region_column"] = options.region_column
        return cls(
            options.split_by,
            options.shares,
            options.block_size,
            options.split_axis,
            options.buffer,
            options.split_crs,
            **of_bands,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain JSON values; fields that only bands need are left out at their default."""
        default = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in OF_BANDS or value != default[name]
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "split_rule") -> "SplitRule":
        """Make the rule that `to_json`, or once `dataclasses.asdict`, was called on; lists may be tuples."""
        plain = json.loads(json.dumps(values))  # tuples become lists
        return typed(plain, cls, where)


def resolved(rule: SplitRule, places: Places) -> SplitRule:
    """Complete a rule with what follows from all chips together: the CRS, edges of strips, grids of bands.

    An edge lies midway between the two centres that it separates, where the chips before it come nearest to
    their share; every share above 0 gets a chip. Bands divide a region from its lowest to its highest
    footprint. Rules by name, rules that are complete, and rules for no chips are returned as they are.

    Raises:
        InputError: a position is unknown, there are several CRSs and none is named, too few coordinates
            differ, or bands leave a split without chips.
    """
    if not rule.is_spatial or rule.edges or rule.grids or not len(places.keys):
        return rule
    if rule.by == "bands":
        return _with_grids(rule, places)
    crs = _crs_for(rule, places)
    if rule.by == "blocks":
        return replace(rule, crs=crs)
    return replace(rule, crs=crs, edges=_edges(rule, footprints(places, crs)))


def continued(rule: SplitRule, places: Places) -> SplitRule:
    """Complete a resolved rule for chips that are added: a region without bands gets its own.

    Raises:
        InputError: as `resolved` does.
    """
    return _with_grids(rule, places) if rule.by == "bands" and len(places.keys) else rule


def assign(rule: SplitRule, places: Places) -> NDArray[np.str_]:
    """Assign a split to each chip by a resolved rule: (N,) of SPLITS.

    With a larger share of val, or a test share taken from train, chips leave train only.

    Raises:
        InputError: a position is unknown, there are several CRSs and none is named, or blocks are far smaller
            than chips.
        ValueError: the rule is by strips that are not cut yet, by bands without grids, or auto.
    """
    if not len(places.keys):
        return np.array([], np.str_)
    if rule.by == "auto":
        raise ValueError("auto: let shards.write.split_auto choose first")
    if not rule.is_spatial:
        keyed = zip(places.keys, places.scenes, strict=True)
        names = places.keys if rule.by == "key" else (key if scene is None else scene for key, scene in keyed)
        return np.array(SPLITS)[_dealt(names, rule.shares)]
    if rule.by == "bands":
        return np.array(SPLITS)[_of_bands(rule, places)]
    seen = footprints(places, _crs_for(rule, places))
    return np.array(SPLITS)[_of_blocks(rule, seen) if rule.by == "blocks" else _of_strips(rule, seen)]


def refuse_missing(rule: SplitRule, splits: Iterable[str], scenes: Iterable[str | None]) -> None:
    """Refuse a split in which a share above 0 got no chip.

    Args:
        rule: the rule that was followed.
        splits: split of each chip.
        scenes: scene of each chip, for the message.

    Raises:
        InputError: names the first such split, and what to do.
    """
    counts = Counter(splits)
    missing = [name for name, share in zip(SPLITS, rule.shares, strict=False) if share and not counts[name]]
    if not missing or not counts:
        return
    cure = (
        "give it a larger share"
        if rule.by == "key"
        else "split by blocks or strips, or give it a larger share"
    )
    why = f"{counts.total():,} chip{'' if counts.total() == 1 else 's'}"
    if rule.by == "scene":
        why += f" of {len(set(scenes)):,} scenes"
    if counts["buffer"]:
        why += f", {counts['buffer']:,} of them in the buffer"
    if rule.is_spatial:
        smaller = {"blocks": "a smaller --block-size", "bands": "more --split-bands"}.get(
            rule.by, "--split-by blocks"
        )
        cure = (
            f"give {f'less --buffer than {rule.buffer:g}' if rule.buffer else smaller}, or it a larger share"
        )
    raise InputError(
        f"--shares {' '.join(f'{share:g}' for share in rule.shares)}: split by {rule.by}, no chip is in "
        f"{missing[0]} ({why}); {cure}, or hold out nothing with --shares 1"
    )


def _crs_for(rule: SplitRule, places: Places) -> str:
    """Return the CRS of blocks and strips; "" if no chip has a CRS."""
    refuse_unplaced(rule.by, places, rule.crs)
    return rule.crs or one_crs(rule.by, places.crs)


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


def _grown(rule: SplitRule, seen: ChipFootprints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, 2) low and high corners of footprints with half the buffer around them.

    Each of these boxes must lie in one split. If two boxes lie in areas that do not overlap, they do not
    overlap each other: along x or y, one ends before the other begins. So the footprints are at least twice
    half the buffer apart.
    """
    slack_N2 = SLACK * (seen.high_N2 - seen.low_N2)
    return seen.low_N2 - rule.buffer / 2 + slack_N2, seen.high_N2 + rule.buffer / 2 - slack_N2


def _of_blocks(rule: SplitRule, seen: ChipFootprints) -> NDArray[np.int64]:
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


def _of_strips(rule: SplitRule, seen: ChipFootprints) -> NDArray[np.int64]:
    """Return (N,) split numbers: that of the strip that holds chip and buffer, or BUFFER if none does."""
    if len(rule.edges) != len(rule.shares) - 1:
        raise ValueError("strips without edges: resolve the rule first")
    axis = "xy".index(rule.axis)
    low_N2, high_N2 = _grown(rule, seen)
    first_N = np.searchsorted(rule.edges, low_N2[:, axis], side="right")
    last_N = np.searchsorted(rule.edges, high_N2[:, axis], side="left")
    return np.where(first_N == last_N, first_N, BUFFER)


def _with_grids(rule: SplitRule, places: Places) -> SplitRule:
    """Complete bands with grids for the chips' regions that have none; each has chips of every split."""
    grids = grids_of(places, rule.band_count, rule.angles, rule.crs, rule.grids)
    if len(grids) == len(rule.grids):
        return rule
    whole = replace(rule, grids=grids)
    wanted = {SPLITS[number]: number for number, share in enumerate(rule.shares) if share}
    new = [grid for grid in grids if grid not in rule.grids]
    refuse_empty(places, new, _of_bands(whole, places), wanted, rule.buffer)
    return whole


def _of_bands(rule: SplitRule, places: Places) -> NDArray[np.int64]:
    """Return (N,) split numbers: that of the centre's band, or BUFFER if chip and buffer reach another's."""
    if not rule.grids:
        raise ValueError("bands without grids: resolve the rule first")
    turn = turn_of(rule.shares, rule.band_count)
    split_N, is_near_N = banded(places, rule.grids, turn, rule.buffer)
    return np.where(is_near_N, BUFFER, split_N)


def _edges(rule: SplitRule, seen: ChipFootprints) -> tuple[float, ...]:
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
