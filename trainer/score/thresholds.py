"""How well a threshold on a score finds the pixels of a class: best IoU and AUC, exact also with ties.

    ranked = Ranked(score_N)
    found = ranked.best(positive_N, count_N)  # iou, threshold, side
    ranked.auc(positive_N, count_N)

A score may stand for several pixels, as that of a patch does: positive_N of its count_N pixels are of the
class. Equal scores lie on the same side of any threshold, and count half in the AUC (Mann and Whitney 1947).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["above", "below"]


@dataclass(frozen=True)
class Threshold:
    """The threshold with the best IoU."""

    iou: float
    """Intersection over union of the class and the pixels on this side."""
    threshold: float
    """Score that is still on this side."""
    side: Side


class Ranked:
    """Scores in ascending order, to be compared with any number of classes."""

    def __init__(self, score_N: NDArray[Any]) -> None:
        self.order_N = np.argsort(score_N, kind="stable")
        sorted_N = np.asarray(score_N)[self.order_N]
        self.first_G = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]][: sorted_N.size])
        """Where each group of equal scores begins."""
        self.score_G = sorted_N[self.first_G]

    def best(self, positive_N: NDArray[Any], count_N: NDArray[Any]) -> Threshold | None:
        """Find the best IoU over all thresholds, on both sides; None without a pixel of the class.

        Ties go to the lowest threshold, then to "above".
        """
        positive_G, count_G = self._groups(positive_N), self._groups(count_N)
        whole = positive_G.sum()
        if whole == 0:
            return None
        found: list[Threshold] = []
        up = np.s_[::-1]
        sides: tuple[tuple[Side, slice], ...] = (("above", up), ("below", np.s_[:]))
        for side, turn in sides:
            inside_G = positive_G[turn].cumsum()[turn]
            chosen_G = count_G[turn].cumsum()[turn]
            iou_G = inside_G / (chosen_G + whole - inside_G)
            place = int(iou_G.argmax())
            found.append(Threshold(float(iou_G[place]), float(self.score_G[place]), side))
        return max(found, key=lambda one: one.iou)

    def auc(self, positive_N: NDArray[Any], count_N: NDArray[Any]) -> float | None:
        """Compute how often a pixel of the class has a higher score than one of the others; ties count half.

        None where there are no pixels of the class, or no others.
        """
        positive_G, count_G = self._groups(positive_N), self._groups(count_N)
        other_G = count_G - positive_G
        pairs = positive_G.sum() * other_G.sum()
        if pairs == 0:
            return None
        below_G = other_G.cumsum() - other_G
        return float((positive_G * (below_G + other_G / 2)).sum() / pairs)

    def _groups(self, number_N: NDArray[Any]) -> NDArray[np.float64]:
        """Add up numbers over equal scores; sums of pixels are exact in float64."""
        sorted_N = np.asarray(number_N, np.float64)[self.order_N]
        return np.add.reduceat(sorted_N, self.first_G) if self.first_G.size else sorted_N


def iou_at(
    score_N: NDArray[Any], positive_N: NDArray[Any], count_N: NDArray[Any], at: Threshold
) -> float | None:
    """Compute the IoU of a threshold that was chosen elsewhere; None without a pixel of the class."""
    whole = float(np.sum(positive_N))
    if whole == 0:
        return None
    chosen_N = score_N >= at.threshold if at.side == "above" else score_N <= at.threshold
    inside = float(np.sum(np.asarray(positive_N, np.float64)[chosen_N]))
    return inside / (float(np.sum(np.asarray(count_N, np.float64)[chosen_N])) + whole - inside)
