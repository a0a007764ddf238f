"""What is known of a dataset as one HTML page that needs nothing else: pictures are inside, scripts are none.

    page_of(dataset, findings, {"chips": png_bytes})

Names, reasons and details may hold anything, so all text passes `escape`; a browser would also refuse to run
or fetch what got through, since the page's policy allows its own pictures and style only.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import shards
from shards.manifest import SPLITS
from shards.reader import Dataset
from shards.statistics import UNKNOWN
from shards.storage import name_of

Cell = str | int | float | None
"""Of a table; None is left empty."""

EXAMPLES = 5
"""Of each reason, and of duplicates."""
MOST_ROWS = 50
"""Sources or sensors in a table."""
MOST_BANDS = 8
"""Bands of which the means of sources and sensors are told."""
PERCENTILES = ("1", "50", "90", "99")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark;
  --ink: #222; --soft: #626262; --line: #ddd; --ground: #fff; --band: #f5f5f2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e0; --soft: #a3a39d; --line: #3d3d3a; --ground: #1b1b1a; --band: #262624 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
  max-width: 1120px; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem } h3 { font-size: 1rem; margin: 1.4rem 0 .2rem }
p { margin: .3rem 0; max-width: 46rem } .soft, footer { color: var(--soft); font-size: .9rem }
.wide { overflow-x: auto; margin: .5rem 0 }
img { display: block; max-width: 100%; background: #fff; border-radius: 6px }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
th { font-weight: 600; vertical-align: bottom; color: var(--soft) }
td, th { text-align: left; padding: .25rem 1.1rem .25rem 0; border-bottom: 1px solid var(--line) }
td { vertical-align: top; max-width: 29rem; overflow-wrap: break-word }
.number { text-align: right; white-space: nowrap }
pre { background: var(--band); padding: .8rem; border-radius: 6px; overflow-x: auto; font-size: .82rem;
  line-height: 1.4 }
footer { margin-top: 2.5rem }
@media (max-width: 640px) { img { min-width: 40rem } table { font-size: .86rem } }
"""


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
    """What is said of it, by subject, in the order in which it is said."""
    statistics: dict[str, Any]
    """As in statistics.json; {} where there are none."""
    duplicates: list[Duplicate]


def page_of(dataset: Dataset, findings: Findings, pictures: dict[str, bytes]) -> str:
    """The whole page.

    Args:
        dataset: what it is about.
        findings: of that dataset.
        pictures: PNG files by name: "chips", and "map", "bands", "label", "sources" where there are such.
    """
    label = f"{dataset.schema.label} {dataset.schema.label_unit}".strip()
    alts = {
        "chips": "Sampled chips, each beside its label if it has one",
        "map": "Positions of the chips, coloured by split",
        "bands": "Histogram of each band",
        "label": f"Distribution of {label}",
        "sources": "Chips and mean label by source",
    }
    seen = {name: _image(data, alts[name]) for name, data in pictures.items()}
    sections = {
        "In short": _table(("", ""), list(findings.facts.items())),
        "Some chips": seen.get("chips", ""),
        "Splits": _splits(dataset, findings.facts) + seen.get("map", ""),
        "Rejected": _rejected(dataset),
        "Statistics of the training split": _statistics(dataset, findings.statistics)
        + seen.get("bands", "")
        + seen.get("label", "")
        + _classes(findings.statistics),
        "By source": _groups(dataset, findings.statistics, "source") + seen.get("sources", ""),
        "By sensor": _groups(dataset, findings.statistics, "sensor"),
        "Duplicates": _duplicates(findings.duplicates),
        "Attributes": _attributes(dataset),
        "Made by": _json(dataset.manifest.made_by),
    }
    name = escape(name_of(dataset.url))
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Dataset '
        f'{name}</title><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Dataset {name}</h1>{body}"
        f"<footer>Written by treeline inspect, version {shards.__version__}.</footer></body></html>\n"
    )


def number(value: float) -> str:
    """Four digits, or all before the point: 0.01234, 12.34, 12,340."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def chips_of(index: pa.Table, column: str) -> dict[str, int]:
    """How many chips each source or sensor has, the most frequent first; those without one are "unknown"."""
    counted = pc.value_counts(pc.fill_null(index[column], "")).to_pylist()
    chips: dict[str, int] = {}
    for entry in counted:
        name = entry["values"] or UNKNOWN
        chips[name] = chips.get(name, 0) + entry["counts"]
    return dict(sorted(chips.items(), key=lambda item: (-item[1], item[0])))


def _splits(dataset: Dataset, facts: dict[str, str]) -> str:
    """How many chips each split has, how it came about, and how independent it is of the others."""
    manifest, index = dataset.manifest, dataset.index
    scenes = index.group_by("split").aggregate([("scene", "count_distinct")]).to_pylist()
    scenes_of = {row["split"]: row["scene_count_distinct"] for row in scenes}
    rows = [
        (split, manifest.samples(split), f"{manifest.samples(split) / index.num_rows:.1%}", scenes_of[split])
        for split in SPLITS
        if split in scenes_of
    ]
    table = _table(("split", "chips", "share", "scenes"), rows)
    rule = [(name, _spelled(value)) for name, value in manifest.split_rule.items() if value not in ("", [])]
    made = _table(("", ""), rule) if rule else _sentence("Not recorded.")
    apart = [
        ("smallest distance between chips", facts["distances"]),
        ("held out, of scenes trained on", facts["scenes"]),
        ("positions", facts["positions"]),
    ]
    return (
        f"{table}<h3>How they were split</h3>{made}<h3>How far apart they are</h3>{_table(('', ''), apart)}"
    )


def _spelled(value: Any) -> str:
    """A value of a rule: 0.8 0.2 rather than [0.8, 0.2]."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rejected(dataset: Dataset) -> str:
    reasons = dataset.manifest.rejected
    if not reasons:
        return _sentence("No chip was refused.")
    head = _table(("reason", "chips"), list(reasons.items()))
    table = dataset.rejected
    rows = [
        (reason, row["key"], row["detail"])
        for reason in reasons
        for row in table.filter(pc.equal(table["reason"], reason)).slice(0, EXAMPLES).to_pylist()
    ]
    return f"{head}<h3>Up to {EXAMPLES} of each</h3>{_table(('reason', 'chip', 'detail'), rows)}"


def _statistics(dataset: Dataset, statistics: dict[str, Any]) -> str:
    if not statistics:
        return _sentence("None: no chip with pixels is in the training split.")
    head = ("", "pixels", "mean", "std", "min", *(f"{p} %" for p in PERCENTILES), "max", "clamped to")
    rows: list[tuple[Cell, ...]] = [
        (*_numbers(name, band), f"{number(band['clamp_min'])} to {number(band['clamp_max'])}")
        for name, band in statistics["bands"].items()
    ]
    label, schema = statistics["height"], dataset.schema
    if label:
        rows.append((*_numbers(f"{schema.label} {schema.label_unit}".strip(), label), None))
    return _table(head, rows)


def _classes(statistics: dict[str, Any]) -> str:
    """The height classes, of heights."""
    shares = (statistics.get("height") or {}).get("classes", {})
    rows = [(name, f"{share:.2%}") for name, share in shares.items()]
    return f"<h3>Height classes</h3>{_table(('height', 'share of pixels'), rows)}" if rows else ""


def _numbers(name: str, summary: dict[str, Any]) -> tuple[Cell, ...]:
    p = summary["percentiles"]
    middle = (summary["mean"], summary["std"], summary["minimum"], *(p[name] for name in PERCENTILES))
    return (name, summary["count"], *map(float, middle), float(summary["maximum"]))


def _groups(dataset: Dataset, statistics: dict[str, Any], column: str) -> str:
    """Chips of each source or sensor, and what its training pixels are like."""
    schema, summaries = dataset.schema, statistics.get(f"{column}s", {})
    bands = schema.bands[:MOST_BANDS]
    label = f"{schema.label} {schema.label_unit}".strip()
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
    table = _table((*head, *(f"mean {band}" for band in bands)), rows)
    left_out = len(chips) - len(rows)
    more = _sentence(f"And {left_out:,} more with fewer chips.") if left_out else ""
    return table + more + _sentence("Chips of all splits; all other numbers are of training pixels.")


def _duplicates(duplicates: list[Duplicate]) -> str:
    if not duplicates:
        return _sentence("No chip has the same pixels as another.")
    # Those that connect two splits first: they are what makes scores look better than they are.
    first = sorted(duplicates, key=lambda pair: pair.split == pair.twin_split)[:EXAMPLES]
    rows = [(pair.split, pair.twin_split, pair.key, pair.twin) for pair in first]
    table = _table(("in", "and in", "chip", "same pixels as"), rows)
    return table + (_sentence(f"{len(rows)} of {len(duplicates):,}.") if rows[:-1] else "")


def _attributes(dataset: Dataset) -> str:
    kinds = dataset.manifest.attributes
    if not kinds:
        return _sentence("Chips have none beyond those of every dataset.")
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
    return _table(("attribute", "type", "without", "different", "min", "mean", "max"), rows)


def _json(values: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(values, indent=2, ensure_ascii=False))}</pre>"


def _sentence(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def _image(data: bytes, alt: str) -> str:
    inside = base64.b64encode(data).decode()
    return f'<div class="wide"><img alt="{escape(alt)}" src="data:image/png;base64,{inside}"></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Numbers, and the heads of columns that hold one, are aligned at the right; all text is escaped."""
    numeric = [any(_is_number(row[column]) for row in rows) for column in range(len(head))]
    heads = "".join(_cell("th", name, is_) for name, is_ in zip(head, numeric, strict=True))
    top = f"<tr>{heads}</tr>" if any(head) else ""
    lines = (f"<tr>{''.join(_cell('td', cell, _is_number(cell)) for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{top}{"".join(lines)}</table></div>'


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, str) and cell.endswith("%"))


def _cell(tag: str, cell: Cell, is_number: bool) -> str:
    text = f"{cell:,}" if isinstance(cell, int) else number(cell) if isinstance(cell, float) else cell or ""
    return f"<{tag}{' class=number' if is_number else ''}>{escape(text)}</{tag}>"
