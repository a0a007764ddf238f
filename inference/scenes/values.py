"""Whether a scene's values are those of the training: factors, exchanged bands, bytes, undeclared nodata.

findings = value_findings(sample, schema, statistics)

The training is known by the percentiles of each band (`shards.format.statistics`). They say nothing of how
bands go together, so a mistake is told by what an honest scene does not do. Cloud, snow, haze, season, sun
and water move the bands unlike each other; a factor moves all of them alike. Haze adds light, which changes
medians and leaves spreads; exchanged bands exchange both. docs/prediction.md states the rules.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.scenes.finding import Finding
from inference.scenes.sample import Sample
from shards.format.schema import Schema
from shards.format.statistics import Statistics

LEAST_PIXELS = 100
"""Fewest sampled pixels that anything is concluded from."""
LEAST_FILLED = 0.01
"""Share of the pixels above which a value that fills all bands at once is named."""
FILLED_TOGETHER = 0.9
"""Least share, of the pixels with that value in any band, that have it in all: a dark or saturated pixel is
so in one band before it is in the next, a missing one in all."""
ALONE = 0.1
"""Share of the values' range that the largest one must lie above the next to be no saturated pixel's."""
PERCENTS = ("2", "5", "25", "50", "75")
QUARTERS = slice(2, 5)
MEDIAN = 3
"""Places in PERCENTS."""
BRIGHTER = math.log(2.2)
"""Logarithm of a factor common to all bands from which it is gross: sun and gain make no scene so bright."""
ABOVE_ALL = 1.5
"""Multiple of a band's largest value in training above which some pixels of a scene that is too bright must
lie: cloud and snow, mixed with ground, look like a factor, but reflect no more than all light."""
DARKER, NOTED_DARKER = math.log(4), math.log(3)
"""Logarithm of a factor from which a scene is too dark, and from which that is noted; a low sun makes scenes
darker by half."""
UNEXPLAINED_BRIGHTER, UNEXPLAINED_DARKER = 1 / 3, 1 / 4
"""Largest share of a common factor's logarithm by which a band may differ from it."""
FLAT = math.log(2)
"""Logarithm of the ratio of the bands' medians in training below which any change looks like a factor: a
gross one must then be twice as large, or each band above all that was trained on."""
ROUND_FACTORS = (2, 4, 10, 100, 1000, 10_000)
NEAR_ROUND = math.log(1.45)
"""Largest logarithm of a found factor over a round one that is still named by the round one: as much as
honest scenes differ, and less than half the way from 4 to 10."""
BETTER = 0.5
"""Largest misfit of an explanation by exchanged bands, as a share of the misfit of the bands as they are."""
LEAST_CONTRAST = 0.25
"""Least misfit of the bands as they are that an exchange must explain: bands that are more alike in training
cannot be told apart."""
SURE_CONTRAST, SURE_SPREADS = math.log(2), 1.5
"""Misfit of the medians that haze does not cause, so that spreads need not confirm an exchange: a logarithm,
or for values below 0 a number of spreads. Decibels of one place differ by a spread from season to season."""
PER_MOVED = 0.02
"""Misfit that each exchanged band costs, so that the simplest of like explanations is named."""
MOST_PERMUTED = 4
"""Most bands of which all orders are tried; of more, exchanges of two and the reverse order."""
LARGEST_BYTE = 255
BEYOND = 2.0
"""Share of the training's largest value above which a median is noted without an explanation."""


@dataclass(frozen=True)
class _Bands:
    """Percentiles of a scene and of the training, of the bands that both have."""

    names: tuple[str, ...]
    of_file: tuple[str, ...]
    """Names of all bands of the scene's file, in its order."""
    values_BN: NDArray[np.float64]
    scene_BP: NDArray[np.float64]
    """Percentiles of the sampled pixels, as PERCENTS."""
    trained_BP: NDArray[np.float64]
    low_B: NDArray[np.float64]
    """First percentile in training."""
    high_B: NDArray[np.float64]
    """90th percentile in training."""
    top_B: NDArray[np.float64]
    """99th percentile in training."""
    most_B: NDArray[np.float64]
    """Largest value in training."""

    @property
    def are_above_0(self) -> bool:
        """Whether values have logarithms."""
        return bool((self.trained_BP > 0).all())

    def said(self, band: int) -> str:
        """Say a band's median and range."""
        low, high = (f"{value:.4g}" for value in (self.low_B[band], self.top_B[band]))
        median = f"{self.scene_BP[band, MEDIAN]:.4g}"
        return f"band {self.names[band]} has the median {median}, in training 98 % lie in {low} to {high}"


def value_findings(sample: Sample, schema: Schema, statistics: Statistics) -> tuple[Finding, ...]:
    """Compare sampled pixels with the training's percentiles; the worst finding about values comes alone.

    Args:
        sample: the scene's pixels.
        schema: the schema of the chips that the model was trained on.
        statistics: statistics of those chips; what they lack is not checked.
    """
    if sample.stored_BN.shape[1] < LEAST_PIXELS:
        return ()
    filled = _filled(sample)
    found = [filled[1]] if filled else []
    stored_BN = sample.stored_BN[:, ~filled[0]] if filled else sample.stored_BN
    bands = _bands(stored_BN, sample.names, schema, statistics)
    if bands is not None:
        for rule in (_bytes, _power, _factor, _exchanged, _beyond):
            if finding := rule(bands):
                found.append(finding)
                break
    return tuple(found)


def _bands(
    stored_BN: NDArray[Any], of_file: tuple[str, ...], schema: Schema, statistics: Statistics
) -> _Bands | None:
    needed = {*PERCENTS, "1", "90", "99"}
    names = tuple(
        name
        for name in schema.bands
        if name in statistics.bands and needed <= statistics.bands[name].percentiles.keys()
    )
    if not names or stored_BN.shape[1] < LEAST_PIXELS:
        return None
    scalings = np.array([schema.scaling(name) for name in names])
    places = [schema.bands.index(name) for name in names]
    values_BN = stored_BN[places].astype(np.float64) * scalings[:, :1] + scalings[:, 1:]
    trained = [statistics.bands[name] for name in names]

    def of_training(percents: Iterable[str]) -> NDArray[np.float64]:
        return np.array([[one.percentiles[percent] for percent in percents] for one in trained])

    scene_PB = np.percentile(values_BN, [int(percent) for percent in PERCENTS], axis=1)
    low_B, high_B, top_B = of_training(("1", "90", "99")).T
    most_B = np.array([one.maximum for one in trained])
    return _Bands(names, of_file, values_BN, scene_PB.T, of_training(PERCENTS), low_B, high_B, top_B, most_B)


# --- a value that stands for nothing ---


def _filled(sample: Sample) -> tuple[NDArray[np.bool_], Finding] | None:
    """Find the value that most pixels have in all bands at once, where it is one that is missing."""
    stored_BN = sample.stored_BN
    alike_N = (stored_BN == stored_BN[0]).all(0)
    if len(stored_BN) < 2 or not alike_N.any():
        return None
    values, counts = np.unique(stored_BN[0, alike_N], return_counts=True)
    value, count = values[counts.argmax()], int(counts.max())
    share = count / sample.seen
    in_any = int((stored_BN == value).any(0).sum())
    if share <= LEAST_FILLED or count < FILLED_TOGETHER * in_any or _is_saturation(stored_BN, value):
        return None
    said = f"{value:.7g}" if stored_BN.dtype.kind == "f" else str(value)
    line = f"{max(round(100 * share), 1)} % of pixels are {said} in all bands; is {said} nodata?"
    return alike_N & (stored_BN[0] == value), Finding("filled", line, f"if so, give --nodata {said}")


def _is_saturation(stored_BN: NDArray[Any], value: Any) -> bool:
    """Tell a largest value below which there are others from one that stands alone."""
    if value < stored_BN.max():
        return False
    others = stored_BN[stored_BN < value].astype(np.float64)
    return bool(others.size and value - others.max() < ALONE * (value - others.min()))


# --- other units ---


def _bytes(bands: _Bands) -> Finding | None:
    """Tell values that were stretched to bytes."""
    values_BN = bands.values_BN
    is_bytes = values_BN.min() >= 0 and values_BN.max() <= LARGEST_BYTE and (values_BN % 1 == 0).all()
    fills = (np.percentile(values_BN, 99, axis=1) > LARGEST_BYTE / 2).all()
    trained_B = bands.trained_BP[:, MEDIAN]
    is_other = (bands.top_B > 2 * LARGEST_BYTE).all() and (trained_B > LARGEST_BYTE).sum() * 2 > len(
        trained_B
    )
    if not (is_bytes and fills and is_other):
        return None
    band = int(np.argmax(trained_B))
    line = f"{bands.said(band)}; all bands as if stretched to 0 to {LARGEST_BYTE}"
    return Finding("bytes", line, "give the scene as it was before, in the values of the training", True)


def _power(bands: _Bands) -> Finding | None:
    """Tell power where the training has decibels."""
    scene_B, trained_B = bands.scene_BP[:, MEDIAN], bands.trained_BP[:, MEDIAN]
    if bands.values_BN.min() < 0 or (trained_B >= 0).any() or (scene_B <= 0).any():
        return None
    if np.abs(10 * np.log10(scene_B) - trained_B).max() > 10:  # within a factor of ten
        return None
    line = f"{bands.said(0)}; all bands as if in power instead of decibels"
    return Finding("power", line, "convert it (10 log10)", True)


def _factor(bands: _Bands) -> Finding | None:
    """Tell a factor that all bands have in common, at two neighbouring percentiles."""
    signs = np.sign(bands.trained_BP)
    if not (signs == signs[0, 0]).all() or not signs[0, 0]:
        return None
    scene_BP = np.abs(bands.scene_BP) * (np.sign(bands.scene_BP) == signs)
    with np.errstate(divide="ignore"):
        ratio_BP = np.log(scene_BP) - np.log(np.abs(bands.trained_BP))
    shift = _common_shift(ratio_BP)
    medians_B = np.abs(bands.trained_BP[:, MEDIAN])
    is_flat = medians_B.max() < math.exp(FLAT) * medians_B.min()
    is_below_0 = signs[0, 0] < 0
    is_noted = False
    if is_below_0:  # decibels of water are twice those of land
        is_gross = abs(shift) >= DARKER
    elif shift > 0:
        is_gross = shift >= BRIGHTER and _is_above_all(bands, is_flat)
    else:
        is_gross = -shift >= (2 if is_flat else 1) * DARKER
        is_noted = not is_flat and -shift >= NOTED_DARKER
    if not is_gross and not is_noted:
        return None
    band = int(np.argmax(np.abs(ratio_BP[:, MEDIAN])))
    verb, cure = ("multiplied", "divide") if shift > 0 else ("divided", "multiply")
    by = _said_factor(abs(shift))
    line = f"{bands.said(band)}; all bands as if {verb} by {by}"
    return Finding("factor", line, f"{cure} the scene by {by.removeprefix('about ')}", is_gross)


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


def _is_above_all(bands: _Bands, in_all: bool) -> bool:
    """Tell whether a twentieth of a band's pixels lie above all that was trained on; or of each band's."""
    above_B = np.percentile(bands.values_BN, 95, axis=1) > ABOVE_ALL * bands.most_B
    return bool(above_B.all() if in_all else above_B.any())


def _said_factor(logarithm: float) -> str:
    nearest = min(ROUND_FACTORS, key=lambda factor: abs(math.log(factor) - logarithm))
    if abs(math.log(nearest) - logarithm) <= NEAR_ROUND:
        return f"{nearest:,}"
    return f"about {math.exp(logarithm):.2g}"


def _beyond(bands: _Bands) -> Finding | None:
    """Note a median far beyond all that was trained on."""
    for band in range(len(bands.names)):
        most = float(bands.most_B[band])
        if most > 0 and bands.scene_BP[band, MEDIAN] > BEYOND * most:
            cure = "see whether it has the unit and the calibration of the training's images"
            return Finding("beyond", f"{bands.said(band)} and none above {most:.4g}", cure)
    return None


# --- other bands ---


def _exchanged(bands: _Bands) -> Finding | None:
    """Tell bands in another order, by medians and spreads of the pixels that are no brighter than most."""
    count = len(bands.names)
    is_usual_N = bands.values_BN.sum(0) <= bands.high_B.sum()
    if count < 2 or is_usual_N.sum() < LEAST_PIXELS:
        return None
    quarters_3B = np.percentile(bands.values_BN[:, is_usual_N], (25, 50, 75), axis=1)
    scene = _described(quarters_3B, bands)
    trained = _described(bands.trained_BP[:, QUARTERS].T, bands)
    if scene is None or trained is None:
        return None
    as_is = tuple(range(count))

    def cost(order: tuple[int, ...]) -> float:
        moved = sum(place != band for place, band in enumerate(order))
        return _misfit(scene, trained[:, list(order)], as_is) + PER_MOVED * moved

    order = min(_orders(count), key=cost)
    moved = [place for place in as_is if order[place] != place]
    if not moved or not _explains(scene, trained, order, moved, bands.are_above_0):
        return None
    truly = {name: bands.names[place] for name, place in zip(bands.names, order, strict=True)}
    named = [truly.get(name, name) for name in bands.of_file]
    band = max(moved, key=lambda place: abs(scene[0, place] - trained[0, place]))
    line = f"{bands.said(band)}; {_said_order(bands.names, order, moved)}"
    return Finding("exchanged", line, f"if so, give --bands {' '.join(named)}", True)


def _described(quarters_3B: NDArray[np.float64], bands: _Bands) -> NDArray[np.float64] | None:
    """Return (2, bands): medians and spreads, as logarithms, or medians in spreads for values below 0."""
    spread_B = quarters_3B[2] - quarters_3B[0]
    if (spread_B <= 0).any():
        return None
    if bands.are_above_0:
        if (quarters_3B[1] <= 0).any():
            return None
        level_B = np.log(quarters_3B[1])
    else:
        level_B = quarters_3B[1] / float(
            np.mean(bands.trained_BP[:, -1] - bands.trained_BP[:, QUARTERS.start])
        )
    return np.stack([level_B, np.log(spread_B)])


def _orders(count: int) -> list[tuple[int, ...]]:
    """List the orders of bands that are tried."""
    as_is = tuple(range(count))
    if count <= MOST_PERMUTED:
        return list(itertools.permutations(as_is))
    exchanges = [
        tuple(second if place == first else first if place == second else place for place in as_is)
        for first, second in itertools.combinations(as_is, 2)
    ]
    return [as_is, *exchanges, as_is[::-1]]


def _explains(
    scene: NDArray[np.float64],
    trained: NDArray[np.float64],
    order: tuple[int, ...],
    moved: Sequence[int],
    are_above_0: bool,
) -> bool:
    """Tell whether the order explains medians and spreads of the moved bands much better than the names do."""

    def misfits(rows: slice) -> tuple[float, float]:
        ordered = trained[:, list(order)]
        return _misfit(scene[rows], trained[rows], moved), _misfit(scene[rows], ordered[rows], moved)

    both, both_ordered = misfits(slice(0, 2))
    levels, levels_ordered = misfits(slice(0, 1))
    spreads, spreads_ordered = misfits(slice(1, 2))
    confirmed = are_above_0 and spreads >= LEAST_CONTRAST and spreads_ordered <= BETTER * spreads
    is_sure = levels >= (SURE_CONTRAST if are_above_0 else SURE_SPREADS) and levels_ordered <= BETTER * levels
    return both >= LEAST_CONTRAST and both_ordered <= BETTER * both and (confirmed or is_sure)


def _misfit(scene: NDArray[np.float64], trained: NDArray[np.float64], places: Sequence[int]) -> float:
    """Return the root of the mean squared difference in some bands, of which a factor of all is no part."""
    difference = (scene - trained)[:, list(places)]
    difference = difference - difference.mean(1, keepdims=True)
    return float(np.sqrt((difference**2).mean(1).sum()))


def _said_order(names: Sequence[str], order: tuple[int, ...], moved: Sequence[int]) -> str:
    if order == tuple(range(len(names)))[::-1] and len(names) > 2 and len(moved) >= len(names) - 1:
        return "as if the bands were in reverse order"
    if len(moved) == 2:
        first, second = (names[place] for place in moved)
        return f"as if {first} and {second} were exchanged"
    return f"as if the bands were {' '.join(names[place] for place in order)}"
