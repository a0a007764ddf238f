"""How well attention finds classes, beside an untrained backbone and thresholds on the bands themselves.

    sample = Sample(...)                      # measured pixels and patches of some windows
    for target in targets: compared(sample, target)

The best of several heads or bands is optimistic, since it is chosen where it is measured. Therefore each is
also chosen on one half of the tiles and measured on the other, both ways.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from trainer.score.thresholds import Ranked, Threshold, iou_at

MOST_CLASSES = 32
"""Most classes of a layer; more are no classes."""
LEAST_UNITS = 4
"""Least tiles (or windows) that are halved."""
TRAINED, UNTRAINED, BANDS, PATCHES = "attention", "untrained", "bands", "bands_of_patches"
"""What is compared: heads of the checkpoint, heads of an untrained backbone of the same shape, bands pixel by
pixel, bands averaged over patches."""


@dataclass(frozen=True)
class Target:
    """A class that is to be found."""

    layer: str
    name: str
    """Name of the class, or what makes a pixel one."""
    number: int | None = None
    """Number of the class; None: pixels above `above`."""
    above: float | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """Measured windows: valid pixels in patches that are attended to, and these patches."""

    layers: dict[str, NDArray[np.float32]]
    """value_P of layers beside by name; NaN: no value."""
    bands: dict[str, NDArray[np.float32]]
    """value_P by band."""
    patch_P: NDArray[np.int64]
    """Patch of each pixel."""
    unit_N: NDArray[np.int64]
    """Tile (or window) of each patch."""
    heads: dict[str, dict[str, NDArray[np.float32]]]
    """By TRAINED or UNTRAINED: attention_N by head; 1 is as much as each patch has on average."""

    @cached_property
    def candidates(self) -> "dict[str, list[_Candidate]]":
        """What finds classes, ranked once for all of them."""
        count_N = np.bincount(self.patch_P, minlength=self.unit_N.size).clip(1)
        means = {
            name: np.bincount(self.patch_P, value_P.astype(np.float64), self.unit_N.size) / count_N
            for name, value_P in self.bands.items()
        }
        return {
            **{kind: [_Candidate.of(*item) for item in named.items()] for kind, named in self.heads.items()},
            BANDS: [_Candidate.of(name, value_P, True) for name, value_P in self.bands.items()],
            PATCHES: [_Candidate.of(*item) for item in means.items()],
        }

    def half_N(self, seed: int) -> NDArray[np.bool_] | None:
        """Halve the tiles at random; None if there are fewer than LEAST_UNITS."""
        units = np.unique(self.unit_N)
        if units.size < LEAST_UNITS:
            return None
        chosen = np.random.default_rng(seed).permutation(units)[: units.size // 2]
        return np.isin(self.unit_N, chosen)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A score that may find a class."""

    name: str
    score_N: NDArray[Any]
    ranked: Ranked
    of_pixels: bool
    """Whether it has a score for each pixel, and not for each patch."""

    @classmethod
    def of(cls, name: str, score_N: NDArray[Any], of_pixels: bool = False) -> "_Candidate":
        return cls(name, score_N, Ranked(score_N), of_pixels)


def targets_of(
    layers: dict[str, NDArray[np.float32]],
    classes: Sequence[str],
    names: dict[str, dict[int, str]],
    above: dict[str, float | None],
) -> list[Target]:
    """List what is to be found: each class that a pixel has, and pixels above a number or the median.

    Args:
        layers: value_P of layers beside by name; NaN: no value.
        classes: layers whose numbers are classes.
        names: names of classes, by layer.
        above: layers of which pixels above a number are to be found; None: above the median of all pixels.

    Raises:
        InputError: a layer has too many numbers for classes, broken ones, or no value at all.
    """
    found: list[Target] = []
    for layer in dict.fromkeys(classes):
        number_K = np.unique(_known(layers, layer, "--classes"))
        if broken_K := number_K[number_K % 1 != 0].tolist():
            raise InputError(f"--classes {layer}: has {broken_K[0]:g}, which is no class; see --above")
        if number_K.size > MOST_CLASSES:
            raise InputError(
                f"--classes {layer}: has {number_K.size} different numbers, and at most {MOST_CLASSES} can "
                "be classes; use --above"
            )
        for number in number_K.astype(int).tolist():
            name = names[layer].get(number, f"class {number}")
            found.append(Target(layer, name, number))
    for layer, least in above.items():
        value_P = _known(layers, layer, "--above")
        limit = float(np.median(value_P)) if least is None else least
        found.append(Target(layer, f"above {limit:.4g}{' (median)' if least is None else ''}", above=limit))
    return found


def _known(layers: dict[str, NDArray[np.float32]], layer: str, option: str) -> NDArray[np.float32]:
    value_P = layers[layer]
    value_P = value_P[~np.isnan(value_P)]
    if not value_P.size:
        raise InputError(f"{option} {layer}: has no value on any valid pixel of the tiles")
    return value_P


def compared(sample: Sample, target: Target, seed: int) -> dict[str, Any]:
    """Measure how well each candidate finds a class, as plain values for JSON."""
    value_P = sample.layers[target.layer]
    known_P = ~np.isnan(value_P)
    positive_P = value_P == target.number if target.above is None else value_P > target.above
    by_pixel: Counts = ((positive_P & known_P).astype(np.float64), known_P.astype(np.float64))
    patches = sample.unit_N.size
    of_class_N, all_N = (np.bincount(sample.patch_P, one_P, patches).astype(np.float64) for one_P in by_pixel)
    by_patch: Counts = (of_class_N, all_N)
    half_N = sample.half_N(seed)
    found: dict[str, Any] = {
        **asdict(target),
        "pixels": int(by_pixel[1].sum()),
        "share": float(by_pixel[0].sum() / by_pixel[1].sum()),
    }
    for kind, candidates in sample.candidates.items():
        of_pixels = candidates[0].of_pixels
        counts = by_pixel if of_pixels else by_patch
        halves = None if half_N is None else half_N[sample.patch_P] if of_pixels else half_N
        found[kind] = _of_kind(candidates, counts, halves)
    return found


Counts = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Pixels of the class, and all pixels, by score."""


def _of_kind(
    candidates: list[_Candidate], counts: Counts, half_N: NDArray[np.bool_] | None
) -> dict[str, Any]:
    each = {one.name: _measured(one, counts) for one in candidates}
    held_out: dict[str, float | None] = {"iou": None, "auc": None}
    if half_N is not None:
        ways = [_held_out(candidates, counts, half_N), _held_out(candidates, counts, ~half_N)]
        for name in held_out:
            values = [way[name] for way in ways]
            held_out[name] = None if None in values else float(np.mean([v for v in values if v is not None]))
    return {
        "best_iou": _best(each, "iou"),
        "best_auc": _best(each, "auc"),
        "on_other_tiles": held_out,
        "each": each,
    }


def _measured(one: _Candidate, counts: Counts) -> dict[str, Any]:
    best, auc = one.ranked.best(*counts), one.ranked.auc(*counts)
    values: dict[str, Any] = {"iou": None, "threshold": None, "side": None} if best is None else asdict(best)
    # A class may have the low values, as water has in SAR.
    side = None if auc is None else "above" if auc >= 0.5 else "below"
    return {**values, "auc": None if auc is None else max(auc, 1 - auc), "auc_side": side}


def _best(each: dict[str, dict[str, Any]], score: str) -> str | None:
    """Return the name of the best candidate; ties go to the first."""
    known = {name: values[score] for name, values in each.items() if values[score] is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _held_out(
    candidates: list[_Candidate], counts: Counts, chosen_N: NDArray[np.bool_]
) -> dict[str, float | None]:
    """Choose candidate, threshold and side on some of the scores, and measure them on the others."""
    here, there = (tuple(count_N * half_N for count_N in counts) for half_N in (chosen_N, ~chosen_N))
    each = {one.name: _measured(one, (here[0], here[1])) for one in candidates}
    by_name = {one.name: one for one in candidates}
    found: dict[str, float | None] = {"iou": None, "auc": None}
    if (name := _best(each, "iou")) is not None:
        best = Threshold(*(each[name][part] for part in ("iou", "threshold", "side")))
        found["iou"] = iou_at(by_name[name].score_N, there[0], there[1], best)
    if (name := _best(each, "auc")) is not None:
        auc = by_name[name].ranked.auc(there[0], there[1])
        found["auc"] = auc if auc is None or each[name]["auc_side"] == "above" else 1 - auc
    return found
