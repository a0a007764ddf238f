"""The page of `treeline inspect`: everything known of a dataset, with its pictures.

page_of(dataset, findings, {"chips": png_bytes})
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

import shards
from shards.commands.inspect_bands import HEAD, BandRegion
from shards.draw.html import Cell, Numeral, figure, heading, listing, page, sentence, table
from shards.format.manifest import SPLITS
from shards.format.statistics import UNKNOWN
from shards.read.dataset import Dataset
from shards.storage.objects import name_of
from shards.wording import number

EXAMPLES = 5
"""Most rejected chips listed for each reason, and most duplicates listed."""
MOST_ROWS = 50
"""Most sources or sensors in a table."""
MOST_BANDS = 8
"""Most bands whose means are listed by source and sensor."""
PERCENTILES = ("1", "50", "90", "99")


@dataclass(frozen=True)
class Duplicate:
    """A chip with the same pixels as another one."""

    key: str
    split: str
    twin: str
    twin_split: str


@dataclass(frozen=True)
class Findings:
    """What inspection found out, beyond the dataset's own files."""

    facts: dict[str, str]
    """Statements about the dataset by subject, in the order of the page."""
    statistics: dict[str, Any]
    """Content of statistics.json; {} where there are none."""
    duplicates: list[Duplicate]
    regions: list[BandRegion]
    """Regions with bands; [] if bands did not split the dataset."""


def page_of(dataset: Dataset, findings: Findings, pictures: dict[str, bytes]) -> str:
    """Return the whole page.

    Args:
        dataset: the dataset.
        findings: findings about it.
        pictures: PNG files by name: "chips", and "map", "bands", "label", "sources" where there are such.
    """
    label = dataset.schema.label_and_unit
    alts = {
        "chips": "Sampled chips, each beside its label if it has one",
        "map": "Positions of the chips, coloured by split",
        "bands": "Histogram of each band",
        "label": f"Distribution of {label}",
        "sources": "Chips and mean label by source",
    }
    seen = defaultdict(Markup, {name: figure(data, alts[name]) for name, data in pictures.items()})
    sections = {
        "In short": table(("", ""), list(findings.facts.items())),
        "Some chips": seen["chips"],
        "Splits": _splits(dataset, findings.facts) + seen["map"] + _bands(findings.regions),
        "Rejected": _rejected(dataset),
        "Statistics of the training split": _statistics(dataset, findings.statistics)
        + seen["bands"]
        + seen["label"]
        + _classes(dataset.schema.label, findings.statistics),
        "By source": _groups(dataset, findings.statistics, "source") + seen["sources"],
        "By sensor": _groups(dataset, findings.statistics, "sensor"),
        "Duplicates": _duplicates(findings.duplicates),
        "Attributes": _attributes(dataset),
        "Made by": listing(json.dumps(dataset.manifest.made_by, indent=2, ensure_ascii=False)),
    }
    footer = f"Written by treeline inspect, version {shards.__version__}."
    return page(f"Dataset {name_of(dataset.url)}", sections, footer=footer)


def chips_of(index: pa.Table, column: str) -> dict[str, int]:
    """Count the chips of each source or sensor, most frequent first; those without one are "unknown"."""
    counted = pc.value_counts(pc.fill_null(index[column], "")).to_pylist()
    chips: dict[str, int] = {}
    for entry in counted:
        name = entry["values"] or UNKNOWN
        chips[name] = chips.get(name, 0) + entry["counts"]
    return dict(sorted(chips.items(), key=lambda item: (-item[1], item[0])))


def _splits(dataset: Dataset, facts: dict[str, str]) -> Markup:
    """Say how many chips each split has, how it came about, and how independent it is of the others."""
    manifest, index = dataset.manifest, dataset.index
    scenes = index.group_by("split").aggregate([("scene", "count_distinct")]).to_pylist()
    scenes_of = {row["split"]: row["scene_count_distinct"] for row in scenes}
    rows = [
        (split, count, Numeral(f"{count / index.num_rows:.1%}"), scenes_of[split])
        for split, count in ((split, manifest.samples(split)) for split in SPLITS)
        if split in scenes_of
    ]
    counted = table(("split", "chips", "share", "scenes"), rows)
    rule = [
        (name, _spelled(value))
        for name, value in manifest.split_rule.items()
        if value not in ("", []) and name != "grids"
    ]
    made = table(("", ""), rule) if rule else sentence("Not recorded.")
    apart = [
        ("smallest distance between chips", facts["distances"]),
        ("held out, of scenes trained on", facts["scenes"]),
        ("positions", facts["positions"]),
    ]
    how = heading("How they were split") + made
    return counted + how + heading("How far apart they are") + table(("", ""), apart)


def _bands(regions: list[BandRegion]) -> Markup:
    """List the regions that bands divide, with the smallest distances between splits within each."""
    if not regions:
        return Markup()
    about = "Angles are those in which bands run, counter-clockwise from east. Distances are between chips."
    return heading("Bands") + table(HEAD, [region.row for region in regions]) + sentence(about)


def _spelled(value: Any) -> str:
    """Write a value of a rule: 0.8 0.2 rather than [0.8, 0.2]."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rejected(dataset: Dataset) -> Markup:
    reasons = dataset.manifest.rejected
    if not reasons:
        return sentence("No chip was refused.")
    counted = table(("reason", "chips"), list(reasons.items()))
    refused = dataset.rejected
    rows = [
        (reason, row["key"], row["detail"])
        for reason in reasons
        for row in refused.filter(pc.equal(refused["reason"], reason)).slice(0, EXAMPLES).to_pylist()
    ]
    return counted + heading(f"Up to {EXAMPLES} of each") + table(("reason", "chip", "detail"), rows)


def _statistics(dataset: Dataset, statistics: dict[str, Any]) -> Markup:
    if not statistics:
        return sentence("None: no chip with pixels is in the training split.")
    head = ("", "pixels", "mean", "std", "min", *(f"{p} %" for p in PERCENTILES), "max", "clamped to")
    rows: list[tuple[Cell, ...]] = [
        (*_numbers(name, band), Numeral(f"{number(band['clamp_min'])} to {number(band['clamp_max'])}"))
        for name, band in statistics["bands"].items()
    ]
    label, schema = statistics["height"], dataset.schema
    if label:
        rows.append((*_numbers(schema.label_and_unit, label), None))
    return table(head, rows)


def _classes(label: str, statistics: dict[str, Any]) -> Markup:
    """List the shares of the label's classes, if it has any."""
    shares = (statistics.get("height") or {}).get("classes", {})
    rows = [(name, Numeral(f"{share:.2%}")) for name, share in shares.items()]
    titled = heading(f"{label.capitalize()} classes") if rows else Markup()
    return titled + table((label, "share of pixels"), rows) if rows else titled


def _numbers(name: str, summary: dict[str, Any]) -> tuple[Cell, ...]:
    p = summary["percentiles"]
    middle = (summary["mean"], summary["std"], summary["minimum"], *(p[name] for name in PERCENTILES))
    return (name, summary["count"], *map(float, middle), float(summary["maximum"]))


def _groups(dataset: Dataset, statistics: dict[str, Any], column: str) -> Markup:
    """List the chips of each source or sensor, with the statistics of its training pixels."""
    schema, summaries = dataset.schema, statistics.get(f"{column}s", {})
    bands = schema.all_bands[:MOST_BANDS]
    label = schema.label_and_unit
    head = (column, "chips", *((f"{label}: mean", "50 %", "99 %", "max") if label else ()))
    chips = chips_of(dataset.index, column)
    rows: list[tuple[Cell, ...]] = []
    for name, count in list(chips.items())[:MOST_ROWS]:
        summary = summaries.get(name)
        heights: tuple[Cell, ...] = (None,) * 4 if label else ()
        means: tuple[Cell, ...] = (None,) * len(bands)
        if summary:
            means = tuple(float(summary["bands"][band]["mean"]) for band in bands)
            if label:
                found, p = summary["height"], summary["height"]["percentiles"]
                heights = tuple(map(float, (found["mean"], p["50"], p["99"], found["maximum"])))
        rows.append((name, count, *heights, *means))
    groups = table((*head, *(f"mean {band}" for band in bands)), rows)
    left_out = len(chips) - len(rows)
    more = sentence(f"And {left_out:,} more with fewer chips.") if left_out else Markup()
    return groups + more + sentence("Chips of all splits; all other numbers are of training pixels.")


def _duplicates(duplicates: list[Duplicate]) -> Markup:
    if not duplicates:
        return sentence("No chip has the same pixels as another.")
    # Those that connect two splits first: they are what makes scores look better than they are.
    first = sorted(duplicates, key=lambda pair: pair.split == pair.twin_split)[:EXAMPLES]
    rows = [(pair.split, pair.twin_split, pair.key, pair.twin) for pair in first]
    copies = table(("in", "and in", "chip", "same pixels as"), rows)
    return copies + (sentence(f"{len(rows)} of {len(duplicates):,}.") if rows[:-1] else Markup())


def _attributes(dataset: Dataset) -> Markup:
    kinds = dataset.manifest.attributes
    if not kinds:
        return sentence("Chips have none beyond those of every dataset.")
    rows: list[tuple[Cell, ...]] = []
    for name, kind in kinds.items():
        column = dataset.index[name]
        if kind == "float64":
            column = pc.if_else(pc.is_nan(column), None, column)
        stated: tuple[Cell, ...] = (None, None, None)
        if kind != "string":
            values = column.cast("float64") if kind != "bool" else column.cast("int8").cast("float64")
            stated = tuple(function(values).as_py() for function in (pc.min, pc.mean, pc.max))
        distinct = pc.count_distinct(column).as_py()
        rows.append((name, kind, column.null_count, distinct, *stated))
    return table(("attribute", "type", "without", "different", "min", "mean", "max"), rows)
