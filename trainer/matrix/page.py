"""index.html of a matrix: the verdict, heat maps, learning curves, and the tables behind them."""

from collections.abc import Callable
from itertools import product

from markupsafe import Markup

import shards
from shards.draw.html import Cell, Numeral, figure, heading, page, sentence, table
from trainer.matrix.curves import learning_curves
from trainer.matrix.heat_maps import difference_maps, error_maps
from trainer.matrix.plan import choice_of
from trainer.matrix.results import Pair, Results, Setting, tuned
from trainer.matrix.scores import NO_INTERVAL, VERDICTS, Interval

INTERVALS = (
    "Intervals of 95 % are over bands of ground, not tiles, and over draws of labels and seeds (jackknife, "
    "Student's t). A difference is told apart where its interval leaves out 0."
)


def page_of(results: Results, label: str) -> str:
    """Return the whole page."""
    sections = {"Errors": _errors(results)}
    for first, second in results.plan.pairs:
        sections[f"{first} - {second}"] = _differences(results, first, second)
    sections["Against the baselines"] = _against_ridge(results)
    sections["Learning curves"] = figure(
        learning_curves(results), "Error over the number of labels, with intervals, by region"
    ) + sentence(
        f"{_measure(results)} over the number of training labels; vertical lines are intervals of 95 %."
    )
    sections["All scores"] = _scores(results)
    if results.failed:
        sections["Cells that failed"] = table(("cell", "why"), list(results.failed.items()))
    config = results.plan.config
    footer = (
        f"{len(results.plan.cells):,} trainings, {config.draws} of each kind. Written by treeline matrix, "
        f"version {shards.__version__}."
    )
    return page(f"Trained here, tested there: {label}", sections, results.verdict, footer)


def _measure(results: Results) -> str:
    unit = results.measure.unit
    return f"{results.measure.title} ({unit})" if unit else results.measure.title


def _errors(results: Results) -> Markup:
    pieces = sentence(
        f"{_measure(results)} on test tiles; lower is better. Rows are what a model was trained on, columns "
        f"where it was tested. {INTERVALS}"
    )
    for limit in results.plan.config.limit:
        alt = f"{results.measure.title} by region trained on and tested on, with {choice_of(limit)}"
        pieces += heading(choice_of(limit)) + figure(error_maps(results, limit), alt)
    return pieces


def _differences(results: Results, first: str, second: str) -> Markup:
    """Show where an init is better than another."""
    told = (
        f"{_measure(results)} of {first} less that of {second}, on the same tiles with the same labels and "
        f"seeds; below 0, {first} is better. Bold: the interval leaves out 0."
    )
    alt = f"Differences of {first} and {second} by region trained on and tested on"
    config, rows = results.plan.config, list[tuple[Cell, ...]]()
    for tune, limit in product(config.tune, config.limit):
        for place in results.places:
            if difference := results.differences.get(Pair(first, second, tune, limit, *place)):
                value = Numeral(results.measure.signed(difference.value))
                ends = _range(difference, results.measure.signed)
                rows.append((tuned(tune), str(limit), *place, value, ends, difference.verdict))
    head = ("tuned", "labels", "trained on", "tested on", "difference", "95 % interval", f"{first} is")
    return (
        sentence(told)
        + _counts(results, first, second)
        + figure(difference_maps(results, first, second), alt)
        + heading("Each comparison")
        + table(head, rows)
    )


def _counts(results: Results, first: str, second: str) -> Markup:
    """Count the verdicts of each tune and limit."""
    config, rows = results.plan.config, list[tuple[Cell, ...]]()
    for tune, limit in product(config.tune, config.limit):
        counts = results.counts(first, second, tune=tune, limit=limit)
        rows.append((tuned(tune), str(limit), *(counts[verdict] for verdict in _verdicts(results))))
    return table(("tuned", "labels", *_verdicts(results)), rows)


def _verdicts(results: Results) -> list[str]:
    has_none = any(difference.verdict == NO_INTERVAL for difference in results.differences.values())
    return [verdict for verdict in VERDICTS if has_none or verdict != NO_INTERVAL]


def _against_ridge(results: Results) -> Markup:
    pieces = sentence(
        f"The {results.ridge} is fitted to the same labels and sees no context, only values of bands. "
        "Comparisons in which each init is better or worse than it:"
    )
    for init in results.plan.inits:
        pieces += heading(init.name) + _counts(results, init.name, results.ridge)
    return pieces


def _scores(results: Results) -> Markup:
    head = (
        "model",
        "tuned",
        "labels",
        "trained on",
        "tested on",
        _measure(results),
        "95 % interval",
        "bias",
        "R2",
        "n",
        "bands",
    )
    rows: list[tuple[Cell, ...]] = []
    for name, tune, limit in results.kinds:
        for source, region in results.places:
            if score := results.scores.get(Setting(name, tune, limit, source, region)):
                shown = Numeral(results.measure.shown(score.error.value))
                bias = None if score.bias is None else Numeral(f"{score.bias:+.3g}")
                r2 = None if score.r2 is None else Numeral(f"{score.r2:.2f}")
                place = (name, tuned(tune), str(limit), source, region)
                numbers = (
                    shown,
                    _range(score.error, results.measure.shown),
                    bias,
                    r2,
                    score.count,
                    score.blocks,
                )
                rows.append((*place, *numbers))
    return table(head, rows)


def _range(interval: Interval, shown: Callable[[float], str]) -> Numeral:
    if interval.low is None or interval.high is None:
        return Numeral("none")
    return Numeral(f"{shown(interval.low)} to {shown(interval.high)}")
