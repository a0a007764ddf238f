"""Some chips as the regressor sees them now: image, measured height and predicted height side by side."""

import numpy as np
import torch

from shards.order import Chips
from shards.picture import coloured_heights, composite
from shards.reader import Dataset
from trainer.model import Regressor
from trainer.objective import Panel


def draw_panel(regressor: Regressor, dataset: Dataset, chips: Chips, device: torch.device) -> Panel | None:
    """Draw these chips, None if their shards are left out; the regressor stays in eval mode.

    A row for each chip: near infrared-red-green, measured and predicted height in the eight classes.
    """
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
    heights = {"measured": batch.height_BHW[known_BHW], "predicted": predicted_BHW[known_BHW]}
    return Panel(
        "image, measured, predicted",
        np.concatenate(rows),
        {f"height/{name}": height_N for name, height_N in heights.items()},
    )
