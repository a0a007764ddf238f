"""Values in another unit than the training's: times a factor, stretched to bytes, power for decibels."""

import math

import numpy as np
from numpy.typing import NDArray

from inference.scenes.compared import MEDIAN, PERCENTS, QUARTERS, ScenePercentiles
from shards.raster.finding import Finding

BRIGHTER = math.log(2.2)
"""Logarithm of a factor common to all bands from which it is gross: sun and gain make no scene so bright."""
ABOVE_ALL, FAR_ABOVE_ALL = 1.5, 2.5
"""Multiples of the largest value in training, of any band, above which the brightest band of a scene that is
too bright must reach: above the first where bands differ, above the second where they are alike, as cloud and
snow are in all bands, whose mixtures with ground look like a factor."""
ALIKE = 0.5
"""Share of the bands' contrast in training, as a logarithm, below which bright pixels are alike."""
DARKER, NOTED_DARKER = math.log(4), math.log(3)
"""Logarithm of a factor from which a scene is too dark, and from which that is noted; a low sun makes scenes
darker by half."""
UNEXPLAINED_BRIGHTER, UNEXPLAINED_DARKER = 1 / 3, 1 / 4
"""Largest share of a common factor's logarithm by which a band may differ from it."""
FLAT = math.log(2)
"""Logarithm of the ratio of the bands' medians in training below which any change looks like a factor: a
gross one must then be twice as large, or each band above all that was trained on."""
ROUND_FACTORS = (2, 4, 10, 100, 1000, 10_000)
NEAR_ROUND = math.log(1.7)
"""Largest logarithm of a found factor over a round one that is still named by the round one: a scene may be
as much darker or brighter than the training's mean."""
LARGEST_BYTE, NEARLY = 255, 0.95
"""Largest value of a byte, and the share of it that a stretched scene reaches."""
NO_FACTOR = "see whether it has the unit and the calibration of the training's images"
"""What to do about values of which no factor makes those of the training."""
BYTES_HAVE_NO_UNIT = (
    "bytes have no unit, and their factor differs from scene to scene: give a scene in the values of the "
    "training, such as its surface reflectance"
)
"""What to do about bytes that are not as the training was."""
BEYOND = 2.0
"""Multiple of the largest value in training, of any band, above which a median is noted as it is."""


def stretched(bands: ScenePercentiles) -> Finding | None:
    """Tell values that were stretched to bytes."""
    values_BN = bands.values_BN
    fills = NEARLY * LARGEST_BYTE <= values_BN.max() <= LARGEST_BYTE
    is_bytes = fills and values_BN.min() >= 0 and (values_BN % 1 == 0).all()
    trained_B = bands.trained_BP[:, MEDIAN]
    is_other = (bands.top_B > 2 * LARGEST_BYTE).all() and np.median(trained_B) > LARGEST_BYTE
    if not (is_bytes and is_other):
        return None
    band = int(np.argmax(trained_B))
    line = f"{bands.said(band)}; all bands as if stretched to 0 to {LARGEST_BYTE}"
    return Finding("bytes", line, "give the scene as it was before, in the values of the training", True)


def power(bands: ScenePercentiles) -> Finding | None:
    """Tell power where the training has decibels."""
    scene_B, trained_B = bands.scene_BP[:, MEDIAN], bands.trained_BP[:, MEDIAN]
    if bands.values_BN.min() < 0 or (trained_B >= 0).any() or (scene_B <= 0).any():
        return None
    if np.abs(10 * np.log10(scene_B) - trained_B).max() > 10:  # within a factor of ten
        return None
    line = f"{bands.said(0)}; all bands as if in power instead of decibels"
    return Finding("power", line, "convert it (10 log10)", True)


def factor(bands: ScenePercentiles) -> Finding | None:
    """Tell a factor that all bands have in common, at two neighbouring percentiles."""
    is_below_0 = bool((bands.trained_BP < 0).all())
    if not is_below_0 and not bands.are_above_0:
        return None
    sign = -1 if is_below_0 else 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_BP = np.log(np.maximum(sign * bands.scene_BP, 0)) - np.log(sign * bands.trained_BP)
    shift = _common_shift(ratio_BP)
    medians_B = np.abs(bands.trained_BP[:, MEDIAN])
    is_flat = medians_B.max() < math.exp(FLAT) * medians_B.min()
    is_noted = False
    if is_below_0:  # decibels of water are twice those of land
        is_gross = abs(shift) >= DARKER
    elif shift > 0:
        is_gross = shift >= BRIGHTER and _is_above_all(bands, is_flat)
    elif _is_below_most(bands, is_flat):
        is_gross = -shift >= (2 if is_flat else 1) * DARKER
        is_noted = not is_flat and -shift >= NOTED_DARKER
    else:
        is_gross = False
    if not is_gross and not is_noted:
        return None
    band = int(np.argmax(np.abs(ratio_BP[:, MEDIAN])))
    verb, undo = ("multiplied", "divide") if shift > 0 else ("divided", "multiply")
    by, is_round = _said_factor(abs(shift))
    line = f"{bands.said(band)}; all bands as if {verb} by {by}"
    cure = f"{undo} the scene by {by}" if is_round else f"no unit differs by that: {NO_FACTOR}"
    return Finding("factor", line, BYTES_HAVE_NO_UNIT if bands.are_bytes else cure, is_gross)


def beyond(bands: ScenePercentiles) -> Finding | None:
    """Note a median far beyond all that was trained on."""
    most, band = float(bands.most_B.max()), int(bands.scene_BP[:, MEDIAN].argmax())
    if most <= 0 or bands.scene_BP[band, MEDIAN] <= BEYOND * most:
        return None
    return Finding("beyond", f"{bands.said(band)}, and none of any band above {most:.4g}", NO_FACTOR)


def _common_shift(ratio_BP: NDArray[np.float64]) -> float:
    """Return the logarithm of the factor that best explains two neighbouring percentiles; 0 if none does."""
    best, least = 0.0, 1.0
    for first in range(len(PERCENTS) - 1):
        pair_BP = ratio_BP[:, first : first + 2]
        low, high = float(pair_BP.min()), float(pair_BP.max())
        shift = (low + high) / 2
        if not np.isfinite(shift) or not shift:
            continue
        unexplained = (high - low) / 2 / abs(shift)
        limit = UNEXPLAINED_BRIGHTER if shift > 0 else UNEXPLAINED_DARKER
        if unexplained <= min(limit, least):
            best, least = shift, unexplained
    return best


def _is_above_all(bands: ScenePercentiles, in_all: bool) -> bool:
    """Tell whether a twentieth of the brightest band's pixels lie above all training; or of each band's."""
    most = bands.most_B.max()
    if in_all:
        return bool((bands.scene_95_B > ABOVE_ALL * most).all())
    top = bands.scene_95_B[bands.brightest]
    trained_B = bands.trained_BP[:, MEDIAN]
    are_alike = np.ptp(np.log(bands.scene_95_B)) < ALIKE * np.ptp(np.log(trained_B))
    return bool(top > (FAR_ABOVE_ALL if are_alike else ABOVE_ALL) * most)


def _is_below_most(bands: ScenePercentiles, in_all: bool) -> bool:
    """Tell whether 95 % of the brightest band's pixels are as dark as a quarter in training; or of each's.

    A scene with shade or water has lit ground as well.
    """
    below_B = bands.scene_95_B < bands.trained_BP[:, QUARTERS.start]
    return bool(below_B.all() if in_all else below_B[bands.brightest])


def _said_factor(logarithm: float) -> tuple[str, bool]:
    """Write a factor, and tell whether it is a round one, by which units differ."""
    nearest = min(ROUND_FACTORS, key=lambda factor: abs(math.log(factor) - logarithm))
    if abs(math.log(nearest) - logarithm) <= NEAR_ROUND:
        return f"{nearest:,}", True
    return f"about {math.exp(logarithm):.2g}", False
