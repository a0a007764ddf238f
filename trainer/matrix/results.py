"""What a matrix came to: scores of all combinations, paired differences, and the verdict in words.

results = Results.of(plan, cells)     # cells: what each finished one left, by its number
results.to_json()
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.matrix.cell_file import BlockSums
from trainer.matrix.plan import Plan
from trainer.matrix.regions import ALL
from trainer.matrix.scores import (
    BETTER,
    NO_INTERVAL,
    NOT_TOLD_APART,
    VERDICTS,
    WORSE,
    Interval,
    Measure,
    Score,
    difference_of,
    score_of,
)

MODEL = "predicted"
"""Predictor that is no baseline; see trainer.matrix.cell_file.PREDICTORS."""

TUNED = {"all": "all tuned", "last": "last blocks tuned", "lora": "adapters tuned"}
"""Parts of the backbone that learn, in words."""


def tuned(tune: str) -> str:
    """Say what of the backbone learns."""
    return TUNED.get(tune, tune)


class Group(NamedTuple):
    """Cells that differ in their draw alone."""

    init: str
    tune: str
    limit: int | str
    trained_on: str


class Setting(NamedTuple):
    """One entry of one matrix."""

    name: str
    """Init, or baseline."""
    tune: str
    """Part of the backbone that learns; "" for a baseline."""
    limit: int | str
    trained_on: str
    tested_on: str


class Pair(NamedTuple):
    """One comparison."""

    first: str
    second: str
    """Init, or baseline."""
    tune: str
    limit: int | str
    trained_on: str
    tested_on: str


@dataclass(frozen=True)
class Results:
    """Scores and differences of a matrix."""

    plan: Plan
    measure: Measure
    baselines: dict[str, str]
    """Names of the baselines by their predictor."""
    labels: dict[tuple[str, int | str], float]
    """Mean number of training labels by what was trained on and the limit."""
    scores: dict[Setting, Score]
    differences: dict[Pair, Interval]
    failed: dict[str, str]
    """Reasons of the cells that failed, by their title."""

    @classmethod
    def of(
        cls,
        plan: Plan,
        measure: Measure,
        baselines: dict[str, str],
        sums: dict[int, dict[str, BlockSums]],
        labels: dict[int, int],
        failed: dict[str, str],
    ) -> "Results":
        """Score what finished cells left.

        Args:
            plan: the matrix.
            measure: the score by which models are compared.
            baselines: names of the baselines by their predictor.
            sums: errors by the number of the cell and the region.
            labels: number of training labels by the number of the cell.
            failed: reasons of the cells that failed, by their title.
        """
        groups: dict[Group, dict[int, dict[str, BlockSums]]] = {}
        counts: dict[tuple[str, int | str], list[int]] = {}
        for cell in plan.cells:
            if cell.number in sums:
                group = Group(cell.init, cell.tune, cell.limit, cell.trained_on)
                groups.setdefault(group, {})[cell.draw] = sums[cell.number]
                counts.setdefault((cell.trained_on, cell.limit), []).append(labels[cell.number])
        scores: dict[Setting, Score] = {}
        differences: dict[Pair, Interval] = {}
        ridge = next(iter(baselines))
        for group, draws in groups.items():
            rest, seconds = group[1:], [second for first, second in plan.pairs if first == group.init]
            for region in (region.name for region in plan.regions):
                ours = [found[region] for found in draws.values()]
                scores[Setting(*group, region)] = score_of(ours, MODEL, measure)
                for predictor, name in baselines.items():
                    # Baselines see no backbone: those of the first init and tune stand for all.
                    setting = Setting(name, "", group.limit, group.trained_on, region)
                    if setting not in scores:
                        scores[setting] = score_of(ours, predictor, measure)
                against = Pair(group.init, baselines[ridge], *rest, region)
                differences[against] = difference_of(ours, ours, (MODEL, ridge), measure)
                for second in seconds:
                    others = groups.get(group._replace(init=second), {})
                    both = sorted(draws.keys() & others.keys())
                    if both:
                        one, other = ([of[draw][region] for draw in both] for of in (draws, others))
                        pair = Pair(group.init, second, *rest, region)
                        differences[pair] = difference_of(one, other, (MODEL, MODEL), measure)
        mean_labels = {key: sum(found) / len(found) for key, found in counts.items()}
        return cls(plan, measure, baselines, mean_labels, scores, differences, failed)

    @property
    def places(self) -> list[tuple[str, str]]:
        """What is trained on and tested on: all entries of a matrix, row by row."""
        return [(source, region.name) for source in self.plan.sources for region in self.plan.regions]

    @property
    def kinds(self) -> list[tuple[str, str, int | str]]:
        """Name, tune and limit of all matrices: with each limit the inits', then the baselines'."""
        config = self.plan.config
        models = [(init.name, tune) for tune in config.tune for init in self.plan.inits]
        baselines = [(name, "") for name in self.baselines.values()]
        return [(name, tune, limit) for limit in config.limit for name, tune in (*models, *baselines)]

    @property
    def ridge(self) -> str:
        """Name of the baseline that is hardest to beat."""
        return next(iter(self.baselines.values()))

    def compared(self, first: str, second: str, **same: Any) -> list[Interval]:
        """Return the differences of two names; `same` are values that their pairs must have."""
        return [
            difference
            for pair, difference in self.differences.items()
            if (pair.first, pair.second) == (first, second)
            and all(getattr(pair, name) == value for name, value in same.items())
        ]

    def counts(self, first: str, second: str, **same: Any) -> Counter[str]:
        """Count verdicts over the differences of two names; see `compared`."""
        return Counter(difference.verdict for difference in self.compared(first, second, **same))

    @property
    def verdict(self) -> str:
        """Say in plain English what came out."""
        said = [_said(*pair, self.compared(*pair)) for pair in self.plan.pairs]
        ridge = f"the {self.ridge}"
        for init in self.plan.inits:
            found = self.compared(init.name, self.ridge)
            line, counts = _said(init.name, ridge, found), Counter(one.verdict for one in found)
            said.append(f"{line}: {ridge} wins" if counts[WORSE] > counts[BETTER] else line)
        if self.plan.config.draws == 1:
            said.append("with one draw, intervals are over bands of ground alone, not over other labels")
        if not any(interval.low is not None for interval in self.differences.values()):
            said.append(
                "no difference has an interval: no region has two bands of test tiles, or all differ alike"
            )
        return ". ".join(line[0].upper() + line[1:] for line in said) + "."

    def table(self) -> str:
        """Return lines to print: the verdict, then mean errors within regions and across them."""
        measure = self.measure
        title = f"{measure.title}{f' ({measure.unit})' if measure.unit else ''}"
        lines = [self.verdict, f"{title:28}{'labels':>8}{'own region':>12}{'others':>10}"]
        for name, tune, limit in self.kinds:
            own, others = list[float](), list[float]()
            for source, region in self.places:
                score = self.scores.get(Setting(name, tune, limit, source, region))
                if score and source != ALL:
                    (own if source == region else others).append(score.error.value)
            shown = [measure.shown(sum(found) / len(found)) if found else "-" for found in (own, others)]
            what = f"{name}, {tuned(tune)}" if tune else name
            lines.append(f"{what[:27]:28}{limit:>8}{shown[0]:>12}{shown[1]:>10}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plan, measure = self.plan, self.measure
        models, baselines = [], []
        for name, tune, limit in self.kinds:
            scored = {
                place: score
                for place in self.places
                if (score := self.scores.get(Setting(name, tune, limit, *place)))
            }
            rows = [
                {"trained_on": source, "tested_on": region, **score.to_json(measure)}
                for (source, region), score in scored.items()
            ]
            if tune:
                models.append({"init": name, "tune": tune, "limit": limit, "matrix": rows})
            else:
                baselines.append({"baseline": name, "limit": limit, "matrix": rows})
        return {
            "verdict": self.verdict,
            "measure": {"name": measure.name, "title": measure.title, "unit": measure.unit},
            "intervals": "95 %, over bands of ground and draws",
            "trained_on": plan.sources,
            "tested_on": [region.name for region in plan.regions],
            "labels": [
                {"trained_on": source, "limit": limit, "mean": count}
                for (source, limit), count in self.labels.items()
            ],
            "models": models,
            "baselines": baselines,
            "differences": [self._differences(*pair) for pair in self._compared()],
            "failed": [{"cell": cell, "why": why} for cell, why in self.failed.items()],
        }

    def _compared(self) -> list[tuple[str, str]]:
        return [*self.plan.pairs, *((init.name, self.ridge) for init in self.plan.inits)]

    def _differences(self, first: str, second: str) -> dict[str, Any]:
        rows = [
            {
                **{name: getattr(pair, name) for name in ("tune", "limit", "trained_on", "tested_on")},
                **difference.to_json(),
                "verdict": difference.verdict,
            }
            for pair, difference in self.differences.items()
            if (pair.first, pair.second) == (first, second)
        ]
        counts = self.counts(first, second)
        return {
            "first": first,
            "second": second,
            "counts": {verdict: counts[verdict] for verdict in VERDICTS},
            "comparisons": rows,
        }


def _said(first: str, second: str, differences: list[Interval]) -> str:
    """Say how often the first is better than the second."""
    counts, total = Counter(difference.verdict for difference in differences), len(differences)
    if counts[NO_INTERVAL] == total:
        lower = sum(difference.value < 0 for difference in differences)
        return f"{first} has the lower error in {lower} of {total} comparisons with {second}"
    text = (
        f"{first} is better than {second} in {counts[BETTER]} of {total} comparisons, "
        f"worse in {counts[WORSE]}, not told apart in {counts[NOT_TOLD_APART]}"
    )
    return text + (f", without an interval in {counts[NO_INTERVAL]}" if counts[NO_INTERVAL] else "")
