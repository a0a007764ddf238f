"""The land of the synthetic SAR landscape: trees, parcels, crops, water, buildings and terrain of a tile.

    land = land_of(TilePlace(seed=0, region=1, row=3, column=4), size_px=64)
    land.cover_HW.mean()

A tile is a function of its place alone: of (seed, region, row, column) and its size. `sar_backscatter` and
`sar_coherence` compute what a radar sees of it. Textures are periodic in the tile, and parcels end at its
edges: neighbours share their conditions, not their fields.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.sar_regions import (
    BUILT,
    CONDITIONS,
    CROPS,
    GRASS,
    REGIONS,
    TREES,
    WATER,
    Conditions,
    Region,
    conditions_at,
    usual_cover,
)

PIXEL_M = 10.0
MIN_PX = 16
"""Least side of a tile in pixels: smaller ones have no texture, and hardly a pixel of coherence."""

MOISTURE_STD = 0.04
"""Standard deviation of soil moisture between places of a region, m3 per m3: a single day has 0.04 to 0.07 at
scales from some metres to 50 km (Famiglietti et al. 2008), and a season's images less."""
PARCEL_MOISTURE_STD = 0.02
MOISTURE_RANGE = (0.03, 0.45)
"""From dry to saturated soil, m3 per m3."""
ROUGHNESS_STD = 0.35
"""Standard deviation of the logarithm of the soil's roughness between places of a region: with a median of
0.5 cm, 95 % lie from 0.25 to 1 cm, from smooth to sown fields (Verhoest et al. 2008)."""
PARCEL_ROUGHNESS_STD = 0.25
LEAF_AREA_STD = 0.25
"""Standard deviation of the logarithm of leaf area between parcels: soils, sorts and days of sowing."""
CROPS_STD = 0.15
"""Standard deviation of the share of crops between tiles."""
WIND_STD_DB = 1.5
"""Standard deviation of water's backscatter between places: wind."""
HAMLET_DENSITY = 0.4
"""Share of pixels with buildings within a hamlet."""
TEXTURE_EXPONENTS = (1.0, 2.0, 1.4)
"""Roughness of the textures of cover, relief and hamlets: amplitude as frequency^-exponent."""
_TILES = 4  # first part of seeds; ingest.synthetic.sar_regions has another


@dataclass(frozen=True)
class TilePlace:
    """Place of a tile in a world."""

    seed: int
    region: int
    """Number of the region in REGIONS."""
    row: int
    """Tiles south of the region's northern edge, from 0."""
    column: int
    """Tiles east of its western edge, from 0."""


@dataclass(frozen=True)
class Land:
    """Land cover and relief of a tile, with the generator for what is drawn after them."""

    region: Region
    conditions: Conditions
    cover_HW: NDArray[np.float32]
    """Share of each pixel under trees (0..1)."""
    class_HW: NDArray[np.uint8]
    """Class of each pixel, see LAND_COVER; trees where they cover half of it or more."""
    parcel_HW: NDArray[np.intp]
    """Number of each pixel's parcel."""
    leaf_area_SP: NDArray[np.float32]
    """Leaf area of what grows on a parcel's open land, m2 per m2, per season."""
    moisture_SP: NDArray[np.float32]
    """Volumetric soil moisture, m3 per m3, per season and parcel."""
    roughness_cm_P: NDArray[np.float32]
    """Root mean square height of a parcel's soil."""
    stand_P: NDArray[np.float32]
    """Species and structure of a parcel's trees, as one standard normal number."""
    slope_east_HW: NDArray[np.float32]
    """Rise of the ground per metre to the east."""
    slope_south_HW: NDArray[np.float32]
    rng: np.random.Generator
    """Generator of the tile, behind the land; the one who looks draws noise from it, once."""

    @property
    def tree_percent(self) -> float:
        """Mean tree cover of the tile, %."""
        return 100 * float(self.cover_HW.mean(dtype=np.float64))

    @property
    def land_cover(self) -> int:
        """Most frequent class of the tile; of equally frequent ones the first."""
        return int(np.bincount(self.class_HW.ravel()).argmax())


def land_of(place: TilePlace, size_px: int) -> Land:
    """Draw the land of a tile of `size_px` x `size_px` pixels of 10 m."""
    rng = np.random.default_rng([_TILES, place.seed, place.region, place.row, place.column])
    region = REGIONS[place.region]
    tile = (place.row, place.column)
    conditions = conditions_at(place.seed, place.region, tile, rng.standard_normal(CONDITIONS))
    parcel_HW, num_parcels = _parcels(size_px, region.parcel_m / PIXEL_M, rng)
    woods_P, moist_P, rough_P, lush_P, stand_P = rng.standard_normal((5, num_parcels), np.float32)
    clumps_HW, relief_HW, hamlets_HW = _textures(size_px, rng)

    cover_HW = _cover(usual_cover(place.region, conditions.cover), woods_P[parcel_HW], clumps_HW, region)
    crops = region.crops + CROPS_STD * rng.standard_normal()
    is_crop_P = (rng.random(num_parcels) < crops) & (woods_P < np.median(woods_P) + 0.5)
    class_HW = np.where(is_crop_P, CROPS, GRASS).astype(np.uint8)[parcel_HW]
    class_HW[cover_HW >= 0.5] = TREES
    if share := region.water * max(0.0, conditions.water) ** 2 / 2:
        class_HW[relief_HW < _quantile(relief_HW, share)] = WATER
    if share := region.built * max(0.0, conditions.built) ** 2 / 2:
        is_hamlet_HW = hamlets_HW < _quantile(hamlets_HW, share / HAMLET_DENSITY)
        class_HW[is_hamlet_HW & (rng.random(class_HW.shape, np.float32) < HAMLET_DENSITY)] = BUILT
    cover_HW[class_HW >= WATER] = 0  # nor do trees stand on buildings

    slope = math.tan(math.radians(region.slope_deg)) * math.exp(0.4 * conditions.relief)
    slope_east_HW, slope_south_HW = _slopes(relief_HW, slope)
    moisture_SP = region.moisture.values()[:, None] + np.float32(PARCEL_MOISTURE_STD) * moist_P
    moisture_SP += np.float32(MOISTURE_STD) * conditions.moisture_S[:, None]
    driest, wettest = map(np.float32, MOISTURE_RANGE)
    roughness_P = ROUGHNESS_STD * conditions.roughness + PARCEL_ROUGHNESS_STD * rough_P
    leaf_area_SP = np.where(
        is_crop_P, region.crop_area.values()[:, None], region.grass_area.values()[:, None]
    )
    return Land(
        region=region,
        conditions=conditions,
        cover_HW=cover_HW,
        class_HW=class_HW,
        parcel_HW=parcel_HW,
        leaf_area_SP=leaf_area_SP * np.exp(np.float32(LEAF_AREA_STD) * lush_P),
        moisture_SP=np.clip(moisture_SP, driest, wettest),
        roughness_cm_P=(region.roughness_cm * np.exp(roughness_P)).astype(np.float32),
        stand_P=stand_P,
        slope_east_HW=slope_east_HW,
        slope_south_HW=slope_south_HW,
        rng=rng,
    )


def _parcels(size_px: int, side_px: float, rng: np.random.Generator) -> tuple[NDArray[np.intp], int]:
    """Cut a tile into strips, slanted a little, and each strip into parcels, as bricks in a wall.

    Returns:
        The number of each pixel's parcel (H, W), and how many numbers there are.
    """
    num = math.ceil(2 * size_px / side_px) + 2  # enough even if all of a strip's parcels are short
    width_PN = side_px * rng.uniform(0.5, 1.5, (num + 1, num))
    # Each row of parcels begins before the tile, at a place of its own.
    end_PN = width_PN.cumsum(1) - rng.uniform(0, side_px, (num + 1, 1))
    along = np.arange(size_px)
    strip_H = np.searchsorted(end_PN[num], along)
    slant = rng.uniform(-0.4, 0.4)
    shifted_HW = along + np.rint(slant * along).astype(np.intp)[:, None]
    shifted_HW -= shifted_HW.min()
    reach = int(shifted_HW.max()) + 1
    number_PW = np.minimum(
        np.stack([np.searchsorted(end_N, np.arange(reach)) for end_N in end_PN[: strip_H[-1] + 1]]), num - 1
    )
    parcel_HW = strip_H[:, None] * num + number_PW[strip_H[:, None], shifted_HW]
    return (parcel_HW.T if rng.random() < 0.5 else parcel_HW), num * (int(strip_H[-1]) + 1)


def _textures(size_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw periodic textures (3, H, W), mean 0 and standard deviation 1; see TEXTURE_EXPONENTS."""
    white_THW = rng.standard_normal((len(TEXTURE_EXPONENTS), size_px, size_px), np.float32)
    spectrum = np.fft.rfft2(white_THW) * _filters(size_px)
    texture_THW: NDArray[np.float32] = np.fft.irfft2(spectrum, s=(size_px, size_px)).astype(np.float32)
    texture_THW /= texture_THW.std((1, 2), keepdims=True)
    return texture_THW


@lru_cache(maxsize=4)
def _filters(size_px: int) -> NDArray[np.float32]:
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px))
    frequency[0, 0] = np.inf
    return np.stack([frequency**-exponent for exponent in TEXTURE_EXPONENTS]).astype(np.float32)


def _cover(
    mean: float, woods_HW: NDArray[np.float32], clumps_HW: NDArray[np.float32], region: Region
) -> NDArray[np.float32]:
    """Let trees grow where woods and clumps are highest, so that about the share `mean` is covered."""
    height_HW = np.float32(math.sqrt(region.by_parcel)) * woods_HW
    height_HW += np.float32(math.sqrt(1 - region.by_parcel)) * clumps_HW
    height_HW -= np.float32(_quantile(height_HW, 1 - mean))
    cover_HW: NDArray[np.float32] = 1 / (1 + np.exp(np.float32(-region.edge) * height_HW))
    return cover_HW


def _quantile(values_HW: NDArray[np.float32], share: float) -> float:
    """Return the value that the share (0..1) of the values lies below."""
    place = min(int(share * values_HW.size), values_HW.size - 1)
    return float(np.partition(values_HW, place, None)[place])


def _slopes(relief_HW: NDArray[np.float32], slope: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the rise per metre to the east and to the south, with a root mean square of `slope`."""
    east_HW = np.roll(relief_HW, -1, 1) - np.roll(relief_HW, 1, 1)
    south_HW = np.roll(relief_HW, -1, 0) - np.roll(relief_HW, 1, 0)
    scale = np.float32(slope / math.sqrt(float(np.mean(east_HW**2 + south_HW**2))))
    return east_HW * scale, south_HW * scale
