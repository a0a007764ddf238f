"""Sums on the device from which scores of heights follow (trainer.score.metrics): each chip's, then of all.

exact_sums(chip_sums(predicted_BHW, measured_BHW))      over all heights: for the validation of a training
height_sums([predicted_BHW, ...], measured_BHW)         by height class, and a density: for an evaluation

Both add up with + over batches and ranks, and are the same numbers however chips are dealt to these.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from shards.format.height_classes import EDGES, NAMES
from trainer.devices.exact_sums import chip_totals, counted, exact_sums, folded
from trainer.score.metrics import DENSITY_BINS, DENSITY_TOP_M

_PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**20}
"""Pixels for which memory is taken at a time; on a CPU they stay in its cache."""
_LANES = {"cpu": 1, "cuda": 256}
"""Running sums of each kind and class of a chip, among which its pixels take turns; see class_sums."""
_BINS_PER_M = DENSITY_BINS / DENSITY_TOP_M
_ON_BINS = [edge * _BINS_PER_M for edge in EDGES[1:-1] if (edge * _BINS_PER_M).is_integer()]
"""Edges of classes that are edges of bins, so that a height's bin tells on which side it lies."""
_BETWEEN = [edge for edge in EDGES[1:-1] if not (edge * _BINS_PER_M).is_integer()]
_CELLS = len(NAMES) + 1 + len(_BETWEEN)
"""Classes, and places for pixels without a height, which may be infinite and so above any edge."""


def chip_sums(predicted_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """Compute sums_BS, float64, of each chip over all its heights; the kinds of trainer.score.metrics.

    A sum is not finite where a prediction is not.

    Args:
        predicted_BHW: metres.
        measured_BHW: metres; NaN where nothing is measured, or the image is missing.
    """
    parts, room = [], _room(measured_BHW)
    for measured_BN, predicted_BN in _slabs(measured_BHW, predicted_BHW):
        known_BN = measured_BN.abs() < float("inf")
        groups = _groups(room, [predicted_BN], measured_BN, known_BN)
        _, *of_heights = next(groups)
        heights = [chip_totals(one_BN) for one_BN in of_heights]
        errors = [chip_totals(one_BN) for one_BN in next(groups)]
        parts.append(torch.stack([chip_totals(known_BN), *errors, *heights], 1))
    return torch.cat(parts)


def height_sums(predicted: Sequence[Tensor], measured_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sums from which the scores of predictions follow (trainer.score.metrics.Score.of).

    Args:
        predicted: predictions (B, H, W) of the same chips, metres.
        measured_BHW: metres; NaN where nothing is measured, or the image is missing.

    Returns:
        the exact sums_PKSL of each (trainer.score.exact_totals), and density_PM of the first, int64.
    """
    return exact_sums(class_sums(predicted, measured_BHW)), density(predicted[0], measured_BHW)


def class_sums(predicted: Sequence[Tensor], measured_BHW: Tensor, lanes: int | None = None) -> Tensor:
    """Compute sums_BPKS, float64, of each chip by prediction, height class and kind of sum.

    A CPU adds the values of a row one after another. On a GPU additions of one call come in any order, so
    that no two of them may meet in one place: each call takes as many pixels of a chip as there are lanes.

    Args:
        predicted: see height_sums.
        measured_BHW: see height_sums.
        lanes: running sums of each kind and class; default: what suits the device. Other numbers give other
            last bits.
    """
    pixels, device = measured_BHW[0].numel(), measured_BHW.device
    lanes = lanes or _LANES.get(device.type, _LANES["cuda"])
    at_once = pixels if lanes == 1 else lanes
    lane_N = torch.arange(pixels, device=device) % lanes * _CELLS
    class_of_bin = _class_of_bin(device)
    parts, room = [], _room(measured_BHW)
    for measured_BN, *predicted_BN in _slabs(measured_BHW, *predicted):
        place_BN = _classes(measured_BN, class_of_bin)
        if lanes > 1:
            place_BN += lane_N
        groups = []
        for values_3BN in _groups(room, predicted_BN, measured_BN):
            sums_3BC = values_3BN.new_zeros(3, len(measured_BN), lanes * _CELLS)
            for first in range(0, pixels, at_once):
                place_3BN = place_BN[:, first : first + at_once].expand(3, -1, -1)
                sums_3BC.scatter_add_(2, place_3BN, values_3BN[:, :, first : first + at_once])
            sums_3BLK = sums_3BC.view(3, -1, lanes, _CELLS)
            groups.append(folded(sums_3BLK, 2)[..., : len(NAMES)])
        (count_BK, *heights), *of_errors = groups
        parts.append(torch.stack([torch.stack([count_BK, *one, *heights], -1) for one in of_errors], 1))
    return torch.cat(parts)


def density(predicted_BHW: Tensor, measured_BHW: Tensor) -> Tensor:
    """Count pixels with a height: density_PM, int64, by predicted and measured height."""
    nowhere = DENSITY_BINS**2
    count = torch.zeros(nowhere + 1, dtype=torch.int64, device=measured_BHW.device)
    for measured_BN, predicted_BN in _slabs(measured_BHW, predicted_BHW):
        column_BN = _bins(measured_BN).add_(measured_BN - measured_BN)  # NaN where it is not finite
        # A prediction that is no number lies nowhere; the score refuses it for its sums.
        place_BN = _bins(predicted_BN).mul_(DENSITY_BINS).add_(column_BN).nan_to_num_(nowhere)
        count += counted(place_BN.long(), nowhere + 1)
    return count[:-1].view(DENSITY_BINS, DENSITY_BINS)


def _slabs(*heights: Tensor) -> Iterator[list[Tensor]]:
    """Yield some chips' heights at a time, each chip's in one row."""
    count = chips_at_once(heights[0])
    for first in range(0, len(heights[0]), count):
        yield [one_BHW[first : first + count].flatten(1) for one_BHW in heights]


def chips_at_once(height_BHW: Tensor) -> int:
    """Return the number of chips for which memory is to be taken at a time."""
    pixels_at_once = _PIXELS_AT_ONCE.get(height_BHW.device.type, _PIXELS_AT_ONCE["cuda"])
    return max(1, min(len(height_BHW), pixels_at_once // height_BHW[0].numel()))


def _room(height_BHW: Tensor) -> Tensor:
    """Take memory for two groups of values of some chips' pixels; the first values are 1."""
    shape = 2, 3, chips_at_once(height_BHW), height_BHW[0].numel()
    room_23BN = torch.empty(shape, dtype=torch.float64, device=height_BHW.device)
    room_23BN[0, 0] = 1
    return room_23BN


def _groups(
    room_23BN: Tensor, predicted: list[Tensor], measured_BN: Tensor, known_BN: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield values_3BN to add up: 1, h and h^2, then e, |e| and e^2 of each prediction's errors e.

    Each group of errors overwrites the one before.

    Args:
        room_23BN: what `_room` returned.
        predicted: heights (B, N) in metres.
        measured_BN: metres.
        known_BN: bool; elsewhere heights and errors are to be 0. Default: any value will do there.
    """
    of_heights, of_errors = room_23BN[:, :, : len(measured_BN)]
    _, height_BN, height_squared_BN = of_heights
    height_BN.copy_(measured_BN)
    # All bits of a float64, or none: on a CPU a quarter of the time of masked_fill_.
    kept_BN = None if known_BN is None else -known_BN.long()
    if kept_BN is not None:
        height_BN.view(torch.int64).bitwise_and_(kept_BN)
    torch.mul(height_BN, height_BN, out=height_squared_BN)
    yield of_heights
    error_BN, absolute_BN, squared_BN = of_errors
    for predicted_BN in predicted:
        error_BN.copy_(predicted_BN).sub_(height_BN)
        if kept_BN is not None:
            error_BN.view(torch.int64).bitwise_and_(kept_BN)
        torch.abs(error_BN, out=absolute_BN)
        torch.mul(error_BN, error_BN, out=squared_BN)
        yield of_errors


def _class_of_bin(device: torch.device) -> Tensor:
    """Return the number of edges in _ON_BINS up to each bin; the last place is for missing heights."""
    # Made on the device, which would have to be waited for to take it from the host.
    bin_ = torch.arange(DENSITY_BINS + 1, device=device)
    class_ = torch.zeros_like(bin_)
    for edge in _ON_BINS:
        class_ += bin_ >= edge
    return class_.masked_fill_(bin_ == DENSITY_BINS, len(NAMES))


def _classes(measured_BN: Tensor, class_of_bin: Tensor) -> Tensor:
    """Return the number of each height's class, int64; len(NAMES) or more where there is no height."""
    bin_BN = _bins(measured_BN).add_(measured_BN - measured_BN).nan_to_num_(DENSITY_BINS).long()
    class_BN = class_of_bin.index_select(0, bin_BN.view(-1)).view(measured_BN.shape)
    for edge in _BETWEEN:
        class_BN += measured_BN >= edge
    return class_BN


def _bins(height_BN: Tensor) -> Tensor:
    """Return the bin of each height, a whole number of the heights' dtype; NaN where it is no number."""
    return (height_BN * _BINS_PER_M).clamp_(0, DENSITY_BINS - 1).trunc_()
