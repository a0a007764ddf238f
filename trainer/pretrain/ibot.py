"""Hidden patches in self-distillation (iBOT, Zhou et al. 2022, arXiv:2111.07832).

The student sees some global crops with patches replaced by a mask token, and learns to give each of them the
target that the teacher gives the same patch of the same crop, which it sees whole.

    noise_BP, share_B = draw_hiding(count, patches, options, key, view)     for the global batch
    hidden_BP = hidden_patches(noise_BP, share_B, valid_BP)                  on the device

Single patches are hidden, at random: crops of small tiles have too few patches for blocks of them. Axis M
runs over the hidden patches of all crops: by view, then tile, then place.
"""

from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from shards.errors import InputError
from trainer.data.step_inputs import StepKey
from trainer.pretrain_config import DinoOptions

HIDING = 801
"""Fourth part of the seed of the first view's hidden patches, after the step's key; the next ones follow."""
TILES = 901
"""Fourth part of the seed of the choice of tiles."""

PATCH_SUMS = 2


def check_hiding(options: DinoOptions, patches: int) -> None:
    """Refuse shares that never hide one of a crop's patches.

    Raises:
        InputError: says which.
    """
    low, high = options.ibot_mask
    hides_some = low * patches >= 1 or high * patches > 1
    if options.ibot and not hides_some:
        raise InputError(
            f"--ibot-mask {low:g} {high:g}: hides none of a global crop's {patches} patches; choose more, or "
            "smaller patches"
        )


def draw_hiding(
    count: int, patches: int, options: DinoOptions, key: StepKey, view: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw for one global view of `count` tiles by which noise_BP patches are hidden, and which share_B.

    The share is 0 in tiles of which nothing is hidden; these are the same in both views.
    """
    chosen_C = np.random.default_rng((*key, TILES)).permutation(count)[: ceil(options.ibot_tiles * count)]
    is_chosen_B = np.zeros(count, np.bool_)
    is_chosen_B[chosen_C] = True
    generator = np.random.default_rng((*key, HIDING + view))
    noise_BP = generator.random((count, patches), np.float32)
    return noise_BP, (generator.uniform(*options.ibot_mask, count) * is_chosen_B).astype(np.float32)


def hidden_patches(noise_BP: Tensor, share_B: Tensor, valid_BP: Tensor) -> Tensor:
    """Return hidden_BP: at most this share of each tile's valid patches, those of the lowest noise."""
    order_BP = torch.where(valid_BP, noise_BP, noise_BP + 1).argsort(dim=1, stable=True)
    place_BP = order_BP.argsort(dim=1)
    valid_B = valid_BP.sum(1)
    # Rounded down, and one valid patch at least is seen: as float32 a share just below 1 is 1.
    count_B = torch.minimum((share_B * valid_B).floor(), valid_B - 1)
    hidden_BP: Tensor = place_BP < count_B[:, None]
    return hidden_BP


def hidden_of(hidden_VBP: Tensor, tiles: slice) -> Tensor:
    """Return is_of_M: whether a hidden patch belongs to one of these tiles."""
    tile_M = hidden_VBP.nonzero()[:, 1]
    is_of_M: Tensor = (tile_M >= tiles.start) & (tile_M < tiles.stop)
    return is_of_M


def patch_sums(targets_MK: Tensor, scores_MK: Tensor, hidden_NP: Tensor, temperature: float) -> Tensor:
    """Return the sum of crops' mean cross entropies, and the number of crops with hidden patches, float64.

    Args:
        targets_MK: the teacher's targets for the hidden patches.
        scores_MK: the student's scores for them.
        hidden_NP: which patches of which crop they are.
        temperature: the student's.
    """
    count_N = hidden_NP.sum(1)
    weight_M = 1 / count_N.repeat_interleave(count_N)
    entropy_M = -(targets_MK * log_softmax(scores_MK.float() / temperature, -1)).sum(-1)
    return torch.stack([(entropy_M * weight_M).sum().double(), (count_N > 0).sum().double()])
