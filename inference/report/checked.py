"""Whether evaluation.json is what `treeline evaluate` writes, before a page is made of it."""

from collections.abc import Mapping
from typing import Any

from inference.report.scores import class_tables, score_tables, verdict_of
from trainer.score.evaluation import SHARING

KINDS: Mapping[str, type] = {"data": str, "fingerprint": str, "split": str, "chips": int, "scores": dict}
"""Entries that every evaluation of a checkpoint has."""
SOMETIMES: Mapping[str, type] = {
    "checkpoint_fingerprint": str,
    "where": str,
    "limit": int,
    SHARING: int,
    "intervals": dict,
    "verdict": str,
    "label": str,
    "unit": str,
    "treeline": str,
    "commit": str,
}
"""Entries that some have."""
NAMES = {str: "text", int: "whole number", dict: "list of names and values"}
"""Kinds of entries, in words."""


def check_evaluation(values: Mapping[str, Any], is_of_heights: bool) -> None:
    """Refuse content of evaluation.json that no page can be made of.

    Raises:
        KeyError: an entry is missing.
        ValueError: an entry is not what it should be.
    """
    for name, kind in KINDS.items():
        _check(name, values[name], kind)
    for name, kind in SOMETIMES.items():
        if values.get(name) is not None:
            _check(name, values[name], kind)
    scores = values["scores"].values()
    if is_of_heights and not all("all" in score for score in scores):
        raise ValueError("scores lack those over all heights")
    # What is deeper is tried: a table of it shows whether all of it is there.
    score_tables(values)
    if "by_class" in next(iter(scores)):
        class_tables(values)
    verdict_of(values)


def _check(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is no {NAMES[kind]}")
