"""Augmentation, held against numbers computed by hand or by NumPy.

- The eight symmetries are distinct, turn image and height alike, and do not depend on the number of ranks.
- Crops are cut from where they were drawn, everywhere in a chip, from image and height alike.
- Bands are brightened around 1 and dropped as often as asked; one always stays; the same place, the same.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
from regressors import statistics_of

from shards.errors import InputError
from shards.format.schema import Schema
from shards.read.order import rank_part
from trainer.chip_options import AugmentOptions
from trainer.data.augment import band_changes, check_crop, corners_of, symmetries_of
from trainer.fit.pixel_inputs import cropped
from trainer.model.normalise import Normalise
from trainer.model.symmetries import SYMMETRIES, apply_symmetries, turned

# --- symmetries ---


def test_the_eight_symmetries_are_distinct_and_move_no_value_in_or_out() -> None:
    square = torch.arange(9).reshape(3, 3)
    results = [turned(square, symmetry) for symmetry in range(SYMMETRIES)]
    assert SYMMETRIES == 8
    assert torch.equal(results[0], square)
    assert not any(torch.equal(one, other) for one, other in combinations(results, 2))
    for result in results:
        assert sorted(result.flatten().tolist()) == list(range(9))


def test_image_and_height_are_turned_alike_each_chip_by_its_own_symmetry() -> None:
    generator = torch.Generator().manual_seed(0)
    height_BHW = torch.rand(16, 8, 8, generator=generator)
    image_BCHW = torch.stack([height_BHW, -height_BHW], 1)
    before = image_BCHW.clone(), height_BHW.clone()
    symmetries_B = np.arange(16) % 8
    turned_BCHW, turned_BHW = apply_symmetries(symmetries_B, image_BCHW, height_BHW)
    assert torch.equal(turned_BCHW, torch.stack([turned_BHW, -turned_BHW], 1))
    for place, symmetry in enumerate(symmetries_B):
        assert torch.equal(turned_BHW[place], turned(height_BHW[place], int(symmetry)))
    assert torch.equal(image_BCHW, before[0]), "the stored pixels stay as they are"
    assert torch.equal(height_BHW, before[1])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_images_of_every_stored_type_are_turned(dtype: str) -> None:
    image_BCHW = np.random.default_rng(0).integers(0, 255, (8, 2, 4, 4)).astype(dtype)
    (turned_BCHW,) = apply_symmetries(np.arange(8), torch.from_numpy(image_BCHW))
    as_float = apply_symmetries(np.arange(8), torch.from_numpy(image_BCHW.astype("f4")))
    np.testing.assert_array_equal(turned_BCHW.numpy(), as_float[0].numpy().astype(dtype))
    assert turned_BCHW.numpy().dtype == dtype


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16, 20])
def test_a_chip_is_turned_alike_whatever_the_number_of_ranks(world_size: int) -> None:
    """Ranks apply their part of the global batch's symmetries to their part of its chips."""
    size, height_BHW = 16, torch.rand(16, 4, 4, generator=torch.Generator().manual_seed(1))
    symmetries = symmetries_of(size, seed=3, epoch=2, seen=7)
    whole_BHW = apply_symmetries(symmetries, height_BHW)[0]
    start, met = 112, []
    for rank in range(world_size):
        chips = rank_part(np.arange(size), start, rank, world_size)
        part_BHW = height_BHW[torch.from_numpy(chips)]
        mine = rank_part(symmetries_of(size, seed=3, epoch=2, seen=7), start, rank, world_size)
        turned_BHW = apply_symmetries(mine, part_BHW)[0]
        assert torch.equal(turned_BHW, whole_BHW[torch.from_numpy(chips)])
        met += chips.tolist()
    assert sorted(met) == list(range(size))


def test_symmetries_depend_on_seed_epoch_and_step_and_use_all_eight() -> None:
    drawn = [symmetries_of(64, *at).tolist() for at in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert all(one != other for one, other in combinations(drawn, 2))
    assert symmetries_of(64, 0, 0, 0).tolist() == drawn[0]
    assert set(drawn[0]) == set(range(8))


def test_bands_are_brightened_around_1_and_dropped_as_often_as_asked() -> None:
    changes_BCK = band_changes((20_000, 4), (1, 2, 3), AugmentOptions(brightness=0.1, band_dropout=0.25))
    assert changes_BCK is not None
    assert changes_BCK.shape == (20_000, 4, 4)
    assert changes_BCK[..., 0].mean() == pytest.approx(1.0, abs=0.002)
    assert changes_BCK[..., 0].std() == pytest.approx(0.1, abs=0.002)
    # A quarter of the bands, but for the one of the four that stays: 0.25 * 3 / 4.
    assert 1 - changes_BCK[..., 1].mean() == pytest.approx(0.1875, abs=0.005)
    assert changes_BCK[..., 1].max(1).min() == 1
    again = band_changes((20_000, 4), (1, 2, 3), AugmentOptions(brightness=0.1, band_dropout=0.25))
    np.testing.assert_array_equal(changes_BCK, again)
    assert band_changes((3, 4), (1, 2, 3), AugmentOptions()) is None


def test_a_changed_band_is_brighter_or_its_mean() -> None:
    statistics = statistics_of({"nir": (100.0, 0.5, 0.25), "red": (100.0, 0.25, 0.5)})
    layer = Normalise(Schema(("nir", "red"), nodata=-1), ("nir", "red"), statistics)
    image_BCHW = torch.tensor([50, 50, -1, -1], dtype=torch.int16).reshape(1, 2, 1, 2)
    changes_BCK = torch.tensor([[[1.5, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]])
    pixels_BCHW, valid_BHW = layer(image_BCHW, changes_BCK)
    # (0.5 * 1.5 - 0.5) / 0.25 = 1, and red is left out: 0, its mean.
    assert pixels_BCHW.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert torch.equal(valid_BHW, layer(image_BCHW)[1])


def test_jitter_is_in_deviations_around_the_mean() -> None:
    changes_BCK = band_changes((20_000, 3), (1, 2, 3), AugmentOptions(jitter=0.2))
    assert changes_BCK is not None
    means, deviations = changes_BCK.mean((0, 1)), changes_BCK.std((0, 1))
    assert means.tolist() == pytest.approx([1, 1, 1, 0], abs=0.005)
    assert deviations.tolist() == pytest.approx([0, 0, 0.2, 0.2], abs=0.005)
    statistics = statistics_of({"nir": (100.0, 0.5, 0.25)})
    layer = Normalise(Schema(("nir",), nodata=-1), ("nir",), statistics)
    image_BCHW = torch.tensor([75, 50, -1, 25], dtype=torch.int16).reshape(1, 1, 2, 2)
    # 1, 0 and -1 deviations from the mean, twice as far away and half a deviation higher; -1 is missing.
    pixels_BCHW, _ = layer(image_BCHW, torch.tensor([[[1.0, 1.0, 2.0, 0.5]]]))
    assert pixels_BCHW.flatten().tolist() == [2.5, 0.5, 0.0, -1.5]


# --- crops ---


def test_a_crop_is_cut_from_where_it_was_drawn_from_image_and_height_alike() -> None:
    image_BCHW = torch.arange(3 * 2 * 12 * 12, dtype=torch.int16).reshape(3, 2, 12, 12)
    height_BHW = image_BCHW[:, 1].float()
    corners_B2 = torch.tensor([[0, 0], [3, 4], [4, 1]])
    of_image_BCHW, of_height_BHW = cropped(8, corners_B2, image_BCHW, height_BHW)
    assert (of_image_BCHW.dtype, of_height_BHW.dtype) == (torch.int16, torch.float32)
    for chip, (row, column) in enumerate(corners_B2.tolist()):
        expected_CHW = image_BCHW[chip, :, row : row + 8, column : column + 8]
        assert torch.equal(of_image_BCHW[chip], expected_CHW)
        assert torch.equal(of_height_BHW[chip], expected_CHW[1].float())


def test_corners_reach_everywhere_and_depend_on_seed_epoch_and_step() -> None:
    corners_B2 = corners_of(20_000, 4, 0, 1, 2)
    _, counts = np.unique(corners_B2, axis=0, return_counts=True)
    assert len(counts) == 25
    assert counts.min() > 0.8 * counts.mean()
    drawn = [corners_of(64, 9, *at).tolist() for at in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert all(one != other for one, other in combinations(drawn, 2))
    assert corners_of(64, 9, 0, 0, 0).tolist() == drawn[0]


def test_crops_that_are_no_whole_patches_are_refused() -> None:
    check_crop(0, 16)
    check_crop(32, 16)
    with pytest.raises(InputError, match="--crop 40: is no multiple of the backbone's patch, 16 pixels"):
        check_crop(40, 16)
