"""Bands: parallel strips of equal width across a region, at an angle, dealt to the splits in turn.

    grids = grids_of(places, bands=60, angles={"": 15.0}, crs="")
    split_N, is_near_N = banded(places, grids, turn_of((0.6, 0.2, 0.2), 60), buffer=500.0)

- A band runs in the direction of its angle: degrees from the CRS's x axis (east), counter-clockwise. At 0,
  bands run from west to east; at 15, from the west-south-west to the east-north-east; at 90, to the north.
- They follow each other to the left of that direction: from south to north at 0, from east to west at 90.
- They divide what the footprints of a region's chips extend over in that direction, from edge to edge: if
  they began and ended at centres, the last row of a grid would lie on a border. Beyond it, bands of the same
  width go on, dealt as if all of them came once more.
- A chip is in the band that holds its centre. With a buffer, it is near another split if its footprint,
  with half the buffer around it, reaches into a band of that split.

The origin and width of the bands are kept as numbers: a chip's split follows from these and from its own
place, whatever chips come later.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.write.places import SLACK, ChipFootprints, Places, footprints, one_crs, refuse_unplaced

BY = "bands"
ROUNDING = 1e-9
"""Share of a band's width by which a centre may lie below a border and still count as on it: rows of a grid
stay together although their coordinates are rounded."""


@dataclass(frozen=True)
class BandGrid:
    """The bands of one region; see above."""

    region: str
    """Name of the region; "": all chips are one."""
    crs: str
    """CRS of the bands; "": the chips' own, of which none is known."""
    angle: float
    """Direction in which bands run, in degrees from the x axis, counter-clockwise."""
    origin: float
    """Position across the bands at which band 0 begins: y cos(angle) - x sin(angle), in units of crs."""
    width: float
    """Width of a band in units of crs."""

    def borders(self, low_2: NDArray[np.float64], high_2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the parts of the borders between bands within a box: (borders, 2 ends, 2)."""
        corner_42 = np.array([(x, y) for x in (low_2[0], high_2[0]) for y in (low_2[1], high_2[1])])
        at_4 = (_across(corner_42, self.angle) - self.origin) / self.width
        number_K = np.arange(math.ceil(at_4.min()), math.floor(at_4.max()) + 1)
        along_2 = _direction(self.angle)
        left_2 = np.array([-along_2[1], along_2[0]])
        foot_K2 = (self.origin + number_K * self.width)[:, None] * left_2
        # Where each line meets the box's four sides, as distances along it from its foot.
        with np.errstate(divide="ignore", invalid="ignore"):
            one_K2, other_K2 = (low_2 - foot_K2) / along_2, (high_2 - foot_K2) / along_2
        begin_K = np.fmin(one_K2, other_K2).max(axis=1)
        end_K = np.fmax(one_K2, other_K2).min(axis=1)
        crosses = end_K > begin_K
        ends_K2 = np.stack([begin_K, end_K], axis=1)[crosses]
        return np.asarray(foot_K2[crosses, None] + ends_K2[:, :, None] * along_2, np.float64)


def angles_of(given: Sequence[float | str]) -> dict[str, float]:
    """Read --split-angle: the angle in degrees of each named region, or of all of them ("").

    Raises:
        InputError: it is neither one number nor a number for each of different names.
    """
    shown = f"--split-angle {' '.join(map(_spelled, given))}".strip()
    angles: dict[str, float] = {}
    for one in given:
        name, equals, number = one.rpartition("=") if isinstance(one, str) else ("", "", one)
        try:
            angle = float(number)
        except ValueError:
            angle = math.nan
        if bool(name) != bool(equals) or not math.isfinite(angle):
            raise InputError(
                f"{shown}: {_spelled(one)} is no number of degrees; give 15, or europe=9 conus=15"
            )
        if name in angles:
            twice = f"{name} is named twice" if name else "there are several numbers"
            raise InputError(f"{shown}: {twice}; give one number, or one for each region, as europe=9")
        angles[name] = angle
    if not angles or ("" in angles and len(angles) > 1):
        raise InputError(f"{shown}: give one number for all regions, or one for each, as europe=9 conus=15")
    return angles


def grids_of(
    places: Places, bands: int, angles: Mapping[str, float], crs: str, known: Sequence[BandGrid] = ()
) -> tuple[BandGrid, ...]:
    """Find the grid of each region: those `known`, and one for each other region of the chips.

    Args:
        places: the chips.
        bands: number of bands that divide the chips of a region.
        angles: angle by region, or of all regions (""), in degrees.
        crs: CRS of all grids; "": the CRS that the chips of a region share.
        known: grids that stay as they are.

    Raises:
        InputError: a position or a region is unknown, a region has no angle or several CRSs.
    """
    refuse_unplaced(BY, places, crs)
    region_N = _region_numbers(places, names := _names(places))
    taken = {grid.region for grid in known}
    new = [name for name in names if name not in taken]
    if missing := [name for name in new if "" not in angles and name not in angles]:
        said = ", ".join(angles)
        raise InputError(
            f"--split-angle: has {said}, and none for region {missing[0]}"
            + (f" ({len(missing)} more)" if missing[1:] else "")
            + f"; add {missing[0]}=DEGREES, or give one number for all"
        )
    if places.regions and "" not in angles and not known:
        absent = [name for name in angles if name not in names]
        if absent:
            raise InputError(f"--split-angle: no chip is in region {absent[0]}; there are {', '.join(names)}")
    crs_of = [crs] * len(names) if crs or not new else _own_crs(places, names, region_N)
    seen = _seen(
        places, [crs_of[name] if names[name] in new else None for name in range(len(names))], region_N
    )
    grids = list(known)
    for name in new:
        chips = np.flatnonzero(region_N == names.index(name))
        angle = angles.get(name, angles.get("", 0.0))
        low_C, high_C = _extent(ChipFootprints(*(of_N2[chips] for of_N2 in seen)), angle)
        origin = float(low_C.min())
        width = (float(high_C.max()) - origin) / bands
        if not width > 0:
            raise InputError(
                f"--split-by {BY}: {_chips_of(name)} lie on one line; give another --split-angle"
            )
        grids.append(BandGrid(name, crs_of[names.index(name)], angle, origin, width))
    return tuple(sorted(grids, key=lambda grid: grid.region))


def banded(
    places: Places, grids: Sequence[BandGrid], turn: tuple[int, ...], buffer: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find for N chips the number of their band's split, and whether they lie too near to another: (N,) each.

    With a buffer of 0 no chip does: chips that do not overlap each other do not overlap in different splits
    either, and at an angle every border cuts chips.

    Two footprints of different splits that are not too near lie between different borders, each with half the
    buffer to spare: they are `buffer` apart in the direction across the bands, and so on the ground.

    Raises:
        InputError: a position is unknown, or a chip's region has no grid.
    """
    grid_N, seen = _located(places, grids)
    band_N = _bands(grids, grid_N, seen)
    begin_N, end_N = np.zeros((2, grid_N.size))
    for number, grid in enumerate(grids):
        chips = np.flatnonzero(grid_N == number)
        low_C, high_C = _extent(ChipFootprints(*(of_N2[chips] for of_N2 in seen)), grid.angle)
        slack_C = SLACK * (high_C - low_C)
        begin_N[chips] = (low_C + slack_C - buffer / 2 - grid.origin) / grid.width
        end_N[chips] = (high_C - slack_C + buffer / 2 - grid.origin) / grid.width
    split_T = np.array(turn, np.int64)
    split_N = split_T[band_N % len(turn)]
    is_near_N = np.zeros(grid_N.size, np.bool_)
    if buffer:
        # Intervals are open: a chip that ends where a band begins does not reach into it.
        first_N, last_N = np.floor(begin_N), np.ceil(end_N) - 1
        for step in range(min(int((last_N - first_N).max(initial=0)) + 1, len(turn))):
            reached_N = first_N + step
            is_near_N |= (reached_N <= last_N) & (split_T[reached_N.astype(np.int64) % len(turn)] != split_N)
    return split_N, is_near_N


def band_numbers(places: Places, grids: Sequence[BandGrid]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find for N chips the number of their region's grid, and of the band that holds them: (N,) each.

    Raises:
        InputError: a position is unknown, or a chip's region has no grid.
    """
    grid_N, seen = _located(places, grids)
    return grid_N, _bands(grids, grid_N, seen)


def _located(places: Places, grids: Sequence[BandGrid]) -> tuple[NDArray[np.int64], ChipFootprints]:
    """Find the number (N,) of each chip's grid, and its footprint in that grid's CRS."""
    refuse_unplaced(BY, places, next((grid.crs for grid in grids if grid.crs), ""))
    names = _names(places)
    number_of = {grid.region: number for number, grid in enumerate(grids)}
    if missing := [name for name in names if name not in number_of]:
        raise InputError(
            f"--split-by {BY}: {_chips_of(missing[0])} have no bands, but those of "
            f"{', '.join(number_of)} have; split the dataset again (treeline split)"
        )
    grid_N = np.array([number_of[name] for name in names], np.int64)[_region_numbers(places, names)]
    return grid_N, _seen(places, [grid.crs for grid in grids], grid_N)


def _bands(grids: Sequence[BandGrid], grid_N: NDArray[np.int64], seen: ChipFootprints) -> NDArray[np.int64]:
    """Return the number (N,) of the band that holds each chip's centre, from 0 at its grid's origin."""
    at_N = np.zeros(grid_N.size)
    for number, grid in enumerate(grids):
        chips = np.flatnonzero(grid_N == number)
        at_N[chips] = (_across(seen.centre_N2[chips], grid.angle) - grid.origin) / grid.width
    return np.floor(at_N + ROUNDING).astype(np.int64)


def refuse_empty(
    places: Places,
    grids: Sequence[BandGrid],
    split_N: NDArray[np.int64],
    splits: Mapping[str, int],
    buffer: float,
) -> None:
    """Refuse a split of which a region has no chip.

    Args:
        places: the chips.
        grids: grids of the regions to look at.
        split_N: numbers of the chips' splits.
        splits: numbers of the splits that must have chips, by name.
        buffer: buffer to be named.

    Raises:
        InputError: names region and split, and how wide bands are.
    """
    region_N = _region_numbers(places, names := _names(places))
    for grid in grids:
        if grid.region not in names:
            continue
        found = {*split_N[region_N == names.index(grid.region)].tolist()}
        if empty := [name for name, number in splits.items() if number not in found]:
            of = f" of region {grid.region}" if grid.region else ""
            remedy = "give fewer --split-bands" + (f" or less --buffer than {buffer:g}" if buffer else "")
            raise InputError(
                f"--split-by {BY}: leaves no chip{of} in {' and '.join(empty)}; its bands are "
                f"{grid.width:.4g} wide, chips {places.side:.4g}; {remedy}"
            )


def _names(places: Places) -> list[str]:
    """Return the names of the chips' regions in order; "" alone where all are one.

    Raises:
        InputError: a chip has no region.
    """
    if not len(places.regions):
        return [""]
    names = dict.fromkeys(places.regions)
    if None in names:
        is_none_N = np.fromiter((name is None for name in places.regions), np.bool_, len(places.regions))
        first = places.keys[int(np.argmax(is_none_N))]
        raise InputError(
            f"--region-column: {is_none_N.sum():,} of {is_none_N.size:,} chips have no value in it, {first} "
            "first; give each chip a region"
        )
    return sorted(str(name) for name in names)


def _region_numbers(places: Places, names: list[str]) -> NDArray[np.int64]:
    """Return (N,) each chip's place in `names`."""
    if names == [""]:
        return np.zeros(len(places.keys), np.int64)
    number_of = {name: number for number, name in enumerate(names)}
    return np.fromiter((number_of[str(name)] for name in places.regions), np.int64, len(places.regions))


def _own_crs(places: Places, names: list[str], region_N: NDArray[np.int64]) -> list[str]:
    """Return the CRS that the chips of each region share; "" where none has one.

    Raises:
        InputError: a region has several.
    """
    found: list[dict[str | None, None]] = [{} for _ in names]
    for region, crs in zip(region_N.tolist(), places.crs, strict=True):
        found[region][crs] = None
    return [one_crs(BY, crs, _chips_of(name)) for name, crs in zip(names, found, strict=True)]


def _chips_of(region: str) -> str:
    return f"the chips of region {region}" if region else "the chips"


def _seen(places: Places, crs_of: Sequence[str | None], number_N: NDArray[np.int64]) -> ChipFootprints:
    """Compute (N,) footprints, each in the CRS that `crs_of` has for its number; NaN where that is None."""
    seen = ChipFootprints(*np.full((3, number_N.size, 2), np.nan))
    for crs in dict.fromkeys(crs_of):
        chips = np.flatnonzero(np.array([one == crs for one in crs_of])[number_N])
        if crs is not None and chips.size:
            for every_N2, of_C2 in zip(seen, footprints(places.taken(chips), crs), strict=True):
                every_N2[chips] = of_C2
    return seen


def _extent(seen: ChipFootprints, angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute where (N,) footprints begin and end across bands at `angle`, in units of their CRS.

    An upright square of side s extends over s (|cos| + |sin|).
    """
    middle_N = _across((seen.low_N2 + seen.high_N2) / 2, angle)
    cos, sin = np.abs(_direction(angle))
    size_N2 = seen.high_N2 - seen.low_N2
    half_N = (size_N2[:, 1] * cos + size_N2[:, 0] * sin) / 2
    return middle_N - half_N, middle_N + half_N


def _across(xy_N2: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Compute positions (N,) across bands at `angle`: to the left of the direction in which they run."""
    cos, sin = _direction(angle)
    # One by one, not as a product of matrices, whose rounding may depend on the number of chips.
    return np.asarray(xy_N2[:, 1] * cos - xy_N2[:, 0] * sin, np.float64)


def _direction(angle: float) -> NDArray[np.float64]:
    """Return (cos, sin) of an angle in degrees; exact for right angles."""
    quarter, rest = divmod(angle, 90.0)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    for _ in range(int(quarter) % 4):
        cos, sin = -sin, cos
    return np.array([cos, sin])


def _spelled(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
