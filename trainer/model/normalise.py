"""The regressor's first layer, from stored pixels to the backbone's input.

Band choice, clamp, scaling and z-score happen here and nowhere else, with the statistics that travel in
the checkpoint, so training, evaluation and prediction cannot normalise differently.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shards.format.missing import missing_values
from shards.format.schema import Schema
from shards.format.statistics import Statistics


class Normalise(nn.Module):
    """Normalisation of image_BCHW as stored to pixels_BCHW, float32, of the chosen bands.

    x becomes (clip((x - clamp_min) / (clamp_max - clamp_min), 0, 1) - clamped_mean) / clamped_std; a missing
    pixel becomes 0, the mean. The constants come from `shards.format.statistics.BandSummary`.
    """

    clamp_min_C: Tensor
    clamp_span_C: Tensor
    mean_C: Tensor
    std_C: Tensor

    def __init__(self, schema: Schema, bands: tuple[str, ...], statistics: Statistics) -> None:
        super().__init__()
        self.positions = schema.band_positions(bands)
        self.nodata = schema.nodata
        chosen = [statistics.bands[band] for band in bands]
        for name, values in (
            ("clamp_min_C", [band.clamp_min for band in chosen]),
            ("clamp_span_C", [band.clamp_max - band.clamp_min for band in chosen]),
            ("mean_C", [band.clamped_mean for band in chosen]),
            # A constant band becomes all zeros instead of NaN.
            ("std_C", [band.clamped_std or 1.0 for band in chosen]),
        ):
            # Not in the weights: these numbers' one home is the statistics file.
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def valid(self, image_CHW: NDArray[Any]) -> NDArray[np.bool_]:
        """Return valid_HW of stored pixels, by the rule of `forward`."""
        valid_HW = np.ones(image_CHW.shape[1:], np.bool_)
        for position in self.positions:  # one by one, to copy no more than one band
            valid_HW &= ~missing_values(image_CHW[position], self.nodata)
        return valid_HW

    def forward(self, image_BCHW: Tensor, changes_BCK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalise stored pixels.

        Args:
            image_BCHW: as stored.
            changes_BCK: augmentation's two numbers for each chosen band: a factor on the value scaled to
                0..1, and 1 to keep the band or 0 to replace it by its mean.

        Returns:
            pixels_BCHW and valid_BHW: valid where no chosen band is missing (`shards.format.missing`).
        """
        chosen_BCHW = image_BCHW[:, self.positions].float()
        missing_BCHW = ~chosen_BCHW.isfinite()
        if self.nodata is not None:
            missing_BCHW |= chosen_BCHW == self.nodata
        above_BCHW = chosen_BCHW - self.clamp_min_C[:, None, None]
        scaled_BCHW = (above_BCHW / self.clamp_span_C[:, None, None]).clamp(0, 1)
        if changes_BCK is not None:
            scaled_BCHW = scaled_BCHW * changes_BCK[:, :, 0, None, None]
        pixels_BCHW = (scaled_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        if changes_BCK is not None:
            pixels_BCHW = pixels_BCHW * changes_BCK[:, :, 1, None, None]
        return pixels_BCHW.masked_fill(missing_BCHW, 0.0), ~missing_BCHW.any(1)
