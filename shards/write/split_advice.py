"""The split that would keep held-out chips apart from trained ones, where the present one does not.

apart = is_apart(splits, places)         # whether no held-out chip lies beside a trained one
words = split_advice(manifest, index)    # ("--split-by", "auto"); () if there is nothing better
"""

from collections.abc import Iterator, Sequence
from typing import Any

from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.manifest import SPLITS, Manifest
from shards.write.leakage import PAIRS, first_crs
from shards.write.places import Places, places_of
from shards.write.split_auto import blocks_that_suit, chosen
from shards.write.split_distance import shared_scenes, smallest_distances
from shards.write.split_rule import BUFFER, SAME_LEVEL, SplitRule, assign

MOST_LOST = 0.5
"""Largest share (0..1) of chips that a split may lose to its buffer and still be advised."""
BY_NAME = ("key", "scene")
"""Ways to split that ask for no place; whoever chose places has chosen the distance between them, too."""


def is_apart(splits: Sequence[str], places: Places) -> bool:
    """Tell whether held-out chips lie a chip's side or more from trained ones.

    Without positions: whether they show other scenes. What cannot be known counts as apart.
    """
    if places.known().any():
        try:
            distances = smallest_distances(list(splits), places, first_crs(places))
        except InputError:  # a CRS that nobody knows; the line on distances says so
            return True
        side = places.side * (1 - SAME_LEVEL)
        return all(distances[pair] >= side for pair in PAIRS[:2] if pair in distances)
    scenes = list(places.scenes)
    return not any(shared_scenes(list(splits), scenes).values())


def split_advice(manifest: Manifest, index: Any) -> tuple[str, ...]:
    """Return the options of `treeline split` that hold chips out apart from the trained ones.

    Returns:
        () if they are apart already, if the user divided the ground, or if no split would keep them apart.
    """
    if manifest.split_rule.get("by", "key") not in BY_NAME:
        return ()
    places = places_of(index, manifest.schema)
    splits = index["split"].to_pylist()
    if manifest.samples("train") and manifest.samples("val") and is_apart(splits, places):
        return ()
    shares = _shares(manifest)
    for rule, words in _candidates(SplitRule(by="auto", shares=shares), places):
        found = [str(split) for split in assign(rule, places)]
        is_costly = found.count(SPLITS[BUFFER]) > MOST_LOST * len(found)
        if {"train", "val"} <= set(found) and not is_costly and is_apart(found, places):
            given = map(str, shares) if shares != SplitOptions.shares else ()
            return (*words, *(("--shares", *given) if given else ()))
    return ()


def _shares(manifest: Manifest) -> tuple[float, ...]:
    """Return the shares of the present split, if it holds something out to validate on."""
    shares = SplitRule.from_json(manifest.split_rule).shares if manifest.split_rule else ()
    return shares if len(shares) > 1 and min(shares[:2]) > 0 else SplitOptions.shares


def _candidates(auto: SplitRule, places: Places) -> Iterator[tuple[SplitRule, tuple[str, ...]]]:
    """Yield rules to try, each with its options; the simplest to write first."""
    rule, _ = chosen(auto, places)
    if rule.by == "key":
        return
    yield rule, ("--split-by", "auto")
    if rule.by == "scene" and (found := blocks_that_suit(auto, places)):
        rule, _ = found
        sizes = ("--block-size", f"{rule.block_size:g}", "--buffer", f"{rule.buffer:g}")
        yield rule, ("--split-by", "blocks", *sizes, *(("--split-crs", rule.crs) if rule.crs else ()))
