"""Regions of the synthetic SAR landscape: what tells them apart, and what varies from place to place in them.

A region is a square of tiles side by side that stands for a region of thousands of kilometres: what varies
over hundreds of kilometres in nature (tree cover, soils, weather, the place in the swath) varies over some
tiles here. All of it is a function of (seed, region, row, column), drawn with random Fourier features (Rahimi
and Recht 2007), so neighbouring tiles are alike and no map has to be kept.

The numbers were set so that levels are those of real tiles and cover shows in every region (Spearman's rank
correlation above 0.5 in summer). That was done before anything was trained on the landscape, and they are not
tuned to favour a method.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SEASONS = ("spring", "summer", "autumn", "winter")
"""Three months each from March on, named as in the northern hemisphere, also for regions in the southern."""

LAND_COVER = {"trees": 1, "crops": 2, "grass_or_bare": 3, "water": 4, "built": 5}
"""Classes of pixels, and of tiles by their most frequent class."""
TREES, CROPS, GRASS, WATER, BUILT = LAND_COVER.values()

INCIDENCE_DEG = (29.1, 46.0)
"""Incidence angles of Sentinel-1's IW swath from near to far range (Lang and Praks 2022)."""
SHARE_OF_PLACE = 0.85
"""Share of the variance of a tile's conditions that neighbours have in common."""
WAVELENGTHS = (6.0, 40.0)
"""Shortest and longest wavelength of what varies in a region, in tiles: neighbours are alike at any size."""
CONDITIONS = 13
"""Numbers that describe a tile; see Conditions."""
_FEATURES = 32
_PLACES = 5  # first part of seeds; ingest.synthetic.sar_landscape has another


@dataclass(frozen=True)
class Beta:
    """A mode of the distribution of tree cover: a beta distribution."""

    share: float
    """Share of the tiles."""
    a: float
    b: float


@dataclass(frozen=True)
class Season:
    """A quantity over the year: lowest, highest, and when it is highest in seasons from spring on (0..4)."""

    low: float
    high: float
    peak: float

    def values(self) -> NDArray[np.float32]:
        """Compute the quantity in each season: (seasons,)."""
        phase_S = 2 * np.pi * (np.arange(len(SEASONS)) - self.peak) / len(SEASONS)
        return (self.low + (self.high - self.low) * (0.5 + 0.5 * np.cos(phase_S))).astype(np.float32)


@dataclass(frozen=True)
class Region:
    """A region: its place on the map, its land, its year and its terrain."""

    name: str
    crs: str
    west_m: float
    """Easting of its north-western corner."""
    north_m: float
    """Northing of its north-western corner."""
    cover: tuple[Beta, Beta]
    """Distribution of a tile's tree cover (0..1), before water and buildings take their part."""
    parcel_m: float
    """Mean side of a parcel."""
    by_parcel: float
    """Share of the variance of tree cover within a tile that follows parcels; the rest is fractal."""
    edge: float
    """Steepness of the edge between trees and open land."""
    crops: float
    """Mean share of crops among open parcels; the others are grass or bare."""
    tree_area: Season
    """Plant area of trees (leaves, twigs and stems), m2 per m2."""
    crop_area: Season
    """Leaf area of crops, m2 per m2."""
    grass_area: Season
    """Leaf area of grass, m2 per m2."""
    moisture: Season
    """Mean volumetric soil moisture, m3 per m3."""
    roughness_cm: float
    """Median height of the soil's roughness (root mean square); Verhoest et al. 2008: 0.25 to 4 cm."""
    slope_deg: float
    """Typical (root mean square) slope."""
    water: float
    """Share of water that one tile in twelve exceeds; half of the tiles have none."""
    built: float
    """Share of buildings that one tile in twelve exceeds; half of the tiles have none."""
    offset_db: float
    """Decibels that the tile's processing adds to all bands."""
    decay_days: float
    """Days in which bare, half-dry ground loses its coherence: wind and rain."""


REGIONS = (
    # Big parcels, cover of two kinds.
    Region(
        name="conus",
        crs="EPSG:5070",
        west_m=600_000.0,
        north_m=1_700_000.0,
        cover=(Beta(0.65, 1.3, 6.5), Beta(0.35, 5.0, 4.0)),
        parcel_m=400.0,
        by_parcel=0.75,
        edge=6.0,
        crops=0.6,
        tree_area=Season(3.2, 4.8, 1.0),
        crop_area=Season(0.2, 4.5, 1.2),
        grass_area=Season(0.6, 2.0, 0.8),
        moisture=Season(0.14, 0.22, 3.8),
        roughness_cm=0.55,
        slope_deg=3.0,
        water=0.05,
        built=0.03,
        offset_db=0.0,
        decay_days=25.0,
    ),
    # Small parcels, dense; winter crops are highest between spring and summer.
    Region(
        name="europe",
        crs="EPSG:3035",
        west_m=4_300_000.0,
        north_m=3_000_000.0,
        cover=(Beta(0.7, 8.0, 5.0), Beta(0.3, 3.5, 6.0)),
        parcel_m=150.0,
        by_parcel=0.6,
        edge=4.0,
        crops=0.45,
        tree_area=Season(3.4, 5.0, 1.0),
        crop_area=Season(0.3, 4.0, 0.5),
        grass_area=Season(0.7, 2.2, 0.8),
        moisture=Season(0.16, 0.26, 3.2),
        roughness_cm=0.45,
        slope_deg=5.0,
        water=0.03,
        built=0.05,
        offset_db=0.6,
        decay_days=18.0,
    ),
    # Small terraces in rugged terrain, dry but for the summer, low gain.
    Region(
        name="china",
        crs="EPSG:32650",
        west_m=400_000.0,
        north_m=3_900_000.0,
        cover=(Beta(0.5, 1.5, 5.0), Beta(0.5, 5.0, 3.0)),
        parcel_m=90.0,
        by_parcel=0.4,
        edge=3.0,
        crops=0.5,
        tree_area=Season(3.0, 4.6, 1.1),
        crop_area=Season(0.3, 3.8, 1.3),
        grass_area=Season(0.4, 1.8, 1.1),
        moisture=Season(0.08, 0.17, 1.2),
        roughness_cm=0.65,
        slope_deg=14.0,
        water=0.03,
        built=0.06,
        offset_db=-1.5,
        decay_days=35.0,
    ),
    # Dense and wet, fields cut into the forest; south of the equator, so the year is half a turn behind.
    Region(
        name="southamerica",
        crs="EPSG:32722",
        west_m=300_000.0,
        north_m=8_900_000.0,
        cover=(Beta(0.7, 7.0, 1.8), Beta(0.3, 2.0, 4.0)),
        parcel_m=300.0,
        by_parcel=0.7,
        edge=6.0,
        crops=0.3,
        tree_area=Season(4.8, 5.4, 3.0),
        crop_area=Season(0.2, 4.0, 3.1),
        grass_area=Season(1.2, 3.0, 3.2),
        moisture=Season(0.15, 0.27, 3.3),
        roughness_cm=0.45,
        slope_deg=4.0,
        water=0.06,
        built=0.01,
        offset_db=0.4,
        decay_days=14.0,
    ),
)
"""All regions; --regions takes the first ones. Levels of cover, parcels, year and terrain are typical of such
places; no published distribution stands behind each number."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a tile, each a standard normal number: how far it is from its region's usual state."""

    moisture_S: NDArray[np.float32]
    """Soil moisture per season; half of its variance is common to all seasons."""
    cover: float
    canopy: float
    """Backscatter of closed canopies: species and structure."""
    roughness: float
    incidence: float
    gain: float
    relief: float
    water: float
    built: float

    @classmethod
    def of(cls, value_K: NDArray[np.float64]) -> "Conditions":
        """Give standard normal numbers (CONDITIONS,) their names."""
        year, season_S = value_K[8], value_K[9:]
        moisture_S = ((year + season_S) * math.sqrt(0.5)).astype(np.float32)
        return cls(moisture_S, *value_K[:8].tolist())


def conditions_at(seed: int, region: int, tile: tuple[int, int], own_K: NDArray[np.float64]) -> Conditions:
    """Compute the conditions of a tile.

    Args:
        seed: seed of the world.
        region: number of the region.
        tile: row and column of the tile.
        own_K: standard normal numbers (CONDITIONS,): the part that a tile does not share with neighbours.
    """
    wave_KF2, phase_KF = _features(seed, region)
    shared_K = math.sqrt(2 / _FEATURES) * np.cos(wave_KF2 @ np.array(tile) + phase_KF).sum(1)
    return Conditions.of(math.sqrt(SHARE_OF_PLACE) * shared_K + math.sqrt(1 - SHARE_OF_PLACE) * own_K)


@lru_cache(maxsize=16)
def _features(seed: int, region: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw wave vectors (conditions, features, 2) in radians per tile, and phases (conditions, features)."""
    rng = np.random.default_rng([_PLACES, seed, region])
    shape_KF = (CONDITIONS, _FEATURES)
    shortest, longest = WAVELENGTHS
    length_KF = np.exp(rng.uniform(math.log(shortest), math.log(longest), shape_KF))
    angle_KF, phase_KF = rng.uniform(0, 2 * np.pi, (2, *shape_KF))
    wave_KF2 = 2 * np.pi / length_KF[..., None] * np.stack([np.cos(angle_KF), np.sin(angle_KF)], -1)
    return wave_KF2, phase_KF


def normal_share(value: float) -> float:
    """Compute the share of a normal distribution that lies below a standard normal number."""
    return 0.5 * (1 + math.erf(value * math.sqrt(0.5)))


def usual_cover(region: int, value: float) -> float:
    """Turn a standard normal number into tree cover (0..1) with the region's distribution."""
    below_G, cover_G = _cover_quantiles(region)
    return float(np.interp(normal_share(value), below_G, cover_G))


@lru_cache(maxsize=len(REGIONS))
def _cover_quantiles(region: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate a region's distribution of tree cover: share of tiles below a cover, and that cover."""
    edge_G = np.linspace(0, 1, 2001)
    middle = (edge_G[1:] + edge_G[:-1]) / 2
    density = np.zeros_like(middle)
    for beta in REGIONS[region].cover:
        mode = middle ** (beta.a - 1) * (1 - middle) ** (beta.b - 1)
        density += beta.share * mode / mode.sum()
    return np.concatenate([[0.0], np.cumsum(density)]), edge_G
