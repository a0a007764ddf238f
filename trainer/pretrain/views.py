"""Views of tiles: crops enlarged to one size, flips, and changes of pixels, on the device, in batches.

    box_B4 = draw_boxes(count, (0.4, 1.0), generator)
    pixels_BCSS, valid_BSS = crop(layers_of(pixels_BCHW, valid_BHW), box_B4, flip_B3, size)

A crop is sampled with the triangle filter that PIL and torch's antialiased interpolation use. Missing pixels
take no part: a crop's pixel is the mean of the valid pixels below the filter, and is missing where less than
half of the filter lies on valid ones.
"""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from shards.errors import InputError

ASPECT = 4 / 3
"""Largest ratio of a crop's sides, as in Inception's crops (Szegedy et al. 2014, arXiv:1409.4842)."""


@dataclass(frozen=True)
class Views:
    """Numbers that make one view of each of B tiles, drawn for a global batch."""

    box_B4: NDArray[np.float32]
    """Top, left, height and width of the crop, as shares of the tile's side."""
    flip_B3: NDArray[np.bool_]
    """Whether to flip columns, to flip rows, and to turn by exchanging rows and columns."""
    shift_BS: NDArray[np.float32]
    """Number added to each stored band, in the band's unit."""
    kept_BC: NDArray[np.bool_]
    """Bands that are kept; others are replaced by their mean."""
    seed_B: NDArray[np.int64]
    """Seed of each view's speckle."""


def draw_boxes(count: int, scale: tuple[float, float], generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw (count, 4) boxes: area even between the two shares, sides' ratio even on a logarithmic scale.

    Where a side would be longer than the tile's, the box takes the whole side and keeps its area.
    """
    area_B = generator.uniform(*scale, count)
    ratio_B = np.exp(generator.uniform(-log(ASPECT), log(ASPECT), count))
    height_B = np.clip(np.sqrt(area_B * ratio_B), area_B, 1)
    width_B = area_B / height_B
    top_B, left_B = generator.random(count) * (1 - height_B), generator.random(count) * (1 - width_B)
    return np.stack([top_B, left_B, height_B, width_B], 1).astype(np.float32)


def layers_of(pixels_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """Return layers_BLHW, from which `crop` cuts: pixels, 0 where missing, then 1 where a pixel is valid."""
    count, bands, *shape = pixels_BCHW.shape
    layers_BLHW = pixels_BCHW.new_empty(count, bands + 1, *shape)
    torch.mul(pixels_BCHW, valid_BHW[:, None], out=layers_BLHW[:, :bands])
    layers_BLHW[:, bands] = valid_BHW
    return layers_BLHW


def crop(
    layers_BLHW: Tensor,
    box_B4: Tensor,
    flip_B3: Tensor,
    size: int,
    shrinks: bool = True,
    turns: bool = True,
    out_BCSS: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cut a box out of each tile, and bring it to `size` x `size`.

    Args:
        layers_BLHW: see `layers_of`.
        box_B4: see Views.
        flip_B3: see Views.
        size: pixels along each side of the view.
        shrinks: whether any box has more pixels along a side than the view.
        turns: whether any view exchanges rows and columns.
        out_BCSS: memory for the pixels; default: new memory.

    Returns:
        pixels_BCSS, 0 where missing; valid_BSS.
    """
    sample = _filtered if shrinks else _interpolated
    seen_BLSS = sample(layers_BLHW, box_B4, flip_B3, size)
    if turns:
        seen_BLSS = torch.where(flip_B3[:, 2, None, None, None], seen_BLSS.mT, seen_BLSS)
    share_B1SS = seen_BLSS[:, -1:]
    valid_B1SS = share_B1SS >= 0.5
    pixels_BCSS = torch.mul(seen_BLSS[:, :-1], valid_B1SS / share_B1SS.clamp(min=0.5), out=out_BCSS)
    return pixels_BCSS, valid_B1SS[:, 0]


def _filtered(layers_BLHW: Tensor, box_B4: Tensor, flip_B3: Tensor, size: int) -> Tensor:
    """Sample views by the triangle filter, as two products of matrices."""
    layers, (rows, columns) = layers_BLHW.shape[1], layers_BLHW.shape[-2:]
    rows_BSH = _filter(_centres(box_B4[:, 0], box_B4[:, 2], flip_B3[:, 1], size), box_B4[:, 2], rows)
    columns_BSW = _filter(_centres(box_B4[:, 1], box_B4[:, 3], flip_B3[:, 0], size), box_B4[:, 3], columns)
    # In this order of axes all layers of a tile are one matrix in both products, without a copy.
    narrow_BSLH = (columns_BSW @ layers_BLHW.flatten(1, 2).mT).unflatten(2, (layers, rows))
    seen_BSLS = (narrow_BSLH.flatten(1, 2) @ rows_BSH.mT).unflatten(1, (size, layers))
    seen_BLSS: Tensor = seen_BSLS.permute(0, 2, 3, 1)
    return seen_BLSS


def _interpolated(layers_BLHW: Tensor, box_B4: Tensor, flip_B3: Tensor, size: int) -> Tensor:
    """Sample views between the four nearest pixels, which is the triangle filter where a box is enlarged."""
    rows_BS = _centres(box_B4[:, 0], box_B4[:, 2], flip_B3[:, 1], size)
    columns_BS = _centres(box_B4[:, 1], box_B4[:, 3], flip_B3[:, 0], size)
    shape = -1, size, size
    grid_BSS2 = torch.stack([columns_BS[:, None].expand(shape), rows_BS[..., None].expand(shape)], -1)
    seen_BLSS: Tensor = grid_sample(
        layers_BLHW, 2 * grid_BSS2 - 1, padding_mode="border", align_corners=False
    )
    return seen_BLSS


def _centres(start_B: Tensor, length_B: Tensor, flipped_B: Tensor, size: int) -> Tensor:
    """Return centres_BS of a view's pixels along an axis, as shares of the tile's side."""
    output_S = torch.arange(size, device=start_B.device) + 0.5
    output_BS = torch.where(flipped_B[:, None], size - output_S, output_S)
    return start_B[:, None] + output_BS * (length_B[:, None] / size)


def _filter(centre_BS: Tensor, length_B: Tensor, pixels: int) -> Tensor:
    """Return weights_BSP that bring `pixels` values of an axis to the values at these centres."""
    places_P = torch.arange(pixels, device=centre_BS.device) + 0.5
    reach_B11 = (length_B * (pixels / centre_BS.shape[1])).clamp(min=1)[:, None, None]
    weights_BSP = (1 - (places_P - pixels * centre_BS[..., None]).abs() / reach_B11).clamp(min=0)
    return weights_BSP / weights_BSP.sum(-1, keepdim=True)


def uniform_noise(seed_B: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """Draw noise_BL.. in (0, 1): `count` layers of `shape`, a function of the seed and the place alone.

    A hash of a counter (the finaliser of SplitMix64, Steele et al. 2014, "Fast splittable pseudorandom number
    generators", cut to 62 bits so that it works on signed integers) gives the same numbers on any device.
    """
    size = torch.Size(shape).numel() * count
    counter_N = torch.arange(size, device=seed_B.device, dtype=torch.int64)
    mixed_BN = (seed_B[:, None] * 0x1E3779B97F4A7C15 + counter_N * 0x2545F4914F6CDD1D) & _BITS
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        mixed_BN = ((mixed_BN ^ (mixed_BN >> shift)) * factor) & _BITS
    mixed_BN = mixed_BN ^ (mixed_BN >> 31)
    high_BN = (mixed_BN >> 38).to(torch.float32)  # 24 bits, which float32 holds exactly
    return ((high_BN + 0.5) / 2**24).view(-1, count, *shape)


_BITS = (1 << 62) - 1


def speckle_decibels(seed_B: Tensor, looks: int, shape: tuple[int, ...]) -> Tensor:
    """Draw speckle in decibels: 10 log10 of gamma noise with mean 1 and `looks` looks, (B, *shape).

    A gamma variable with a whole number of looks is a mean of that many exponential ones (Goodman 1976).
    """
    total: Tensor | None = None
    for look in range(looks):  # one by one, to hold one layer at a time
        drawn = -uniform_noise(seed_B + (look + 1) * 0x51ED27, 1, shape)[:, 0].log()
        total = drawn if total is None else total + drawn
    assert total is not None, "at least one look"
    return 10 * (total / looks).log10()


def crop_sizes(global_size: int, local_size: int, patch_size: int, tile_size: int) -> tuple[int, int]:
    """Return the pixels along each side of global and of local crops; see the options of those names.

    Raises:
        InputError: a size is no multiple of the patch, or larger than a tile.
    """
    whole = global_size or tile_size
    half = local_size or max(1, whole // 2 // patch_size) * patch_size
    for flag, size in (("--global-size", whole), ("--local-size", half)):
        if size > tile_size:
            raise InputError(f"{flag} {size}: is larger than a tile, {tile_size} pixels")
        if size % patch_size:
            raise InputError(f"{flag} {size}: is no multiple of a patch, {patch_size} pixels")
    return whole, half
