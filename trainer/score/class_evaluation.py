"""Results of an evaluation of classes of pixels: scores by name, as a table, JSON and a picture."""

from dataclasses import dataclass
from typing import Any

from shards.draw.picture import new_figure, png, tidy
from shards.format.manifest import write_json
from shards.storage.objects import join, publish
from trainer.score.class_report import class_table, class_verdict, draw_confusion
from trainer.score.evaluation import PICTURE, SCORES
from trainer.score.tile_scores import ClassScore


@dataclass(frozen=True)
class ClassEvaluation:
    """Scores of classes of pixels by name: first the model's, then those it is compared with."""

    label: str
    """Name of the label."""
    classes: tuple[str, ...]
    """Names of the classes."""
    scores: dict[str, ClassScore]
    """Pixels by true and predicted class."""
    about: dict[str, Any]
    """Description of what was scored, as plain JSON values."""

    @property
    def verdict(self) -> str:
        """Compare the model with its baselines, in a sentence."""
        return class_verdict(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain JSON values."""
        return {
            **self.about,
            "label": self.label,
            "classes": list(self.classes),
            "verdict": self.verdict,
            "scores": {name: score.to_json() for name, score in self.scores.items()},
        }

    def table(self) -> str:
        """Return lines to print: the verdict, a row for each score, then the model's scores by class."""
        return "\n".join([self.verdict, *class_table(self.label, "pixels", self.classes, self.scores)])


def write_class_evaluation(url: str, evaluation: ClassEvaluation) -> None:
    """Write evaluation.json and evaluation.png below `url`."""
    publish(join(url, PICTURE), class_picture(evaluation))
    write_json(join(url, SCORES), evaluation.to_json())


def class_picture(evaluation: ClassEvaluation) -> bytes:
    """Draw the confusion of classes of the model and of what it is compared with, as a PNG."""
    names = list(evaluation.scores)
    figure = new_figure(4.2 * len(names), 4.2)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        score = evaluation.scores[name]
        draw_confusion(axis, score, evaluation.classes)
        axis.set_title(f"{name}: accuracy {score.accuracy:.1%}")
        tidy(axis)
    return png(figure)
