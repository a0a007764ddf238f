"""A value that stands for nothing, although the file does not say so."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.missing import missing_values
from shards.raster.finding import Finding
from shards.raster.gdal_advice import declare_nodata
from shards.wording import OnlyInCommands, Option, Words

FILLED = "filled"
"""Code of the finding."""
LEAST_FILLED = 0.01
"""Share of the pixels above which a value that fills all bands at once is named."""
FILLED_TOGETHER = 0.9
"""Least share of pixels with that value in all bands, of those with it in any band, and of those with any
value in all bands: a dark or saturated pixel is so in one band before it is in the next, and in a grey image
all pixels have one value in all bands."""
MOST_VALUES = 2
"""Most values that pixels with one value in all bands may have: a fill and clouds at the largest value, or
two fills. The first that is no saturated pixel's is named."""
LOOKED_AT = 64
"""Chips of a dataset that are looked at, evenly spread over it."""
EACH_CHIP = 1024
"""Pixels of a chip that are looked at, about."""
ALONE = 0.1
"""Share of the values' range that the largest one must lie above the next to be no saturated pixel's."""


EMPTY = 0.999
"""Share of the pixels from which an image that has one value in all bands shows nothing."""
LEAST_LOOKED_AT = 100
"""Fewest pixels from which that is concluded."""

Cure = Callable[[float, bool], Words]
"""Says what to do about a value that stands for nothing, and whether the image has hardly anything else."""


def cure(value: float, is_empty: bool = False) -> Words:
    """Say what to do about files that are about to be read."""
    if is_empty:
        return Words("if so, leave it out; if a part of it is measured, give ", Option("nodata", value))
    return Words("if so, give ", Option("nodata", value), OnlyInCommands(" and another --out"))


def cure_of_both(first: Words, value: float) -> Words:
    """Say what to do about files in which a second value stands for nothing: an option names only one."""
    declare = declare_nodata(f"{value:.7g}")
    also = f"; {value:.7g} fills other pixels: if that is nodata as well, first declare it in the file"
    return Words(first, f"{also} ({declare})")


def cure_again(value: float, is_empty: bool = False) -> Words:
    """Say what to do about a dataset that is there."""
    if is_empty:
        return Words("if so, ingest other images")
    return Words("if so, ingest again with ", Option("nodata", value), OnlyInCommands(" and another --out"))


@dataclass(frozen=True)
class SomePixels:
    """Pixels of a raster that have all bands, out of some that were read."""

    stored_BN: NDArray[Any]
    seen: int
    """Number of pixels that were read, those included of which a band is missing."""
    share: float = 1.0
    """Share of the raster's pixels that they stand for."""


def filled_by(
    spread: SomePixels, edges: tuple[SomePixels, ...] = (), cure: Cure = cure
) -> tuple[Any, Finding] | None:
    """Find the value that most pixels have in all bands at once, where it is one that is missing.

    Args:
        spread: pixels spread over the raster.
        edges: pixels along its edges, which show a narrow wedge that the others miss.
        cure: says what to do about a value.
    """
    if found := _empty(np.concatenate([part.stored_BN for part in (spread, *edges)], axis=1), cure):
        return found
    first = _first_filling(spread, edges)
    if first is None:
        return None
    value, share = first
    line = (
        f"{max(round(100 * share), 1)} % of pixels are {_said(value)} in all bands; is {_said(value)} nodata?"
    )
    return value, Finding(FILLED, line, cure(value.item(), False))


def also_filled_by(value: Any, spread: SomePixels, edges: tuple[SomePixels, ...] = ()) -> Any | None:
    """Find a second such value beside the first; None if there is none."""
    second = _first_filling(_without(value, spread), tuple(_without(value, edge) for edge in edges))
    return second[0] if second else None


def filled_file(spread: SomePixels, edges: tuple[SomePixels, ...]) -> tuple[Any, Finding] | None:
    """Find the same in pixels of a file, with the cure of both values where a second one fills it, too."""
    found = filled_by(spread, edges)
    if found is None or found[1].is_gross:
        return found
    value, finding = found
    second = also_filled_by(value, spread, edges)
    if second is None:
        return found
    return value, replace(finding, cure=cure_of_both(cure(value.item()), second.item()))


def _without(value: Any, part: SomePixels) -> SomePixels:
    """Leave out the pixels that have a value in all bands."""
    return replace(part, stored_BN=part.stored_BN[:, (part.stored_BN != value).any(0)])


def filled_chips(images: Iterable[NDArray[Any]], nodata: float | None, cure: Cure = cure) -> Finding | None:
    """Find a value that fills chips, image_CHW each, and is missing although `nodata` is another."""
    parts = []
    for image_CHW in images:
        step = max(1, math.isqrt(image_CHW[0].size // EACH_CHIP))
        parts.append(image_CHW[:, ::step, ::step].reshape(len(image_CHW), -1))
    if not parts:
        return None
    stored_BN = np.concatenate(parts, axis=1)
    is_whole_N = ~missing_values(stored_BN, nodata).any(0)
    found = filled_by(SomePixels(stored_BN[:, is_whole_N], stored_BN.shape[1]), cure=cure)
    return found[1] if found else None


def _first_filling(spread: SomePixels, edges: tuple[SomePixels, ...]) -> tuple[Any, float] | None:
    """Find the first value that fills pixels, and their share of the raster's: spread ones count first."""
    every_BN = np.concatenate([part.stored_BN for part in (spread, *edges)], axis=1)
    for parts in ((spread,), edges):
        if parts and (found := _filling(parts, every_BN)):
            return found
    return None


def _filling(parts: tuple[SomePixels, ...], every_BN: NDArray[Any]) -> tuple[Any, float] | None:
    stored_BN = np.concatenate([part.stored_BN for part in parts], axis=1)
    alike_N = (stored_BN == stored_BN[0]).all(0)
    if len(stored_BN) < 2 or not alike_N.any():
        return None
    values, counts = np.unique(stored_BN[0, alike_N], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    if int(counts[most].sum()) < FILLED_TOGETHER * int(alike_N.sum()):
        return None
    for value, count in zip(values[most], counts[most].tolist(), strict=True):
        share = sum(part.share * int((part.stored_BN == value).all(0).sum()) / part.seen for part in parts)
        is_together = count >= FILLED_TOGETHER * int((stored_BN == value).any(0).sum())
        if share > LEAST_FILLED and is_together and not _is_saturation(every_BN, value):
            return value, share
    return None


def _empty(stored_BN: NDArray[Any], cure: Cure) -> tuple[Any, Finding] | None:
    """Find the value that all but a few pixels have in all bands."""
    count = stored_BN.shape[1]
    if count < LEAST_LOOKED_AT:
        return None
    value = np.partition(stored_BN[0], count // 2)[count // 2]
    share = float((stored_BN == value).all(0).mean())
    if share < EMPTY:
        return None
    line = f"{100 * share:.4g} % of pixels are {_said(value)} in all bands; is the image empty?"
    return value, Finding(FILLED, line, cure(value.item(), True), is_gross=True)


def _said(value: Any) -> str:
    return f"{value:.7g}" if value.dtype.kind == "f" else str(value)


def _is_saturation(stored_BN: NDArray[Any], value: Any) -> bool:
    """Tell a largest value below which there are others from one that stands alone."""
    if value < stored_BN.max():
        return False
    others = stored_BN[stored_BN < value].astype(np.float64)
    return bool(others.size and value - others.max() < ALONE * (value - others.min()))
