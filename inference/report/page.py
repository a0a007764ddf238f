"""The page of a report: the verdict, then what shows it, section by section.

page_of(left, config)      the whole page; the same inputs give the same bytes
verdict_lines(left)        how good the run is, in words
"""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

import shards
from inference.config import ReportConfig
from inference.report.chips import chip_section
from inference.report.figures import curves
from inference.report.left import Left, opened
from inference.report.maps import map_section
from inference.report.scores import class_tables, score_tables, verdict_of
from inference.report.settings import differing_options, versions
from inference.view.page import head_in_page, script_source
from shards.draw.html import figure, folded, listing, page, sentence, statement, table
from shards.storage.objects import join, read_bytes
from shards.write.leakage import leakage
from trainer.run_folder.options_file import CONFIG

SCORES_ALT = "Predicted against measured values, and errors by class"
_EPOCH = re.compile(r"epoch-(\d+)$")


def verdict_of_run(left: Left) -> str:
    """Say how good the run is, in a sentence."""
    if left.is_pretraining:
        return "learnt without labels, so it has no scores of its own; its probe tells what it is worth"
    if left.evaluation:
        scored = left.evaluation
        split = "" if scored["split"] == "all" else f"{scored['split']} "
        where = f" where {scored['where']}" if scored.get("where") else ""
        on = f"on {scored['chips']:,} {split}chips of {scored['data']}{where}"
        return f"{verdict_of(scored) or 'scored'}, {on}"
    if left.validation:
        return f"{left.validation}, on the validation chips"
    return "not scored: nothing tells yet whether this run is any good"


def page_of(
    left: Left, config: ReportConfig, more: Mapping[str, Markup] | None = None, title: str = ""
) -> str:
    """Return the whole page.

    Args:
        left: what the run left.
        config: options of the report.
        more: sections to put before the options.
        title: heading; default: the run's name.
    """
    verdict = verdict_of_run(left)
    sections = {"Verdict": statement(verdict[:1].upper() + verdict[1:] + ".")}
    if left.missing:
        sections["Missing"] = listing("\n".join(left.missing))
    if left.evaluation:
        picture = figure(left.picture, SCORES_ALT) if left.picture else Markup()
        sections["Scores"] = score_tables(left.evaluation) + picture
        if "by_class" in next(iter(left.evaluation["scores"].values())):
            sections["By measured height"] = class_tables(left.evaluation)
    if left.chips:
        sections["Worst, median and best chips"] = chip_section(left)
    if left.maps:
        sections["Maps"] = map_section(config, left)
    if left.records:
        sections["Training"] = _training(left)
    sections["How far the splits lie apart"] = _apart(left)
    sections |= more or {}
    sections["Options that differ from defaults"] = _options(left)
    sections["Versions"] = versions(left)
    footer = f"Written by treeline report, version {shards.__version__}."
    heading = title or f"Report of {left.run}"
    if left.maps:  # their panels run a script, the only one that the page's policy lets run
        return page(heading, sections, "", footer, head_in_page(), script_source())
    return page(heading, sections, footer=footer)


def _training(left: Left) -> Markup:
    best = _EPOCH.search(left.checkpoints.best[0]) if left.checkpoints else None
    number = int(best[1]) if best else None
    said = f"{len(left.records):,} epochs" + (
        f"; the best checkpoint is that of epoch {number}." if number else "."
    )
    if left.validation:
        said += f" On the validation chips: {left.validation}."
    unit = "m" if left.is_of_heights else str(left.evaluation.get("unit", ""))
    return sentence(said) + figure(
        curves(left.records, number, unit), "Loss and score of validation by epoch"
    )


def _apart(left: Left) -> Markup:
    """Say how near trained and held-out chips are to each other, as inspect and evaluate do."""
    trained = str(left.options.get("data", ""))
    dataset = opened(trained)
    if dataset is None and left.dataset and left.dataset.url == trained:
        dataset = left.dataset
    said = Markup()
    if dataset:
        said += sentence(f"{trained}: {leakage(dataset.url, dataset.manifest)}.")
    else:
        said += sentence(f"{trained}: unknown, since the dataset is not here.")
    if left.evaluation and left.dataset and (dataset is None or not _same(dataset, left.dataset)):
        said += sentence(
            f"{left.data}, whose chips were scored, is another dataset; whether both show the same ground is "
            "not known here."
        )
    return said


def _same(one: Any, other: Any) -> bool:
    return bool(one.manifest.fingerprint == other.manifest.fingerprint)


def _options(left: Left) -> Markup:
    return table(("option", "value", "default"), differing_options(left)) + folded(
        f"All options: {CONFIG}", listing(read_bytes(join(left.run, CONFIG)).decode())
    )
