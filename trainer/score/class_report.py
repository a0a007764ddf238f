"""What reports of classes have in common, of tiles or of pixels: verdict, table and pictures of confusion."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shards.draw.picture import COLOUR_MAP, SMALL, drawable
from trainer.score.compared import Compared
from trainer.score.tile_baselines import MODEL
from trainer.score.tile_scores import ClassScore

WIDTH = 22
"""Letters in the first column of a table; longer names push theirs to the right."""
MOST_NUMBERS = 12
"""Most classes whose counts are written into the picture."""


def compared_classes(errors: Mapping[str, float]) -> Compared:
    """Compare models of classes by the share of wrong ones."""
    return Compared(errors, "share of wrong classes", "{:.1%}")


def class_verdict(scores: Mapping[str, ClassScore]) -> str:
    """Compare the model with its baselines, in a sentence."""
    return compared_classes({name: score.error for name, score in scores.items()}).verdict


def class_table(
    title: str, counted: str, classes: Sequence[str], scores: Mapping[str, ClassScore]
) -> list[str]:
    """Return lines to print: a row for each score, then the model's scores by class.

    Args:
        title: name of the label.
        counted: what is counted, "tiles" or "pixels".
        classes: names of the classes.
        scores: scores by name.
    """
    width, wide = max(WIDTH, *(len(name) + 2 for name in scores)), 14
    lines = [f"{title:{width}}{counted:>{wide}}{'accuracy':>10}{'macro F1':>10}"]
    for name, score in scores.items():
        lines.append(f"{name:{width}}{score.count:{wide},}{score.accuracy:10.3f}{score.macro_f1:10.3f}")
    model = scores[MODEL]
    lines.append(f"{'of the model, by class':{width}}{counted:>{wide}}{'F1':>10}{'IoU':>10}")
    rows = zip(classes, model.confusion_TP.sum(1), model.f1_K, model.iou_K, strict=True)
    return lines + [
        f"  {name[: width - 3]:{width - 2}}{n:{wide},}{f1:10.3f}{iou:10.3f}" for name, n, f1, iou in rows
    ]


def draw_confusion(axis: Any, score: ClassScore, classes: Sequence[str]) -> None:
    """Draw the share of each true class that is predicted as each class, and the counts if they fit."""
    shares_TP = score.confusion_TP / np.maximum(score.confusion_TP.sum(1, keepdims=True), 1)
    axis.imshow(shares_TP, vmin=0, vmax=1, cmap=COLOUR_MAP)
    if len(classes) <= MOST_NUMBERS:
        for true, row_P in enumerate(score.confusion_TP):
            for predicted, count in enumerate(row_P):
                colour = "black" if shares_TP[true, predicted] > 0.6 else "white"
                axis.text(
                    predicted, true, f"{count:,}", ha="center", va="center", color=colour, fontsize=SMALL
                )
    places, names = np.arange(len(classes)), list(map(drawable, classes))
    axis.set_xticks(places, names, rotation=45, ha="right", fontsize=SMALL)
    axis.set_yticks(places, names, fontsize=SMALL)
    axis.set(xlabel="predicted", ylabel="true")
