"""How well splits are kept apart, in words: distances between them, and the scenes that they share.

leakage(url, manifest)    # "distances: train-val 0 m; scenes: 1 of 8 val chips share a scene with train"
"""

from typing import Any

import numpy as np

from shards.errors import InputError
from shards.format.index import read_table
from shards.format.manifest import INDEX, SPLITS, Manifest
from shards.wording import number
from shards.write.places import Places, places_of
from shards.write.split_distance import shared_scenes, smallest_distances
from shards.write.split_rule import BUFFER, SplitRule

PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
Near = dict[tuple[str, str], float]
"""Smallest distance between chips of two splits."""


def leakage(url: str, manifest: Manifest) -> str:
    """Say in one line how near chips of two splits are, and how many held-out chips show a scene of train.

    Raises:
        DatasetError: the index of the dataset at `url` is not what its manifest says.
    """
    index = _columns(url, manifest)
    return f"distances: {said_distances(manifest, index)}; scenes: {said_scenes(manifest, index)}"


def sharing_scenes(url: str, manifest: Manifest, split: str) -> int:
    """Count the chips of "val" or "test" whose scene also has training chips.

    Raises:
        DatasetError: as `leakage` does.
    """
    index = _columns(url, manifest)
    return shared_scenes(index["split"].to_pylist(), index["scene"].to_pylist())[split]


def are_neighbours_shared(url: str, manifest: Manifest) -> bool | None:
    """Tell whether a held-out chip lies nearer to a trained one than a chip's side; None: it is not known.

    Raises:
        DatasetError: as `leakage` does.
    """
    index = _columns(url, manifest)
    places = places_of(index, manifest.schema)
    if not places.known().any():
        return None
    try:
        distances = smallest_distances(index["split"].to_pylist(), places, first_crs(places))
    except InputError:
        return None
    near = [distances[pair] for pair in PAIRS[:2] if pair in distances]
    return min(near) < places.side if near else None


def _columns(url: str, manifest: Manifest) -> Any:
    """Read the columns of the index that are needed here: all of it may be large."""
    names = {"key", "split", "scene", "x", "y", "crs", manifest.split_rule.get("region_column") or "key"}
    return read_table(manifest.url_of(url, INDEX), manifest.files[INDEX], sorted(names))


def said_distances(manifest: Manifest, index: Any) -> str:
    """Say how near chips of two splits are to each other; within regions, where bands divide several."""
    stored = manifest.split_rule
    rule = SplitRule.from_json(stored) if stored.get("by") == "bands" else SplitRule()
    places = places_of(index, manifest.schema, rule.region_column)
    if not places.known().any():
        return "unknown, since no chip has a position"
    splits = index["split"].to_pylist()
    try:
        if len(rule.grids) > 1:
            return _within_regions(rule, places, splits)
        crs = rule.grids[0].crs if rule.grids else first_crs(places)
        distances = smallest_distances(splits, places, crs)
        if not distances:
            return "none, since all chips with a position are in one split"
        unit = unit_of(crs)
    except InputError as error:
        return f"unknown: {error}"
    said = (f"{one}-{other} {number(length)} {unit}" for (one, other), length in distances.items())
    several = len({name for name in places.crs if name is not None}) > 1
    return ", ".join(said) + (f" (measured in {crs})" if several else "")


def said_scenes(manifest: Manifest, index: Any) -> str:
    """Say how many chips show a scene that was trained on."""
    held_out = [split for split in SPLITS[1:BUFFER] if manifest.samples(split)]
    if not held_out or not manifest.samples("train"):
        return f"none shared, since no chip is {'in train' if held_out else 'held out'}"
    scenes = index["scene"].to_pylist()
    if all(scene is None for scene in scenes):
        return "unknown, since no chip names its scene"
    shared = shared_scenes(index["split"].to_pylist(), scenes)
    told = (f"{shared[name]:,} of {manifest.samples(name):,} {name}" for name in held_out)
    return f"{', '.join(told)} chips share a scene with train"


def nearest_within(near: list[tuple[str, str, Near]]) -> str:
    """Say how near chips of two splits are within regions (name, CRS, distances), for each pair and unit."""
    said = []
    units = [unit_of(crs) for _, crs, _ in near]
    for unit in dict.fromkeys(units):
        same = [region for region, own in zip(near, units, strict=True) if own == unit]
        for pair in PAIRS:
            found = [(distances[pair], name) for name, _, distances in same if pair in distances]
            if found:
                length, name = min(found, key=lambda one: one[0])
                said.append(f"{'-'.join(pair)} {number(length)} {unit} ({name})")
    return (
        f"{', '.join(said)}; within regions"
        if said
        else "none, since all chips of each region are in one split"
    )


def first_crs(places: Places) -> str:
    """Return the CRS of the first chip with a position, in which all are compared; "" if none is known."""
    return places.crs[int(np.argmax(places.known()))] or ""


def unit_of(crs: str) -> str:
    """Name the unit of coordinates in `crs`, which is a CRS or "" (unknown)."""
    from rasterio.crs import CRS

    if not crs:
        return "units"
    system = CRS.from_user_input(crs)
    unit = "degrees" if system.is_geographic else system.linear_units
    return "m" if unit in ("metre", "meter") else str(unit)


def _within_regions(rule: SplitRule, places: Places, splits: list[str]) -> str:
    region_N, split_N = np.array(list(places.regions), object), np.array(splits, object)
    near: list[tuple[str, str, Near]] = []
    for grid in rule.grids:
        chips = np.flatnonzero(region_N == grid.region)
        if chips.size:
            distances = smallest_distances(split_N[chips].tolist(), places.taken(chips), grid.crs)
            near.append((grid.region, grid.crs, distances))
    return nearest_within(near)
