"""Backscatter of a synthetic tile at C band: VV and VH per season in decibels.

Land is a water cloud over soil (Attema and Ulaby 1978): plants scatter A cos(th) (1 - t), and the soil shows
through them with t = exp(-2 B plant area / cos(th)). The soil is that of Oh (2004), a function of moisture,
roughness and incidence. Terrain turns the local incidence and changes the ground's area per pixel (Ulander
1996); speckle is gamma distributed.

A tile's level is not simply its tree cover, since four other things move it within a region: soil moisture,
soil roughness, the incidence angle, and gain (of the canopy and of the instrument). How much they do so, the
constants here and in `ingest.synthetic.sar_landscape` take from the literature.

Images are geocoded, as those of Google Earth Engine are: slopes that face the radar are bright, up to ten
times where they would lie over one another; no pixel is displaced, and their echoes are not mixed. Speckle is
independent from pixel to pixel. The radar stands in the west, as on ascending passes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.sar_landscape import WIND_STD_DB, Land
from ingest.synthetic.sar_regions import BUILT, INCIDENCE_DEG, SEASONS, WATER, normal_share

POLARISATIONS = ("vv", "vh")
BANDS = tuple(f"{polarisation}_{season}" for season in SEASONS for polarisation in POLARISATIONS)

WAVENUMBER_PER_CM = 2 * math.pi * 5.405 / 29.9792458
"""Wavenumber in radians per cm, at Sentinel-1's centre frequency of 5.405 GHz."""
LOOKS = 44.0
"""Equivalent number of looks of a season: 4.4 of an IW GRDH image (CLS 2016), times about ten images."""

# Levels are those of Sentinel-1 in five tiles of TerraMesh (Blumenstiel et al. 2025), in VV and VH: closed
# woods -7.5 and -13.7 dB, crops from -10 and -17 dB down, water -17 and -22 dB, towns from -9 and -16 dB.
TREE_SCATTER = (0.262, 0.0655)
"""A of trees in VV and VH, as power."""
OPEN_SCATTER = (0.150, 0.0330)
"""A of crops and grass in VV and VH, as power."""
TREE_EXTINCTION, OPEN_EXTINCTION = 0.15, 0.12
"""B per m2 of plant area per m2 of ground: trees with a plant area of 4.2 let a fifth of the soil through."""
WATER_DB = (-17.0, -22.0)
BUILT_DB, BUILT_STD_DB = (-9.5, -16.0), 3.0
CANOPY_STD_DB, STAND_STD_DB = 0.4, 0.8
"""Standard deviations of a closed canopy's level between places and between parcels, in both polarisations:
0.9 dB together, as stands of northern forests span 3.5 to 6 dB in C-band, by season (Ahern et al. 1993)."""
GAIN_STD_DB = 0.33
"""Sentinel-1's radiometric stability, 1 dB at three standard deviations (ESA, SAR technical guide)."""
FLOOR = 1e-3
"""Least power, -30 dB: what noise is left in shadows."""
MOST_GAIN = 10.0
"""Most brightening by a slope: beyond, ground lies over ground."""


def backscatter_db(land: Land, looks: float = LOOKS) -> NDArray[np.float32]:
    """Compute a tile's bands (8, H, W) in the order of BANDS; draws speckle from the land's generator."""
    low_deg, high_deg = INCIDENCE_DEG
    incidence = math.radians(low_deg + (high_deg - low_deg) * normal_share(land.conditions.incidence))
    cos_HW, area_HW = _seen(land, incidence)
    power_SCHW = _vegetated(land, cos_HW) * area_HW
    _cover_water_and_buildings(land, power_SCHW)
    power_SCHW *= speckle(power_SCHW.shape, looks, land.rng)
    np.maximum(power_SCHW, np.float32(FLOOR), out=power_SCHW)
    db_SCHW: NDArray[np.float32] = np.log10(power_SCHW, out=power_SCHW)
    db_SCHW *= 10
    db_SCHW += np.float32(land.region.offset_db + GAIN_STD_DB * land.conditions.gain)
    return db_SCHW.reshape(-1, *cos_HW.shape)


def speckle(shape: tuple[int, ...], looks: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw multiplicative speckle: gamma distributed, mean 1, variance 1 / looks (Goodman 1976)."""
    drawn: NDArray[np.float32] = rng.standard_gamma(looks, shape, np.float32)
    drawn *= np.float32(1 / looks)
    return drawn


def soil_power(
    moisture_SP: NDArray[np.float32], roughness_cm_P: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute bare soil's part of Oh (2004) that does not depend on the angle, in VV and VH: (S, P) each.

    Times `soil_angles` it is the backscatter of soil with this moisture (m3 per m3) and roughness.
    """
    ks_P = np.float32(WAVENUMBER_PER_CM) * roughness_cm_P
    vh_SP = 0.11 * moisture_SP**0.7 * (1 - np.exp(-0.32 * ks_P**1.8))
    ratio_P = 0.095 * (1 - np.exp(-1.3 * ks_P**0.9))
    return (vh_SP / ratio_P).astype(np.float32), vh_SP.astype(np.float32)


def soil_angles(cos_HW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the part of Oh (2004) that depends on the angle, in VV and VH: (H, W) each."""
    vh_HW = cos_HW ** np.float32(2.2)
    ratio_HW = (np.float32(0.13) + np.sin(np.float32(1.5) * np.arccos(cos_HW))) ** np.float32(1.4)
    return vh_HW / ratio_HW, vh_HW


def _seen(land: Land, incidence: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the cosine of the local incidence, and how much ground a pixel holds, relative to flat ground.

    The radar looks east. The cosine is kept within 2 and 80 degrees.
    """
    cos, sin = np.float32(math.cos(incidence)), np.float32(math.sin(incidence))
    rise_HW = land.slope_east_HW
    norm_HW = np.sqrt(1 + rise_HW**2 + land.slope_south_HW**2)
    cos_HW = np.clip((cos + rise_HW * sin) / norm_HW, np.float32(0.17), np.float32(0.9994))
    # The cosine of the projection angle (Ulander 1996); below 0 the ground lies over other ground.
    projected_HW = np.abs(sin - rise_HW * cos) / norm_HW
    return cos_HW, sin / np.maximum(projected_HW, sin / np.float32(MOST_GAIN))


def _vegetated(land: Land, cos_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the water cloud over soil, trees and open land by their shares of the pixel: (S, 2, H, W)."""
    cover_HW, parcel_HW = land.cover_HW, land.parcel_HW
    canopy_db_P = CANOPY_STD_DB * land.conditions.canopy + STAND_STD_DB * land.stand_P
    canopy_HW = (10 ** (canopy_db_P / 10)).astype(np.float32)[parcel_HW] * cos_HW
    per_cos_HW = np.float32(-2) / cos_HW
    angles, soils = soil_angles(cos_HW), soil_power(land.moisture_SP, land.roughness_cm_P)
    tree_area_S = land.region.tree_area.values()
    power_SCHW = np.empty((len(SEASONS), len(POLARISATIONS), *cos_HW.shape), np.float32)
    for season, power_CHW in enumerate(power_SCHW):
        through_trees_HW = np.exp(np.float32(TREE_EXTINCTION * tree_area_S[season]) * per_cos_HW)
        through_open_HW = np.exp(
            (np.float32(OPEN_EXTINCTION) * land.leaf_area_SP[season])[parcel_HW] * per_cos_HW
        )
        through_trees_HW *= cover_HW
        through_open_HW *= 1 - cover_HW
        by_trees_HW = (cover_HW - through_trees_HW) * canopy_HW
        by_open_HW = ((1 - cover_HW) - through_open_HW) * cos_HW
        through_HW = through_trees_HW + through_open_HW
        for channel in range(len(POLARISATIONS)):
            power_HW = power_CHW[channel]
            np.multiply(soils[channel][season][parcel_HW], angles[channel], out=power_HW)
            power_HW *= through_HW
            power_HW += np.float32(TREE_SCATTER[channel]) * by_trees_HW
            power_HW += np.float32(OPEN_SCATTER[channel]) * by_open_HW
    return power_SCHW


def _cover_water_and_buildings(land: Land, power_SCHW: NDArray[np.float32]) -> None:
    """Set the power of water and buildings, which is the same in all seasons and does not see the slope."""
    wind_db = WIND_STD_DB * float(land.rng.standard_normal())
    is_water_HW, is_built_HW = land.class_HW == WATER, land.class_HW == BUILT
    num_built = np.count_nonzero(is_built_HW)
    built_db_N = BUILT_STD_DB * land.rng.standard_normal(num_built, np.float32)
    for channel in range(len(POLARISATIONS)):
        power_SCHW[:, channel, is_water_HW] = 10 ** ((WATER_DB[channel] + wind_db) / 10)
        if num_built:
            power_SCHW[:, channel, is_built_HW] = 10 ** ((BUILT_DB[channel] + built_db_N) / 10)
