"""Choice of the patches of a tile that are hidden: numbers in, masks out.

shown_BV = shown_patches(noise_BN, valid_BN, shown_count(16, 0.75))
"""

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from shards.errors import InputError


def shown_count(patches: int, ratio: float) -> int:
    """Return the number of a tile's patches that the encoder sees.

    Raises:
        InputError: all or none would be hidden.
    """
    shown = patches - round(patches * ratio)
    if not 1 <= shown < patches:
        raise InputError(
            f"--mask-ratio {ratio:g}: shows {shown} of a tile's {patches} patches; choose another, or "
            "smaller patches"
        )
    return shown


def shown_patches(noise_BN: Tensor, valid_BN: Tensor, count: int) -> Tensor:
    """Return the numbers (B, count) of the patches to show: valid ones first, by lowest noise, ascending."""
    # Patches with missing pixels come last, so that they are shown only where too few others are left.
    ranked_BN = torch.where(valid_BN, noise_BN, noise_BN + 1)
    order_BN = torch.argsort(ranked_BN, dim=1, stable=True)
    shown_BV: Tensor = order_BN[:, :count].sort(1).values
    return shown_BV


def hidden_patches(shown_BV: Tensor, patches: int) -> Tensor:
    """Return the numbers (B, patches - V) of the patches that are not shown, ascending."""
    is_shown_BN = shown_BV.new_zeros(len(shown_BV), patches).scatter(1, shown_BV, 1)
    order_BN = torch.argsort(is_shown_BN, dim=1, stable=True)
    hidden_BM: Tensor = order_BN[:, : patches - shown_BV.shape[1]]
    return hidden_BM


def groups_of(bands: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of each group's bands.

    Raises:
        InputError: a pattern matches no band.
    """
    groups = []
    for pattern in patterns:
        found = tuple(place for place, band in enumerate(bands) if fnmatchcase(band, pattern))
        if not found:
            raise InputError(f"--band-groups {pattern}: matches none of the bands {' '.join(bands)}")
        groups.append(found)
    return tuple(groups)
