"""Scores of labels: errors of numbers, and confusion of classes. Arrays in, numbers out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.score.metrics import Metrics, error_sums, metrics_of


@dataclass(frozen=True)
class ValueScore:
    """Sums over tiles from which the metrics of a number follow, in the label's unit."""

    sums_S: NDArray[np.float64]
    """Sums; see trainer.score.metrics."""

    @classmethod
    def of(cls, predicted_N: NDArray[Any], true_N: NDArray[Any]) -> "ValueScore":
        """Score predictions of tiles; those without a label (NaN) are left out."""
        known_N = np.isfinite(true_N)
        return cls(error_sums(predicted_N[known_N].astype(np.float64), true_N[known_N].astype(np.float64)))

    @property
    def metrics(self) -> Metrics:
        """Errors in the label's unit."""
        return metrics_of(self.sums_S)

    @property
    def error(self) -> float:
        """Number by which models are compared, lower is better: the RMSE."""
        return self.metrics.rmse

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain JSON values."""
        return self.metrics.to_json()


@dataclass(frozen=True)
class ClassScore:
    """Tiles, or pixels, by true and predicted class."""

    confusion_TP: NDArray[np.int64]
    """Number of tiles or pixels by true (T) and predicted (P) class."""

    @classmethod
    def of(cls, predicted_N: NDArray[Any], true_N: NDArray[Any], classes: int) -> "ClassScore":
        """Score predicted class numbers; tiles without a label (NaN) are left out."""
        known_N = np.isfinite(true_N)
        places_N = true_N[known_N].astype(np.int64) * classes + predicted_N[known_N].astype(np.int64)
        return cls(np.bincount(places_N, minlength=classes**2).reshape(classes, classes))

    @property
    def count(self) -> int:
        """Number of tiles or pixels."""
        return int(self.confusion_TP.sum())

    @property
    def accuracy(self) -> float:
        """Share of tiles or pixels whose class is right; NaN if there are none."""
        return float(np.trace(self.confusion_TP) / self.count) if self.count else float("nan")

    @property
    def error(self) -> float:
        """Number by which models are compared, lower is better: the share whose class is wrong."""
        return 1 - self.accuracy

    @property
    def f1_K(self) -> NDArray[np.float64]:
        """F1 of each class, 2 hits / (true + predicted); NaN for a class that is neither."""
        return self._share(self._true_K + self._predicted_K, 2)

    @property
    def iou_K(self) -> NDArray[np.float64]:
        """IoU of each class, hits / (true or predicted); NaN for a class that is neither."""
        return self._share(self._true_K + self._predicted_K - np.diag(self.confusion_TP), 1)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that truly occur; NaN if there are none."""
        occurs_K = self._true_K > 0
        return float(self.f1_K[occurs_K].mean()) if occurs_K.any() else float("nan")

    @property
    def _true_K(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion_TP.sum(1))

    @property
    def _predicted_K(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion_TP.sum(0))

    def _share(self, whole_K: NDArray[np.int64], factor: int) -> NDArray[np.float64]:
        shares_K = np.full(len(whole_K), np.nan)
        np.divide(factor * np.diag(self.confusion_TP), whole_K, out=shares_K, where=whole_K > 0)
        return shares_K

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON values; what is not defined is null."""
        listed = {"f1": self.f1_K, "iou": self.iou_K}
        return {
            "count": self.count,
            "accuracy": _known(self.accuracy),
            "macro_f1": _known(self.macro_f1),
            **{name: [_known(float(value)) for value in values_K] for name, values_K in listed.items()},
            "confusion": self.confusion_TP.tolist(),
        }


def _known(value: float) -> float | None:
    return None if value != value else value
