"""`treeline ingest labels`: one more column of a dataset's index, from rasters on the chips' ground.

Shards stay as they are. The new index is written beside the old one; replacing the manifest then switches to
it. The manifest records how each such column was made. A chip without a position, or with too few values on
its footprint, has no label: null, never 0.
"""

from collections import Counter
from dataclasses import replace
from itertools import count as numbers_from

import pyarrow as pa

from ingest.chips.attributes import is_reserved, usual_name
from ingest.config import LabelsConfig, made_by
from ingest.labels.footprint import Label, LabelRule
from ingest.labels.rasters import LabelRasters
from shards.errors import InputError
from shards.format.index import ATTRIBUTE_TYPES
from shards.format.manifest import INDEX, Manifest
from shards.progress import progress
from shards.raster.opening import bound_cache
from shards.read.dataset import Dataset, open_dataset
from shards.storage.one_writer import one_writer
from shards.storage.patterns import each_file_once, expand
from shards.write.change import parquet_bytes, publish_change
from shards.write.places import chip_grids

SAID_EVERY = 64
"""Chips between two updates of the progress bar."""
UNPLACED, OUTSIDE, THIN = "without a position", "beyond the rasters", "with too few values"
"""Reasons why a label is missing."""


def label_chips(config: LabelsConfig) -> str:
    """Add the column, and return one line with the numbers of chips that have a label and that have none.

    Raises:
        InputError: the column exists or has a reserved name, a raster cannot be used, or no chip gets a
            label.
    """
    open_dataset(config.data)  # a place without a dataset is refused before it is held
    with one_writer(config.data):
        return _label_chips(config)


def _label_chips(config: LabelsConfig) -> str:
    """Add the column to a dataset that only this process writes."""
    dataset = open_dataset(config.data)
    name = _column(config, dataset.manifest)
    bound_cache()
    urls = each_file_once(url for pattern in config.raster for url in expand(pattern))
    rule = LabelRule(config.majority, config.valid, config.as_zero, config.least_covered)
    labels, missing = _labels(dataset, LabelRasters(urls, rule), rule)
    known = [label for label in labels if label is not None]
    if not known:
        raise InputError(_none_labelled(config, missing))
    kind = "int64" if config.majority else "float64"
    index, column = dataset.index, pa.array(labels, ATTRIBUTE_TYPES[kind])
    place = index.schema.get_field_index(name)
    index = index.append_column(name, column) if place < 0 else index.set_column(place, name, column)
    manifest = replace(
        dataset.manifest,
        attributes=dataset.manifest.attributes | {name: kind},
        labels=dataset.manifest.labels | {name: made_by(config)},
    )
    publish_change(config.data, manifest, {INDEX: parquet_bytes(index)})
    said = f"{config.data}: {name} of {len(known):,} chips, {min(known):g} to {max(known):g}"
    return f"{said}; {missing.total():,} missing{_reasons(missing)}"


def _column(config: LabelsConfig, manifest: Manifest) -> str:
    """Return the name of the new column."""
    name = usual_name(config.column)
    if is_reserved(name):
        raise InputError(f"--as {config.column}: is a name of Treeline's own; choose another")
    if name == manifest.split_rule.get("region_column"):
        raise InputError(
            f"--as {config.column}: the split of {config.data} goes by this column; choose another name"
        )
    if name in manifest.attributes and not config.replace:
        raise InputError(
            f"--as {config.column}: {config.data} has this column; choose another name, or give --replace"
        )
    return name


def _labels(dataset: Dataset, rasters: LabelRasters, rule: LabelRule) -> tuple[list[Label], Counter[str]]:
    """Label all chips, in the index's order, and count those without a label by reason."""
    labels: list[Label] = []
    missing: Counter[str] = Counter()
    grids = chip_grids(dataset.url, dataset.index, dataset.schema)
    with progress("label", dataset.index.num_rows, "chips") as advance:
        for number, grid in zip(numbers_from(1), grids, strict=False):
            value_HW = rasters.values(grid) if grid else None
            label = None if value_HW is None else rule.label(value_HW)
            labels.append(label)
            if label is None:
                missing[UNPLACED if not grid else OUTSIDE if value_HW is None else THIN] += 1
            if number % SAID_EVERY == 0:
                advance(SAID_EVERY, f"missing {missing.total():,}")
        advance(len(labels) % SAID_EVERY, f"missing {missing.total():,}")
    return labels, missing


def _none_labelled(config: LabelsConfig, missing: Counter[str]) -> str:
    said = f"{config.data}: no chip gets a label{_reasons(missing)}; nothing written"
    if not missing[OUTSIDE] and not missing[THIN]:
        return f"{said}; chips get positions from a table, GeoTIFF chips or scenes"
    if not missing[THIN]:
        return f"{said}; give rasters that cover the chips ({' '.join(config.raster)} do not)"
    return f"{said}; see --valid and --least-covered {config.least_covered:g}"


def _reasons(missing: Counter[str]) -> str:
    found = ", ".join(f"{count:,} {reason}" for reason, count in missing.items())
    return f" ({found})" if found else ""
