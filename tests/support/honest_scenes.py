"""Scenes of the synthetic landscape as they come from another day, another place or another sky; and faults.

Nothing here was looked at when the rules of `inference.scenes.units` and `band_order` were made: those were
made on other seeds, with simpler weather.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.landscape import BANDS, NODATA, fractal_noise, make_landscape
from shards.format.schema import Schema
from shards.format.statistics import Statistics, Tally, summarise

Image = NDArray[np.float64]
SCHEMA = Schema(BANDS, nodata=NODATA)
SIDE = 256
WAVELENGTH_NM = np.array([480, 545, 660, 830])
"""Middles of WorldView-2's blue, green, red and first near infrared band."""
SNOW, WATER = np.array([8800, 8700, 8400, 7300]), np.array([420, 390, 240, 130])
LARGEST = 32_767


@cache
def statistics(seed: int = 41, scenes: int = 4, is_clear: bool = False) -> Statistics:
    """The statistics of a training on some scenes of one summer, with their small clouds or without."""
    image_NCHW = np.stack([make_landscape(seed, number, (SIDE, SIDE)).image_CHW for number in range(scenes)])
    if is_clear:
        cloudy_NHW = image_NCHW[:, 0] > 1500
        image_NCHW = np.where(cloudy_NHW[:, None], np.int16(NODATA), image_NCHW)
    found = summarise(Tally.of(image_NCHW, np.zeros((scenes, SIDE, SIDE), np.float32)), SCHEMA)
    assert found
    return found


@cache
def _summer(number: int) -> tuple[Image, NDArray[np.bool_]]:
    image_CHW = make_landscape(4200 + number, number, (SIDE, SIDE)).image_CHW.astype(np.float64)
    return image_CHW, (image_CHW == NODATA).any(0)


def _mask(share: float, rng: np.random.Generator, softness: float = 0.3) -> Image:
    """Opacity (rows, columns), 0..1, above a half on this share of the scene."""
    noise_HW = fractal_noise((SIDE, SIDE), 1.4, rng).astype(np.float64)
    edge = np.quantile(noise_HW, 1 - share)
    return np.asarray(1 / (1 + np.exp(-(noise_HW - edge) / softness * 3)))


def _over(image_CHW: Image, colour_C: NDArray[np.float64], mask_HW: Image) -> Image:
    return image_CHW + mask_HW * (colour_C[:, None, None] - image_CHW)


def season(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Autumn or early spring: plants turn brown, more where there are more."""
    greenness_HW = np.clip((image_CHW[3] - image_CHW[2]) / (image_CHW[3] + image_CHW[2]), 0, 1)
    brown_C = rng.uniform(0.3, 1) * np.array([0.1, 0.05, 0.6, -0.35])
    return np.asarray(image_CHW * np.exp(brown_C[:, None, None] * greenness_HW))


def gain(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Another calibration: up to 15 %, and 4 % between bands."""
    return np.asarray(image_CHW * rng.uniform(0.85, 1.15) * rng.normal(1, 0.04, (4, 1, 1)))


def haze(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Light scattered by air, more in blue; thicker on one side; and what it keeps from the ground."""
    depth_C = (WAVELENGTH_NM / 480) ** -rng.uniform(1.3, 4)
    thickness_HW = rng.uniform(100, 450) * (1 + 0.3 * fractal_noise((SIDE, SIDE), 2, rng))
    scattered = depth_C[:, None, None] * np.clip(thickness_HW, 0, None)
    return np.asarray(image_CHW * np.exp(-scattered / 4000) + scattered)


def snow(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Snow on part of the ground or all of it, darker in the shade."""
    light_HW = np.clip(image_CHW[3] / np.median(image_CHW[3]), 0.25, 1.15)
    mask_HW = _mask(rng.uniform(0.2, 0.95), rng)
    return image_CHW + mask_HW * (SNOW[:, None, None] * light_HW - image_CHW)


def sun(image_CHW: Image, rng: np.random.Generator) -> Image:
    """A low sun: less light, and more of the ground in a shade that is bluer."""
    shade_C = np.array([0.4, 0.3, 0.24, 0.2])[:, None, None]
    shade_HW = _mask(rng.uniform(0.1, 0.4), rng)
    return np.asarray(image_CHW * rng.uniform(0.6, 0.9) * (1 - shade_HW * (1 - shade_C)))


def cloud(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Cloud over 5 to 95 %, with its shadow beside it."""
    mask_HW = _mask(rng.uniform(0.05, 0.95), rng)
    shaded = image_CHW * (1 - 0.6 * np.roll(mask_HW, (15, 10), (0, 1)))
    return _over(shaded, rng.uniform(4500, 8500) * np.array([1.02, 1, 0.98, 1.05]), mask_HW)


def region(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Another region: lakes, bare soil or dense forest instead of part of the ground."""
    kinds = np.array([WATER, [900, 1350, 1850, 2600], [240, 420, 260, 3100]])
    for colour_C in kinds[rng.permutation(3)[:2]]:
        light_HW = image_CHW.mean(0) / image_CHW.mean()
        mask_HW = _mask(rng.uniform(0.1, 0.5), rng, 0.1)
        image_CHW = image_CHW + mask_HW * (colour_C[:, None, None] * light_HW - image_CHW)
    return image_CHW


def half(image_CHW: Image, rng: np.random.Generator) -> Image:
    """Half of the scene without data, at a slant."""
    row_HW, column_HW = np.indices((SIDE, SIDE))
    image_CHW = image_CHW.copy()
    image_CHW[:, column_HW < SIDE / 2 + (row_HW - SIDE / 2) * rng.uniform(-0.5, 0.5)] = np.nan
    return image_CHW


CONDITIONS = (season, gain, haze, snow, sun, cloud, region, half)


def plain_scene(number: int) -> Image:
    """An ordinary summer scene, not of the training; NaN where it has no pixels."""
    image_CHW, missing_HW = _summer(number)
    return np.where(missing_HW, np.nan, image_CHW)


def honest_scene(condition: Callable[[Image, np.random.Generator], Image], number: int) -> Image:
    """An honest scene; NaN where it has no pixels."""
    image_CHW, missing_HW = _summer(number)
    found_CHW = condition(
        np.where(missing_HW, np.median(image_CHW), image_CHW), np.random.default_rng(7000 + number)
    )
    return np.where(missing_HW, np.nan, found_CHW)


def stored(image_CHW: Image) -> NDArray[np.int16]:
    """An image as its file has it."""
    clipped_CHW = np.clip(np.rint(image_CHW), 1, LARGEST)
    return np.where(np.isfinite(image_CHW), clipped_CHW, NODATA).astype(np.int16)


def stretched(image_CHW: Image) -> Image:
    """Each band stretched to bytes between its 2nd and 98th percentile, as image viewers do."""
    low_C, high_C = np.nanpercentile(image_CHW, (2, 98), axis=(1, 2))[:, :, None, None]
    return np.asarray(np.clip((image_CHW - low_C) / (high_C - low_C) * 255, 0, 255))


FAULTS: dict[str, Callable[[Image], Image]] = {
    "divided by 10": lambda image_CHW: image_CHW / 10,
    "multiplied by 4": lambda image_CHW: image_CHW * 4,
    "multiplied by 10": lambda image_CHW: image_CHW * 10,
    "stretched to bytes": stretched,
    "red and blue exchanged": lambda image_CHW: image_CHW[[2, 1, 0, 3]],
    "in reverse order": lambda image_CHW: image_CHW[::-1],
    "nir first": lambda image_CHW: image_CHW[[3, 0, 1, 2]],
}
