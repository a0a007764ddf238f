"""Hidden patches in self-distillation (iBOT, Zhou et al. 2022, arXiv:2111.07832).

The student sees some global crops with patches replaced by a mask token, and learns to give each of them the
target that the teacher gives the same patch of the same crop, which it sees whole.

    noise_BP, share_B = draw_hiding(count, patches, options, key, view)     for the global batch
    is_hidden_BP = hidden_patches(noise_BP, share_B, is_valid_BP)            for this rank's crops
    hidden = Hidden.of(is_hidden_BP, device)

Single patches are hidden at random: crops of small tiles have too few patches for blocks of them. Axis M runs
over the hidden patches of all crops: by view, then tile, then place. The host chooses them, so it knows their
number and need not wait for the device.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from shards.errors import InputError
from trainer.data.step_inputs import StepKey
from trainer.devices.transfer import to_device
from trainer.pretrain_config import DinoOptions

HIDING = 801
"""Fourth part of the seed of the first view's hidden patches, after the step's key; the next ones follow."""
TILES = 901
"""Fourth part of the seed of the choice of tiles."""

PATCH_SUMS = 2


@dataclass(frozen=True)
class Hidden:
    """Patches of N crops that the student does not see."""

    is_hidden_NP: NDArray[np.bool_]
    """Mask of the hidden patches, on the host."""
    mask_NP: Tensor
    """The same mask on the device."""
    places_2M: Tensor
    """Crop of each hidden patch, and its place in the crop, counted from the last patch, which is -1."""
    weights_M: Tensor
    """Weight of each hidden patch: 1 / number of hidden patches in its crop."""

    @classmethod
    def of(cls, is_hidden_NP: NDArray[np.bool_], device: torch.device) -> Self:
        """Make the masks, places and weights; their copies to `device` are queued."""
        crop_M, place_M = is_hidden_NP.nonzero()
        weights_M = np.float32(1) / is_hidden_NP.sum(1)[crop_M].astype(np.float32)
        places_2M = np.stack([crop_M, place_M - is_hidden_NP.shape[1]])
        return cls(
            is_hidden_NP, *(to_device(array, device) for array in (is_hidden_NP, places_2M, weights_M))
        )

    def tokens(self, tokens_NTD: Tensor) -> Tensor:
        """Take the tokens_MD of these patches, which stand after class token and registers."""
        crop_M, place_M = self.places_2M
        return tokens_NTD[crop_M, place_M]


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
    """Draw noise_BP, by which patches are hidden, and share_B of them, for one global view of `count` tiles.

    The share is 0 in tiles that hide no patch; these are the same in both views.
    """
    chosen_C = np.random.default_rng((*key, TILES)).permutation(count)[: ceil(options.ibot_tiles * count)]
    is_chosen_B = np.zeros(count, np.bool_)
    is_chosen_B[chosen_C] = True
    generator = np.random.default_rng((*key, HIDING + view))
    noise_BP = generator.random((count, patches), np.float32)
    return noise_BP, (generator.uniform(*options.ibot_mask, count) * is_chosen_B).astype(np.float32)


def hidden_patches(
    noise_BP: NDArray[np.float32], share_B: NDArray[np.float32], is_valid_BP: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return is_hidden_BP: at most this share of each tile's valid patches, those of the lowest noise."""
    order_BP = np.where(is_valid_BP, noise_BP, noise_BP + np.float32(1)).argsort(1, kind="stable")
    place_BP = order_BP.argsort(1)
    valid_B = is_valid_BP.sum(1).astype(np.float32)
    # Rounded down, and one valid patch at least is seen: as float32 a share just below 1 is 1.
    count_B = np.minimum(np.floor(share_B * valid_B), valid_B - 1)
    is_hidden_BP: NDArray[np.bool_] = place_BP < count_B[:, None]
    return is_hidden_BP


def hidden_of(is_hidden_VBP: NDArray[np.bool_], tiles: slice) -> NDArray[np.bool_]:
    """Return is_of_M: whether a hidden patch belongs to one of these tiles."""
    tile_M = is_hidden_VBP.nonzero()[1]
    is_of_M: NDArray[np.bool_] = (tile_M >= tiles.start) & (tile_M < tiles.stop)
    return is_of_M


def patch_sums(targets_MK: Tensor, scores_MK: Tensor, hidden: Hidden, temperature: float) -> Tensor:
    """Return the sum of crops' mean cross entropies, and the number of crops with hidden patches, float64.

    Args:
        targets_MK: the teacher's targets for the hidden patches.
        scores_MK: the student's scores for them.
        hidden: which patches of which crop they are.
        temperature: the student's.
    """
    entropy_M = -(targets_MK * log_softmax(scores_MK.float() / temperature, -1)).sum(-1)
    total = (entropy_M * hidden.weights_M).sum().double()
    return torch.stack([total, torch.full_like(total, crops_with(hidden))])


def crops_with(hidden: Hidden) -> int:
    """Return the number of crops with hidden patches."""
    return int(np.count_nonzero(hidden.is_hidden_NP.any(1)))
