"""Results of an evaluation on tiles: scores by name, as a table, JSON, rows and a picture. No torch here."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.draw.picture import EDGE, new_figure, png, tidy
from shards.format.manifest import write_json
from shards.storage.objects import join, publish
from trainer.score.class_report import WIDTH, class_table, class_verdict, draw_confusion
from trainer.score.compared import Compared
from trainer.score.evaluation import PICTURE, SCORES
from trainer.score.tile_scores import ClassScore, ValueScore

PREDICTIONS = "predictions.parquet"
"""File with a row for each tile."""


@dataclass(frozen=True)
class TileEvaluation:
    """Predictions of labels of tiles by name: first the model's, then those it is compared with."""

    label: str
    """Name of the label."""
    unit: str
    """Unit of a number: "%", or "" where none is known."""
    classes: tuple[str, ...]
    """Names of the classes; (): the label is a number."""
    tiles: pa.Table
    """Facts about each tile: its key, split and other columns of the index."""
    true_N: NDArray[np.float64]
    """Label, or number of the class, of each tile."""
    predicted: dict[str, NDArray[np.float64]]
    """Predicted ones by name."""
    about: dict[str, Any]
    """Description of what was scored, as plain JSON values."""

    @property
    def chips(self) -> int:
        """Number of tiles scored."""
        return len(self.true_N)

    @property
    def scores(self) -> dict[str, ValueScore | ClassScore]:
        """Scores by name."""
        count = len(self.classes)
        return {
            name: ClassScore.of(predicted_N, self.true_N, count)
            if count
            else ValueScore.of(predicted_N, self.true_N)
            for name, predicted_N in self.predicted.items()
        }

    @property
    def verdict(self) -> str:
        """Compare the model with its baselines, in a sentence."""
        scores = self.scores
        if self.classes:
            return class_verdict({name: one for name, one in scores.items() if isinstance(one, ClassScore)})
        return compared_values({name: one.error for name, one in scores.items()}, self.unit).verdict

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain JSON values."""
        scores = {name: score.to_json() for name, score in self.scores.items()}
        return {
            **self.about,
            "label": self.label,
            "unit": self.unit,
            "classes": list(self.classes),
            "verdict": self.verdict,
            "scores": scores,
        }

    def table(self) -> str:
        """Return lines to print: the verdict, then a row for each score."""
        scores, width = self.scores, WIDTH
        title = f"{self.label}{f' ({self.unit})' if self.unit else ''}"
        if self.classes:
            of_classes = {name: one for name, one in scores.items() if isinstance(one, ClassScore)}
            lines = class_table(title, "tiles", self.classes, of_classes)
        else:
            lines = [f"{title:{width}}{'tiles':>9}{'RMSE':>10}{'MAE':>10}{'bias':>10}{'R2':>8}"]
            for name, score in scores.items():
                assert isinstance(score, ValueScore)
                of = score.metrics
                lines.append(
                    f"{name:{width}}{of.count:9,}{of.rmse:10.4g}{of.mae:10.4g}{of.bias:10.3g}{of.r2:8.2f}"
                )
        return "\n".join([self.verdict, *lines])

    def rows(self) -> pa.Table:
        """Return the tiles with their true label and the predicted ones, a column for each name."""
        table = self.tiles
        for name, values_N in {"true": self.true_N, **self.predicted}.items():
            column: Any = values_N
            if self.classes:
                column = [None if value != value else self.classes[int(value)] for value in values_N]
            table = table.append_column(name.replace(" ", "_"), pa.array(column))
        return table


def compared_values(errors: Mapping[str, float], unit: str) -> Compared:
    """Compare models of a number in this unit, "" if there is none, by the RMSE."""
    return Compared(errors, "RMSE", f"{{:.3g}} {unit}".rstrip())


def write_tile_evaluation(url: str, evaluation: TileEvaluation) -> None:
    """Write evaluation.json, evaluation.png and predictions.parquet below `url`."""
    rows = io.BytesIO()
    pq.write_table(evaluation.rows(), rows)
    publish(join(url, PREDICTIONS), rows.getvalue())
    publish(join(url, PICTURE), tile_picture(evaluation))
    write_json(join(url, SCORES), evaluation.to_json())


def tile_picture(evaluation: TileEvaluation) -> bytes:
    """Draw predicted against true numbers, or the confusion of classes, for all models, as a PNG."""
    names = list(evaluation.predicted)
    figure = new_figure(4.2 * len(names), 4.2)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        score = evaluation.scores[name]
        if isinstance(score, ClassScore):
            draw_confusion(axis, score, evaluation.classes)
            axis.set_title(f"{name}: accuracy {score.accuracy:.1%}")
        else:
            _draw_points(axis, evaluation, name)
            axis.set_title(f"{name}: RMSE {score.metrics.rmse:.3g} {evaluation.unit}".rstrip())
        tidy(axis)
    return png(figure)


def _draw_points(axis: Any, evaluation: TileEvaluation, name: str) -> None:
    true_N, predicted_N = evaluation.true_N, evaluation.predicted[name]
    ends = (min(true_N.min(), predicted_N.min()), max(true_N.max(), predicted_N.max()))
    axis.plot(ends, ends, color=EDGE, linewidth=0.8)
    axis.plot(true_N, predicted_N, ".", markersize=3, alpha=0.5, color="C0")
    label = evaluation.label + (f" ({evaluation.unit})" if evaluation.unit else "")
    axis.set(xlabel=f"true {label}", ylabel=f"predicted {label}")
