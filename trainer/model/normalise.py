"""The regressor's first layer, from stored pixels to the backbone's input.

Band choice, scale and offset, derived bands, clamp, scaling and z-score happen here and nowhere else, with
the schema and the statistics that travel in the checkpoint, so training, evaluation and prediction cannot
normalise differently.
"""

import itertools
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

    A value x (see `values`) becomes (clip((x - clamp_min) / (clamp_max - clamp_min), 0, 1) - clamped_mean) /
    clamped_std; a missing pixel becomes 0, the mean. The constants come from
    `shards.format.statistics.BandSummary`.
    """

    clamp_min_C: Tensor
    clamp_span_C: Tensor
    mean_C: Tensor
    std_C: Tensor
    scale_S: Tensor | None
    offset_S: Tensor | None
    factor_D: Tensor | None
    position_S: Tensor
    first_D: Tensor | None
    second_D: Tensor | None
    order_C: Tensor | None

    def __init__(self, schema: Schema, bands: tuple[str, ...], statistics: Statistics) -> None:
        super().__init__()
        derived = [schema.derived_band(band) for band in bands]
        made = [band for band in derived if band is not None]
        stored = [band for band, its in zip(bands, derived, strict=True) if its is None]
        # Of derived bands only what is not read anyway: 12 bands may be read as 8.
        stored += dict.fromkeys(n for b in made for n in (b.first, b.second) if n not in stored)
        self.positions = schema.band_positions(tuple(stored))
        """Stored bands that are read."""
        self.nodata = schema.nodata
        is_scaled = any(map(schema.is_scaled, stored))
        scaling = [schema.scaling(band) for band in stored] if is_scaled else []
        chosen = [statistics.bands[band] for band in bands]
        for name, values in (
            ("clamp_min_C", [band.clamp_min for band in chosen]),
            ("clamp_span_C", [band.clamp_max - band.clamp_min for band in chosen]),
            ("mean_C", [band.clamped_mean for band in chosen]),
            # A constant band becomes all zeros instead of NaN.
            ("std_C", [band.clamped_std or 1.0 for band in chosen]),
            ("factor_D", [band.factor for band in made]),
            ("scale_S", [scale for scale, _ in scaling]),
            ("offset_S", [offset for _, offset in scaling]),
        ):
            # Not in the weights: these numbers' homes are the schema and the statistics file.
            numbers = torch.tensor(values, dtype=torch.float32) if values else None
            self.register_buffer(name, numbers, persistent=False)
        # On the device, since each use of a list would be a copy that the host waits for.
        for name, places in (
            ("position_S", self.positions),
            ("first_D", [stored.index(band.first) for band in made]),
            ("second_D", [stored.index(band.second) for band in made]),
            ("order_C", _order(derived, len(stored)) if made else []),
        ):
            numbers = torch.tensor(places) if places else None
            self.register_buffer(name, numbers, persistent=False)

    def constants(self) -> dict[str, list[float]]:
        """Return the numbers that make pixels of values, by name."""
        numbers = {name: value for name, value in self.named_buffers() if value.is_floating_point()}
        return {name: value.tolist() for name, value in numbers.items()}

    def valid(self, image_CHW: NDArray[Any]) -> NDArray[np.bool_]:
        """Return valid_HW of stored pixels, by the rule of `forward`."""
        valid_HW = np.ones(image_CHW.shape[1:], np.bool_)
        for position in self.positions:  # one by one, to copy no more than one band
            valid_HW &= ~missing_values(image_CHW[position], self.nodata)
        return valid_HW

    def values(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of the chosen bands, by the rule of `shards.format.band_values`.

        Returns:
            values_BCHW, float32, undefined where missing_BCHW is true.
        """
        read_BSHW, missing_BSHW = self._read(image_BCHW)
        if self.scale_S is not None and self.offset_S is not None:
            read_BSHW = read_BSHW * self.scale_S[:, None, None] + self.offset_S[:, None, None]
        factor_D, first_D, second_D, order_C = self.factor_D, self.first_D, self.second_D, self.order_C
        if factor_D is None or first_D is None or second_D is None or order_C is None:
            return read_BSHW, missing_BSHW
        seconds_BDHW = factor_D[:, None, None] * read_BSHW.index_select(1, second_D)
        derived_BDHW = read_BSHW.index_select(1, first_D) + seconds_BDHW
        missing_BDHW = missing_BSHW.index_select(1, first_D) | missing_BSHW.index_select(1, second_D)
        values_BCHW = torch.cat([read_BSHW, derived_BDHW], 1).index_select(1, order_C)
        return values_BCHW, torch.cat([missing_BSHW, missing_BDHW], 1).index_select(1, order_C)

    def valid_of(self, image_BCHW: Tensor) -> Tensor:
        """Return the valid_BHW of `forward` alone."""
        return ~self._read(image_BCHW)[1].any(1)

    def _read(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stored bands that are read, as float32, and missing_BSHW."""
        # First to floats: on a GPU torch cannot take single bands of uint16.
        read_BSHW = image_BCHW.float()
        if self.positions != tuple(range(image_BCHW.shape[1])):
            read_BSHW = read_BSHW.index_select(1, self.position_S)
        missing_BSHW = (read_BSHW - read_BSHW) != 0  # NaN and infinity; faster than isfinite
        if self.nodata is not None:
            missing_BSHW |= read_BSHW == self.nodata
        return read_BSHW, missing_BSHW

    def forward(self, image_BCHW: Tensor, changes_BCK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalise stored pixels.

        Args:
            image_BCHW: as stored.
            changes_BCK: augmentation's four numbers for each chosen band: a factor on the value scaled to
                0..1; 1 to keep the band or 0 to replace it by its mean; a factor on its distance from the
                mean; what is added to it, in its standard deviations.

        Returns:
            pixels_BCHW and valid_BHW: valid where no chosen band is missing (`shards.format.missing`).
        """
        values_BCHW, missing_BCHW = self.values(image_BCHW)
        pixels_BCHW = values_BCHW - self.clamp_min_C[:, None, None]
        # In place from here on: on a CPU half of the time of these steps is that of taking new memory.
        pixels_BCHW.div_(self.clamp_span_C[:, None, None]).clamp_(0, 1)
        if changes_BCK is not None:
            pixels_BCHW.mul_(changes_BCK[:, :, 0, None, None])
        pixels_BCHW.sub_(self.mean_C[:, None, None]).div_(self.std_C[:, None, None])
        if changes_BCK is not None:
            kept_BC, gain_BC, offset_BC = changes_BCK[:, :, 1:].unbind(-1)
            pixels_BCHW.mul_((kept_BC * gain_BC)[..., None, None]).add_(
                (kept_BC * offset_BC)[..., None, None]
            )
        return pixels_BCHW.masked_fill_(missing_BCHW, 0.0), ~missing_BCHW.any(1)


def _order(derived: list[Any], read: int) -> list[int]:
    """Return where each chosen band stands among the read ones, followed by the derived ones.

    Args:
        derived: the chosen bands in their order: a derived one, or None for the next stored one.
        read: number of stored bands that are read, the chosen ones first.
    """
    stored, made = itertools.count(), itertools.count(read)
    return [next(stored) if band is None else next(made) for band in derived]
