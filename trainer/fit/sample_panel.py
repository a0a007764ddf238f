"""Pictures of sample chips: image, measured height and predicted height side by side."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.draw.colours import height_scale
from shards.draw.picture import composite
from shards.format.band_values import values_of
from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.data.token_store import TokenReader
from trainer.decoders.features import Features
from trainer.fit.objective import Panel
from trainer.model.regressor import Regressor


def draw_panel(
    regressor: Regressor,
    dataset: Dataset,
    chips: Chips,
    device: torch.device,
    tokens: TokenReader | None = None,
) -> Panel | None:
    """Draw these chips; None if their shards are left out. The regressor stays in eval mode.

    Each chip is a row: near infrared-red-green, then measured and predicted height. Colours are those that
    suit the measured heights, so they stay the same as the training goes on.
    With `tokens` heights are predicted from them, without the backbone.
    """
    batch, schema = next(dataset.batches(chips, chips.size), None), dataset.schema
    if batch is None or not batch.chips.size:
        return None
    features = tokens.features(batch.chips) if tokens else None
    predicted_BHW = predicted_heights(regressor, batch.image_BCHW, device, features)
    scale = height_scale(batch.height_BHW)
    rows = [
        np.concatenate(
            [
                composite(values_of(image_CHW, schema, schema.all_bands), schema.all_bands, None),
                scale.rgb(measured_HW),
                scale.rgb(predicted_HW),
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


def predicted_heights(
    regressor: Regressor, image_BCHW: NDArray[Any], device: torch.device, features: Features | None = None
) -> NDArray[np.float32]:
    """Predict heights in metres, NaN where pixels are missing. The regressor stays in eval mode.

    Args:
        regressor: a regressor on `device`.
        image_BCHW: pixels as stored.
        device: device to compute on.
        features: features of these pixels, if they are stored; default: the backbone computes them.
    """
    there_BCHW = torch.from_numpy(image_BCHW.copy()).to(device)
    height_BHW, valid_BHW = regressor.eval().predict(there_BCHW, features)
    predicted_BHW: NDArray[np.float32] = (
        height_BHW.masked_fill(~valid_BHW, float("nan")).float().cpu().numpy()
    )
    return predicted_BHW
