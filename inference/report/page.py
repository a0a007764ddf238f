"""The page of a report: the verdict, then what shows it, section by section.

page_of(left, shown)       the whole page; the same inputs give the same bytes
verdict_of_run(left)       how good the run is, in words
"""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

import shards
from inference.config import ViewConfig
from inference.report.chips import chip_section
from inference.report.figures import curves
from inference.report.found import findings_section
from inference.report.left import Left, opened
from inference.report.maps import map_section
from inference.report.scores import class_tables, score_tables, verdict_of
from inference.report.settings import differing_options, versions
from inference.view.page import head_in_page, script_source
from shards.draw.html import figure, folded, listing, page, sentence, statement, table
from shards.storage.objects import join, read_bytes
from shards.wording import counted
from shards.write.leakage import said_distances, said_scenes
from trainer.run_folder.options_file import CONFIG
from trainer.score.evaluation import SHARING

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
"""Kinds of chips by their split, in words."""
SCORES_ALT = "Predicted against measured values, and errors by class"
_EPOCH = re.compile(r"epoch-(\d+)$")


def verdict_of_run(left: Left) -> str:
    """Say how good the run is, in a sentence."""
    if left.is_pretraining:
        return "pre-trained without labels, so it has no scores of its own; its probe shows what it is worth"
    if left.evaluation:
        scored = left.evaluation
        split = f"{SPLIT_NAMES.get(scored['split'], '')} ".lstrip()
        where = f" where {scored['where']}" if scored.get("where") else ""
        chips = counted(scored["chips"], f"{split}chip")
        on = f"scored on {chips} of the dataset {scored['data']}{where}"
        return "; ".join(filter(None, (verdict_of(scored), on, _said_sharing(scored))))
    if left.validation:
        return f"{left.validation}; scored on the validation chips"
    return "not scored yet, so nothing shows whether this run is any good"


def _said_sharing(scored: Mapping[str, Any]) -> str:
    """Say that scored chips show scenes that were trained on; "" if none is known to."""
    if not (count := scored.get(SHARING)):
        return ""
    chips = counted(count, f"{SPLIT_NAMES.get(scored['split'], '')} chip".lstrip())
    shares = "shares" if count == 1 else "share"
    return f"{chips} {shares} a scene with training chips, so new scenes may be mapped less well"


def page_of(
    left: Left,
    shown: Mapping[str, ViewConfig],
    more: Mapping[str, Markup] | None = None,
    title: str = "",
) -> str:
    """Return the whole page.

    Args:
        left: what the run left.
        shown: what is looked at with each map.
        more: sections to put before the options.
        title: heading; default: the run's name.
    """
    verdict = verdict_of_run(left)
    sections = {"Verdict": statement(verdict[:1].upper() + verdict[1:] + ".")}
    if found := findings_section(left):
        sections["Findings"] = found
    if left.missing:
        sections["Missing"] = listing("\n".join(left.missing))
    if left.evaluation:
        picture = figure(left.picture, SCORES_ALT) if left.picture else Markup()
        sections["Scores"] = score_tables(left.evaluation) + picture
        if "by_class" in next(iter(left.evaluation["scores"].values())):
            sections["Heights"] = class_tables(left.evaluation)
    if left.chips:
        sections["Chips"] = chip_section(left)
    if left.maps:
        sections["Maps"] = map_section(shown, left)
    if left.records:
        sections["Training"] = _training(left)
    sections["Splits"] = _apart(left)
    sections |= more or {}
    sections["Options"] = _options(left)
    sections["Versions"] = versions(left)
    footer = f"Written by treeline report, version {shards.__version__}."
    heading = title or f"Report of {left.run}"
    if left.maps:  # their panels run a script, the only one that the page's policy lets run
        return page(heading, sections, "", footer, head_in_page(), script_source())
    return page(heading, sections, footer=footer)


def _training(left: Left) -> Markup:
    best = _EPOCH.search(left.checkpoints.best[0]) if left.checkpoints else None
    number = int(best[1]) if best else None
    said = f"{counted(len(left.records), 'epoch')}."
    if number:
        said += f" The best checkpoint is from epoch {number}."
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
    if dataset:
        rows = [
            ("trained on", trained),
            ("smallest distances between chips", said_distances(dataset.manifest, dataset.index)),
            ("scenes of held-out chips", said_scenes(dataset.manifest, dataset.index)),
        ]
        said = table(("", ""), rows)
    else:
        said = sentence(f"The dataset trained on, {trained}, is not here, so nothing is known of its splits.")
    if left.evaluation and left.dataset and (dataset is None or not _same(dataset, left.dataset)):
        said += sentence(
            f"The scores are from another dataset, {left.data}. This page cannot tell whether both show the "
            "same ground."
        )
    return said


def _same(one: Any, other: Any) -> bool:
    return bool(one.manifest.fingerprint == other.manifest.fingerprint)


def _options(left: Left) -> Markup:
    return table(("option", "value", "default"), differing_options(left)) + folded(
        f"All options: {CONFIG}", listing(read_bytes(join(left.run, CONFIG)).decode())
    )
