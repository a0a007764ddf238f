"""The figures of a report, as PNG bytes: curves of a training, and chips."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.draw.colours import difference_scale, height_scale
from shards.draw.picture import (
    BLANK,
    GREY,
    SERIES,
    SMALL,
    composite,
    draw_difference_bar,
    draw_height_legend,
    drawable,
    new_figure,
    png,
    show,
    tidy,
)
from trainer.score.epochs import epoch_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {"loss": "training", "val_loss": "validation"}
PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("RMSE of validation{unit}", {"val_rmse": "model"}),
    ("accuracy of validation", {"val_accuracy": "model"}),
    (
        "RMSE of the probe{unit}",
        {
            "val_probe_rmse": "pre-trained tokens",
            "val_untrained_rmse": "untrained tokens",
            "val_bands_rmse": "means and deviations of bands",
        },
    ),
    (
        "wrong classes of the probe",
        {
            "val_probe_error": "pre-trained tokens",
            "val_untrained_error": "untrained tokens",
            "val_bands_error": "means and deviations of bands",
        },
    ),
)
"""Title of a panel, and its lines by their names in a record. The first one that a run has is drawn."""
TITLES = ("", "measured", "predicted", "predicted - measured")
"""Titles of the rows of a picture of chips; the first has the chips' own."""


@dataclass(frozen=True, eq=False)
class ChipPicture:
    """What is shown of a chip."""

    image_CHW: NDArray[Any]
    """Values of all bands."""
    measured_HW: NDArray[np.float32]
    predicted_HW: NDArray[np.floating[Any]]
    title: str


def curves(records: Sequence[dict[str, Any]], best: int | None = None, unit: str = "") -> bytes:
    """Draw loss and validation score by epoch, as a PNG; see `drawn_curves`."""
    return png(drawn_curves(records, best, unit))


def drawn_curves(records: Sequence[dict[str, Any]], best: int | None = None, unit: str = "") -> "Figure":
    """Draw loss and validation score by epoch, numbered from 1.

    Args:
        records: record of each epoch.
        best: number of the best epoch, which gets a line.
        unit: unit of the score, for its axis.
    """
    epochs = [epoch_of(record) for record in records]
    scored = next((one for one in PANELS if any(name in r for name in one[1] for r in records)), None)
    panels = [("loss", LOSSES), *([scored] if scored else [])]
    figure = new_figure(5.5 * len(panels), 3.4)
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        drawn = []
        for (name, label), colour in zip(names.items(), SERIES, strict=False):
            values = [_number(record.get(name)) for record in records]
            known = [(x, y) for x, y in zip(epochs, values, strict=True) if not math.isnan(y)]
            if known:
                axes.plot(*zip(*known, strict=True), ".-", markersize=4, label=label, color=colour)
                drawn += [y for _, y in known]
        if best is not None and drawn:
            axes.axvline(best, color=GREY, linewidth=1, linestyle="dotted", label=f"best epoch: {best}")
        if title == "loss" and drawn and min(drawn) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}" if max(drawn) < 20 * min(drawn) else "")
            axes.tick_params(which="minor", labelsize=SMALL)
        axes.set(xlabel="epoch", ylabel=title.format(unit=f" ({unit})" if unit else ""))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=SMALL)
        tidy(axes)
    return figure


def chip_pictures(chips: Sequence[ChipPicture], bands: tuple[str, ...]) -> bytes:
    """Draw chips side by side: image, measured and predicted heights, and their difference, row by row."""
    differences = [chip.predicted_HW.astype(np.float32) - chip.measured_HW for chip in chips]
    heights = [one.ravel() for chip in chips for one in (chip.measured_HW, chip.predicted_HW)]
    scale = height_scale(np.concatenate(heights))
    apart = difference_scale(np.concatenate([one.ravel() for one in differences]))
    rows = (
        [composite(chip.image_CHW, bands, None) for chip in chips],
        [scale.rgb(chip.measured_HW) for chip in chips],
        [scale.rgb(chip.predicted_HW) for chip in chips],
        [apart.rgb(difference_HW) for difference_HW in differences],
    )
    figure = new_figure(max(2.1 * len(chips), 4.5), 10)
    # One picture a row: matplotlib takes half a second to lay out axes for each chip.
    axes = figure.subplots(4, 1)
    for one, pictures, title in zip(axes, rows, TITLES, strict=True):
        show(one, _side_by_side(pictures), title)
    high, wide = rows[0][0].shape[:2]
    for place, chip in enumerate(chips):
        style = {"fontsize": SMALL, "ha": "center", "va": "bottom"}
        middle = place * (wide + _gap(wide)) + wide / 2
        axes[0].text(middle, -0.03 * high, drawable(chip.title), **style)
    draw_height_legend(figure, axes[1:3].tolist(), scale)
    draw_difference_bar(figure, axes[3:].tolist(), apart, f"{TITLES[-1]} (m)")
    return png(figure)


def _side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pictures of one size into a row, with white gaps."""
    high, wide = pictures[0].shape[:2]
    gap_HW3 = np.full((high, _gap(wide), 3), BLANK, np.uint8)
    parts = [part for picture_HW3 in pictures for part in (gap_HW3, picture_HW3)][1:]
    return np.concatenate(parts, axis=1)


def _gap(wide: int) -> int:
    return max(1, wide // 16)


def _number(value: Any) -> float:
    """Return a record's number; NaN where it has none."""
    return float("nan") if value is None else float(value)
