"""Some chips as the regressor sees them now: image, measured height and predicted height side by side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.order import Chips
from shards.picture import coloured_heights, composite
from shards.reader import Dataset
from trainer.model import Regressor


@dataclass(frozen=True)
class Panel:
    """A picture, and the heights in it, in metres."""

    rgb_HW3: NDArray[np.uint8]
    """A row for each chip: near infrared-red-green, measured, predicted; heights in the eight classes."""
    measured_N: NDArray[np.floating[Any]]
    predicted_N: NDArray[np.floating[Any]]


def draw_panel(regressor: Regressor, dataset: Dataset, chips: Chips, device: torch.device) -> Panel | None:
    """The panel of these chips, None if their shards are left out; the regressor is left in eval mode."""
    batch, schema = next(dataset.batches(chips, chips.size), None), dataset.schema
    if batch is None or not batch.chips.size:
        return None
    image_BCHW = torch.from_numpy(batch.image_BCHW.copy()).to(device)
    height_BHW, valid_BHW = regressor.eval().predict(image_BCHW)
    predicted_BHW = height_BHW.masked_fill(~valid_BHW, float("nan")).float().cpu().numpy()
    rows = [
        np.concatenate(
            [
                composite(image_CHW, schema.bands, schema.nodata),
                coloured_heights(measured_HW),
                coloured_heights(predicted_HW),
            ],
            axis=1,
        )
        for image_CHW, measured_HW, predicted_HW in zip(
            batch.image_BCHW, batch.height_BHW, predicted_BHW, strict=True
        )
    ]
    known_BHW = np.isfinite(batch.height_BHW) & np.isfinite(predicted_BHW)
    return Panel(np.concatenate(rows), batch.height_BHW[known_BHW], predicted_BHW[known_BHW])
