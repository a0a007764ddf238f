"""Tables of the scores in evaluation.json: of heights, of classes, of labels of tiles, beside baselines."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from shards.draw.html import Cell, Numeral, heading, sentence, table
from trainer.score.baselines import MEAN
from trainer.score.chip_scores import NO_BLOCKS
from trainer.score.evaluation import LINEAR, REGRESSOR, compared_heights
from trainer.score.metrics import Metrics

WITHIN_CLASSES = (
    "There is no R2 by class: it compares errors with how much heights vary, and within a class they hardly "
    "do."
)
SHORT = {LINEAR: "regression's", MEAN: "mean's"}
"""Names of the baselines in the head of a narrow column."""
CONSTANT = (
    f"The {MEAN} is the same height everywhere. Its error is small in the classes near that height and large "
    "in the others, so a small one is no sign of skill."
)


def verdict_of(evaluation: Mapping[str, Any]) -> str:
    """Return what an evaluation came to, in a sentence; earlier versions did not write it."""
    if verdict := evaluation.get("verdict"):
        return str(verdict)
    scores = evaluation["scores"]
    if {REGRESSOR, LINEAR, MEAN} <= scores.keys():
        return compared_heights(
            {name: scores[name]["all"]["rmse"] for name in (REGRESSOR, LINEAR, MEAN)}
        ).verdict
    return ""


def score_tables(evaluation: Mapping[str, Any]) -> Markup:
    """Lay out the scores of an evaluation, whatever its kind."""
    first = next(iter(evaluation["scores"].values()))
    if "all" in first:
        return _of_heights(evaluation)
    return _of_classes(evaluation) if "confusion" in first else _of_values(evaluation)


def class_tables(evaluation: Mapping[str, Any]) -> Markup:
    """Lay out errors by height class."""
    classes = {
        name: {label: Metrics.from_json(values) for label, values in score["by_class"].items()}
        for name, score in evaluation["scores"].items()
    }
    ours, *others = classes
    head = (
        "measured height",
        "pixels",
        "MAE (m)",
        "RMSE (m)",
        "bias (m)",
        *(f"{SHORT.get(n, n)} RMSE (m)" for n in others),
    )
    rows = [
        (label, *_errors(of), *(_metres(classes[name][label].rmse) for name in others))
        for label, of in classes[ours].items()
        if of.count
    ]
    empty = [label for label, of in classes[ours].items() if not of.count]
    said = sentence(WITHIN_CLASSES) + (sentence(CONSTANT) if MEAN in others else Markup())
    none = sentence(f"No measured height lies in {', '.join(empty)}.") if empty else Markup()
    return table(head, rows) + none + said


def _of_heights(evaluation: Mapping[str, Any]) -> Markup:
    found = {name: Metrics.from_json(score["all"]) for name, score in evaluation["scores"].items()}
    intervals = evaluation.get("intervals", {})
    rmse = intervals.get("rmse", {})
    between = [f"{low:z.2f} to {high:z.2f}" for low, high in (rmse[name] for name in found if name in rmse)]
    head = (
        "",
        "pixels",
        "MAE (m)",
        "RMSE (m)",
        "bias (m)",
        "R2",
        *(["RMSE, 95 % interval"] if between else []),
    )
    rows: list[list[Cell]] = [[name, *_errors(of), Numeral(f"{of.r2:z.2f}")] for name, of in found.items()]
    for row, ends in zip(rows, between, strict=False):
        row.append(Numeral(ends))
    return table(head, rows, 0) + _about_intervals(intervals)


def _about_intervals(intervals: Mapping[str, Any]) -> Markup:
    if not intervals:
        return sentence(
            "No 95 % intervals: an earlier version wrote these scores; run treeline evaluate again."
        )
    if "rmse" not in intervals:
        return sentence(f"No 95 % intervals: {intervals['over'].removeprefix(NO_BLOCKS)}.")
    said = [
        f"The intervals come from leaving out one of {intervals['over']} at a time, because "
        "neighbouring chips have similar errors."
    ]
    for name, (value, low, high) in intervals["difference"].items():
        lower = "lower" if value < 0 else "higher"
        ends = sorted((abs(low), abs(high)))
        if low <= 0 <= high:
            said.append(
                f"The regressor's RMSE cannot be told apart from that of the {name}: they differ by "
                f"{value:+z.2f} m ({low:+z.2f} to {high:+z.2f})."
            )
        else:
            said.append(
                f"The regressor's RMSE is {abs(value):z.2f} m {lower} than that of the {name} "
                f"({ends[0]:z.2f} to {ends[1]:z.2f})."
            )
    return sentence(" ".join(said))


def _of_values(evaluation: Mapping[str, Any]) -> Markup:
    unit = f" ({evaluation['unit']})" if evaluation.get("unit") else ""
    found = {name: Metrics.from_json(score) for name, score in evaluation["scores"].items()}
    rows = [
        (name, of.count, of.mae, of.rmse, of.bias, Numeral(f"{of.r2:z.2f}")) for name, of in found.items()
    ]
    head = (evaluation["label"], "tiles", f"MAE{unit}", f"RMSE{unit}", f"bias{unit}", "R2")
    return table(head, rows, 0)


def _of_classes(evaluation: Mapping[str, Any]) -> Markup:
    scores = evaluation["scores"]
    rows = [
        (name, score["count"], _share(score["accuracy"]), _share(score["macro_f1"]))
        for name, score in scores.items()
    ]
    ours = next(iter(scores))
    model = scores[ours]
    by_class = zip(evaluation["classes"], model["confusion"], model["f1"], model["iou"], strict=True)
    classes = [(name, sum(counts), _share(f1), _share(iou)) for name, counts, f1, iou in by_class]
    return (
        table((evaluation["label"], "count", "accuracy", "macro F1"), rows, 0)
        + heading(f"Scores of the {ours} by class")
        + table(("true class", "count", "F1", "IoU"), classes)
    )


def _errors(of: Metrics) -> tuple[int, Numeral, Numeral, Numeral]:
    return of.count, _metres(of.mae), _metres(of.rmse), Numeral(f"{of.bias:+z.2f}")


def _metres(value: float) -> Numeral:
    return Numeral(f"{value:z.2f}")


def _share(value: float | None) -> Numeral:
    return Numeral("" if value is None else f"{value:.3f}")
