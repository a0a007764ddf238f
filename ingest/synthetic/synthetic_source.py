"""A source of any number of synthetic chips, without files in between, for load tests.

    source = SyntheticSource(SyntheticConfig(out="chips", chips=500_000))

Chip i depends on (seed, i) alone. Every 4,096 chips are cut from one periodic world of 256 x 256 pixels
(`ingest.synthetic.landscape`), at different places and in one of eight turns, so no two are alike. Measured
on one core: 0.12 s for a world and 10 microseconds for a chip, about 25,000 chips a second in all. Shadows
turn with the chip: heights fit the image, but the sun stands anywhere.

The chips are for load, not for learning. Chips of a world overlap, so held-out pixels were seen in training,
and neighbours on the map are no neighbours in the world.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ingest.chips.check import Rejected
from ingest.chips.source import GROUP, Candidates, CommandSource, Raw
from ingest.config import SyntheticConfig
from ingest.synthetic.landscape import (
    BANDS,
    CRS,
    NODATA,
    ORIGIN_X_M,
    ORIGIN_Y_M,
    PIXEL_M,
    make_landscape,
)
from shards.errors import InputError
from shards.format.schema import Schema

CHIP_PX = 64
CHIP_M = CHIP_PX * PIXEL_M
SCENE_CHIPS = 16
"""Chips along each side of a scene on the map, where they lie side by side: 2 km."""
WORLD_SCENES = 4
"""Scenes along each side of the square on the map that one world fills: 8 km."""
ROW_WORLDS = 16
"""Number of such squares from west to east; the next row follows to the south."""
CHIPS_PER_SCENE = SCENE_CHIPS**2
CHIPS_PER_WORLD = CHIPS_PER_SCENE * WORLD_SCENES**2
"""Chips cut from a world: 4,096. A world is one group (see GROUP), so only one task draws it, once."""
WORLD_PX = 256
TURNS = 8
MOST_CHIPS = 20_000_000
"""Most chips: Arrow holds at most 2 GB of text in an unchunked column, 24 million keys."""

INCOMPLETE_SHARE = 25_494 / 499_284
"""Share of chips with missing pixels, as in the first users' data."""
NO_HEIGHT_SHARE = 45_326 / 499_284
"""Share of chips without a height above 0, as in the first users' data."""

SOURCES = ("AK_IFSAR_CHM", "fairbanks_ql1_2017", "infrastructure_2011_26906")
"""Sources of heights, as the field's keys name them."""
SENSORS = {"WV02": "1030010", "WV03": "1040010"}
"""Beginning of catalogue ids, by sensor."""
YEARS, FIRST_YEAR_OF_WV03 = range(2012, 2023), 2015
SUMMER = np.arange(np.datetime64("2001-06-01"), np.datetime64("2001-09-01"))
VERSION = "v20231006"

_PLACE = "_chip"
_CUTS, _SCENES = 2, 3
"""Third parts of seeds, after (seed, number); `ingest.synthetic.landscape` uses none and 1."""


@dataclass(frozen=True)
class SyntheticSource(CommandSource):
    """Chips of the landscape of a seed; a larger number of chips starts with the same ones."""

    config: SyntheticConfig

    @property
    def schema(self) -> Schema:
        """Schema: int16 images (4, 64, 64) and heights (64, 64) in metres, pixels of 2 m, nodata -9999."""
        return Schema(BANDS, nodata=NODATA, chip_size=CHIP_PX, pixel_size=PIXEL_M)

    def candidates(self) -> Candidates:
        """List the chips in order: columns key (with i as number), x, y, crs, `_chip` (i), `_group` (world).

        Raises:
            InputError: the number of chips is below 1 or too large, or the seed below 0.
        """
        count, seed = self.config.chips, self.config.seed
        if not 1 <= count <= MOST_CHIPS:
            raise InputError(f"--chips {count}: give a number from 1 to {MOST_CHIPS}")
        if seed < 0:
            raise InputError(f"--seed {seed}: give 0 or more")
        chip_N = np.arange(count)
        x_m_N, y_m_N = positions(chip_N)
        columns = {
            "key": _keys(seed, chip_N),
            "x": pa.array(x_m_N),
            "y": pa.array(y_m_N),
            "crs": pa.repeat(CRS, count),
            GROUP: pa.array(chip_N // CHIPS_PER_WORLD),
            _PLACE: pa.array(chip_N),
        }
        return Candidates(pa.table(columns))

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Cut each row's chip; at most two worlds are in memory, 1.2 MB each."""
        for chip in table[_PLACE].to_pylist():
            number, of_world = divmod(chip, CHIPS_PER_WORLD)
            yield _world(self.config.seed, number).cut(of_world)


def positions(chip_N: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute easting and northing (N,) in metres of the centres of chips, from their numbers (N,).

    Scenes are squares filled row by row, worlds are squares of scenes; no two chips overlap.
    """
    world_row_N, world_column_N = np.divmod(chip_N // CHIPS_PER_WORLD, ROW_WORLDS)
    scene_row_N, scene_column_N = np.divmod(chip_N // CHIPS_PER_SCENE % WORLD_SCENES**2, WORLD_SCENES)
    chip_row_N, chip_column_N = np.divmod(chip_N % CHIPS_PER_SCENE, SCENE_CHIPS)
    row_N = (world_row_N * WORLD_SCENES + scene_row_N) * SCENE_CHIPS + chip_row_N
    column_N = (world_column_N * WORLD_SCENES + scene_column_N) * SCENE_CHIPS + chip_column_N
    return ORIGIN_X_M + (column_N + 0.5) * CHIP_M, ORIGIN_Y_M - (row_N + 0.5) * CHIP_M


@dataclass(frozen=True)
class _World:
    """A drawn world, and where its N = 4,096 chips are cut."""

    image_CHW: NDArray[np.int16]
    """Image (4, 319, 319): the world repeats beyond its edge, so that a chip may begin at any pixel."""
    height_HW: NDArray[np.float32]
    row_N: NDArray[np.int64]
    column_N: NDArray[np.int64]
    turn_N: NDArray[np.int64]
    is_bare_N: NDArray[np.bool_]
    """Chips whose heights are all set to 0, whatever their images show."""

    def cut(self, chip: int) -> Raw:
        """Copy the arrays of a chip (0..4,095) from this world."""
        row, column, turn = self.row_N[chip], self.column_N[chip], self.turn_N[chip]
        window = slice(row, row + CHIP_PX), slice(column, column + CHIP_PX)
        image_CHW = _turned(self.image_CHW[:, *window], turn)
        if self.is_bare_N[chip]:
            return Raw(image_CHW, np.zeros((CHIP_PX, CHIP_PX), np.float32))
        return Raw(image_CHW, _turned(self.height_HW[window], turn))


@lru_cache(maxsize=2)
def _world(seed: int, number: int) -> _World:
    """Draw a world.

    Two are cached: worlds are needed one after another, or two in turns where a task begins within one.
    """
    landscape = make_landscape(seed, number, (WORLD_PX, WORLD_PX))
    rng = np.random.default_rng([seed, number, _CUTS])
    missing_HW = _wrapped(landscape.image_CHW[0] == NODATA)
    image_CHW, height_HW = _wrapped(landscape.image_CHW), _wrapped(landscape.height_m_HW)
    has_missing_HW, has_height_HW = _in_window(missing_HW), _in_window(height_HW > 0)

    kind_N = rng.random(CHIPS_PER_WORLD)
    is_incomplete_N = kind_N < INCOMPLETE_SHARE
    cut_N = np.empty(CHIPS_PER_WORLD, np.int64)
    for chosen_N, starts_HW in (
        (is_incomplete_N, has_missing_HW),
        (~is_incomplete_N, ~has_missing_HW & has_height_HW),
    ):
        # Each place and turn at most once, so that no two chips are alike.
        starts = np.flatnonzero(starts_HW)
        drawn = rng.choice(TURNS * starts.size, np.count_nonzero(chosen_N), replace=False)
        cut_N[chosen_N] = TURNS * starts[drawn // TURNS] + drawn % TURNS
    start_N, turn_N = np.divmod(cut_N, TURNS)
    row_N, column_N = np.divmod(start_N, WORLD_PX)
    is_bare_N = ~is_incomplete_N & (kind_N < INCOMPLETE_SHARE + NO_HEIGHT_SHARE)
    return _World(image_CHW, height_HW, row_N, column_N, turn_N, is_bare_N)


def _wrapped(world: NDArray[Any]) -> NDArray[Any]:
    """Repeat (..., rows, columns) beyond the lower and right edges, as far as chips reach."""
    beyond = [(0, 0)] * (world.ndim - 2) + [(0, CHIP_PX - 1)] * 2
    return np.pad(world, beyond, mode="wrap")


def _in_window(there_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell (256, 256) whether the chip that begins at a pixel has a true one of `there_HW` (319, 319)."""
    sums_HW = np.pad(there_HW.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    below_HW = sums_HW[CHIP_PX:] - sums_HW[:-CHIP_PX]
    found_HW: NDArray[np.bool_] = below_HW[:, CHIP_PX:] > below_HW[:, :-CHIP_PX]
    return found_HW


def _turned(chip: NDArray[Any], turn: int) -> NDArray[Any]:
    """Copy (..., rows, columns), flipped or turned in one of the eight ways that keep a square."""
    if turn & 1:
        chip = chip[..., ::-1, :]
    if turn & 2:
        chip = chip[..., ::-1]
    if turn & 4:
        chip = chip.swapaxes(-2, -1)
    return chip.copy()


def _keys(seed: int, chip_N: NDArray[np.int64]) -> pa.Array:
    """Make keys (N,) in the field's form, see `shards.format.key`; a scene's differ in their number only."""
    scene_N = chip_N // CHIPS_PER_SCENE
    beginnings = pa.array([_beginning(seed, scene) for scene in range(scene_N[-1] + 1)])
    # Seven digits keep keys in the order of the chips, up to ten million.
    number_N = pc.utf8_lpad(pa.array(chip_N).cast(pa.string()), 7, "0")
    return pc.binary_join_element_wise(beginnings.take(pa.array(scene_N)), number_N, VERSION, "_")


def _beginning(seed: int, scene: int) -> str:
    """Make the part of a scene's keys before the number: its image, and the source of its heights."""
    rng = np.random.default_rng([seed, scene, _SCENES])
    year, day = rng.choice(YEARS), rng.choice(SUMMER).item()
    sensors = list(SENSORS) if year >= FIRST_YEAR_OF_WV03 else ["WV02"]
    sensor, source = rng.choice(sensors), rng.choice(SOURCES)
    # Five digits suffice to number the scenes of the most chips.
    catalogue = f"{SENSORS[sensor]}{rng.integers(16**4):04X}{scene:05X}"
    return f"chip_{sensor}_{year}{day:%m%d}_M1BS_{catalogue}_CHM_{source}"
