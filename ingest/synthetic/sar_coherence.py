"""Repeat-pass coherence of a synthetic tile, over 12 and 24 days per season, VV.

Coherence falls with time as (1 - rho) exp(-t / tau) + rho (Kellndorfer et al. 2022); long-term coherence rho
and decay time tau fall with plant area and soil moisture. A season's value is the median over its pairs of
images, each an estimate from few looks, which is biased upwards and spreads (Touzi et al. 1999). True pixels
are those of that data set, 92.7 m; a tile of 10 m repeats each of them, as nearest-neighbour resampling does.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.sar_landscape import PIXEL_M, Land, TilePlace
from ingest.synthetic.sar_regions import BUILT, SEASONS, WATER

DAYS = (12, 24)
BANDS = tuple(f"coh{days}_{season}" for season in SEASONS for days in DAYS)

TRUE_PIXEL_M = 92.7
"""Three seconds of arc (Kellndorfer et al. 2022)."""
LOOKS = 86.0
"""Looks of an estimate: resolution cells of IW, 5 m x 20 m (ESA), in a true pixel."""
PAIRS = 7
"""Pairs of images in a season of 92 days that are 12 days apart."""

# Set so that coherence over 12 days is 0.1 to 0.4 in closed woods in summer, and 0.3 to 0.8 on open land.
LONG_TERM = 0.45
"""rho of bare ground at USUAL_MOISTURE."""
BY_AREA_LONG_TERM, BY_AREA_DECAY = 0.35, 0.30
"""Decrease of the logarithms of rho and tau per m2 of plant area per m2."""
BY_MOISTURE = 2.0
"""Decrease of both logarithms per m3 of water per m3 of soil."""
USUAL_MOISTURE = 0.2
BUILT_COHERENCE, WATER_COHERENCE = 0.85, 0.0


def coherence(land: Land, place: TilePlace, looks: float = LOOKS) -> NDArray[np.float32]:
    """Compute the bands (8, H, W) of a tile, in the order of BANDS; draws noise from the land's generator."""
    side = len(land.cover_HW)
    row_H, column_W = _true_pixels(place.row * side, side), _true_pixels(place.column * side, side)
    true_CHW = _mean_within(_coherence_of_pixels(land), row_H, column_W)
    pairs_NCHW = estimated(np.broadcast_to(true_CHW, (PAIRS, *true_CHW.shape)), looks, land.rng)
    seen_CHW = np.median(pairs_NCHW, axis=0)
    return np.ascontiguousarray(seen_CHW[:, row_H[:, None], column_W], np.float32)


def decayed(
    days: float, long_term: NDArray[np.float32], decay_days: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute coherence after a number of days (Kellndorfer et al. 2022)."""
    left: NDArray[np.float32] = (1 - long_term) * np.exp(-days / decay_days) + long_term
    return left


def estimated(coherence: NDArray[np.float32], looks: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw estimates of coherence from a number of looks (above 1), distributed as in Touzi et al. 1999.

    The sample covariance of two circular Gaussian images is a complex Wishart matrix; its Cholesky factor has
    gamma distributed squares on the diagonal and a complex normal below (Goodman 1963), so no look is drawn.
    """
    first = np.sqrt(rng.standard_gamma(looks, coherence.shape))
    second = np.sqrt(rng.standard_gamma(looks - 1, coherence.shape))
    real, imaginary = math.sqrt(0.5) * rng.standard_normal((2, *coherence.shape))
    rest = np.sqrt(1 - np.square(coherence))
    common2 = np.square(coherence * first + rest * real) + np.square(rest * imaginary)
    estimate: NDArray[np.float64] = np.sqrt(common2 / (common2 + np.square(rest * second)))
    return estimate


def _coherence_of_pixels(land: Land) -> NDArray[np.float32]:
    """Compute the true coherence of each pixel of 10 m: (8, H, W)."""
    moist_SP = np.exp(-BY_MOISTURE * (land.moisture_SP - np.float32(USUAL_MOISTURE)))
    tree_area_S1 = land.region.tree_area.values()[:, None]
    is_water_HW, is_built_HW = land.class_HW == WATER, land.class_HW == BUILT
    pixel_SDHW = np.empty((len(SEASONS), len(DAYS), *land.cover_HW.shape), np.float32)
    for number, days in enumerate(DAYS):
        open_SP, trees_SP = (
            decayed(
                days,
                LONG_TERM * moist_SP * np.exp(-BY_AREA_LONG_TERM * area),
                land.region.decay_days * moist_SP * np.exp(-BY_AREA_DECAY * area),
            )
            for area in (land.leaf_area_SP, tree_area_S1)
        )
        open_SHW = open_SP[:, land.parcel_HW]
        pixel_SDHW[:, number] = open_SHW + land.cover_HW * (trees_SP[:, land.parcel_HW] - open_SHW)
    pixel_CHW = pixel_SDHW.reshape(-1, *land.cover_HW.shape)
    pixel_CHW[:, is_water_HW] = WATER_COHERENCE
    pixel_CHW[:, is_built_HW] = BUILT_COHERENCE
    return pixel_CHW


def _true_pixels(first_px: int, count: int) -> NDArray[np.intp]:
    """Return the numbers, from 0, of the true pixels that the pixels of a tile's side lie in."""
    number_N: NDArray[np.intp] = ((first_px + np.arange(count) + 0.5) * PIXEL_M // TRUE_PIXEL_M).astype(
        np.intp
    )
    number_N -= number_N[0]
    return number_N


def _mean_within(
    pixel_CHW: NDArray[np.float32], row_H: NDArray[np.intp], column_W: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Average the pixels of each true pixel, as far as it lies in the tile."""
    start_row, start_column = (
        np.searchsorted(number, np.arange(number[-1] + 1)) for number in (row_H, column_W)
    )
    sum_CHW: NDArray[np.float32] = np.add.reduceat(np.add.reduceat(pixel_CHW, start_row, 1), start_column, 2)
    count_HW = (np.bincount(row_H)[:, None] * np.bincount(column_W)).astype(np.float32)
    sum_CHW /= count_HW
    return sum_CHW
