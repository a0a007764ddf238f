"""Sums on the device that no order changes: of the pixels of a chip, in a fixed order, and of chips, exactly.

total_B = chip_totals(values_BHW)            each chip's in float64, whatever the other chips are
sums_XL = exact_sums(values_BX)              add up with + (trainer.score.exact_totals)

A GPU sums floats in another order for another shape, and where additions meet in one place, in another order
in each run. So there only additions of two tensors and sums of integers are used.
"""

import torch
from torch import Tensor

from trainer.score.exact_totals import LIMB_BITS, WIDTH

_FRACTION_BITS, _EXPONENT = 52, 0x7FF
"""Layout of a float64: fraction, then 11 bits of exponent, then the sign (IEEE 754)."""
_LIMB, _LOG2_BITS = (1 << LIMB_BITS) - 1, LIMB_BITS.bit_length() - 1


def chip_totals(values_BX: Tensor) -> Tensor:
    """Sum the values of each chip in float64, without gradients: total_B.

    The order depends on the number of a chip's values alone.
    """
    rows_BN = values_BX.detach().flatten(1)
    if rows_BN.dtype == torch.bool:  # a count is exact in any order
        return rows_BN.sum(1).double()
    if rows_BN.device.type != "cpu":
        return folded(rows_BN.to(torch.float64, copy=True), 1)
    # A CPU sums each of several rows alone, in one order, but shares a single one out among its threads.
    rows_BN = rows_BN.double()
    return rows_BN.sum(1) if len(rows_BN) != 1 else rows_BN.expand(2, -1).contiguous().sum(1)[:1]


def folded(values: Tensor, axis: int) -> Tensor:
    """Sum over `axis` by adding its second half to the first until one value is left; spoils `values`."""
    if not values.shape[axis]:
        return values.sum(axis)
    while (count := values.shape[axis]) > 1:
        half = (count + 1) // 2
        values.narrow(axis, 0, count - half).add_(values.narrow(axis, half, count - half))
        values = values.narrow(axis, 0, half)
    return values.select(axis, 0)


def exact_sums(values_BX: Tensor) -> Tensor:
    """Sum over the first axis exactly: sums_XL, int64 (..., WIDTH); see trainer.score.exact_totals.

    A value adds less than 2^33 to a limb, so there is room for 2^29 chips.
    """
    values_BN = values_BX.detach().double().reshape(len(values_BX), values_BX[0].numel()).contiguous()
    bits_BN = values_BN.view(torch.int64)
    exponent_BN = (bits_BN >> _FRACTION_BITS) & _EXPONENT
    finite_BN = exponent_BN != _EXPONENT
    fraction_BN = bits_BN & ((1 << _FRACTION_BITS) - 1)
    mantissa_BN = (fraction_BN | ((exponent_BN > 0).long() << _FRACTION_BITS)) * finite_BN
    # Numbers below 2^-1022 have the exponent 0 and the place of those with exponent 1.
    place_BN = exponent_BN.clamp(min=1) - 1
    # 32 bits a limb: shifts, since integers are divided slowly.
    first_BN, shift_BN = place_BN >> _LOG2_BITS, place_BN & (LIMB_BITS - 1)
    low_BN = (mantissa_BN & _LIMB) << shift_BN
    high_BN = (mantissa_BN >> LIMB_BITS) << shift_BN
    middle_BN = (low_BN >> LIMB_BITS) + (high_BN & _LIMB)
    pieces_3BN = torch.stack([low_BN & _LIMB, middle_BN, high_BN >> LIMB_BITS])
    pieces_3BN *= torch.where(bits_BN < 0, -1, 1)
    limbs_3BN = torch.stack([first_BN, first_BN + 1, first_BN + 2])
    count = values_BN.shape[1]
    sums_NL = torch.zeros(count, WIDTH, dtype=torch.int64, device=values_BN.device)
    sums_NL.scatter_add_(1, limbs_3BN.view(-1, count).T, pieces_3BN.view(-1, count).T)
    sums_NL[:, -1] = (~finite_BN).sum(0)
    return sums_NL.view(*values_BX.shape[1:], WIDTH)


def counted(places: Tensor, bins: int) -> Tensor:
    """Count how often each number from 0 to `bins` - 1 is in the int64 `places`, of any shape.

    torch.bincount would wait for the device, which has to tell it the largest number.
    """
    count = torch.zeros(bins, dtype=torch.int64, device=places.device)
    return count.scatter_add_(0, places.reshape(-1), torch.ones_like(places).view(-1))
