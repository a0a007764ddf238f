"""Views of tiles: crops without missing pixels, flips, speckle; the same numbers in any batch."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from shards.errors import InputError
from trainer.pretrain.views import (
    ASPECT,
    crop,
    crop_sizes,
    draw_boxes,
    layers_of,
    speckle_decibels,
    uniform_noise,
)

NO_FLIP = torch.zeros(1, 3, dtype=torch.bool)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def tile(size: int = 32, bands: int = 3) -> torch.Tensor:
    return torch.randn(1, bands, size, size, generator=torch.Generator().manual_seed(3))


def everywhere(pixels: torch.Tensor) -> torch.Tensor:
    return torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool)


def test_the_whole_tile_at_its_own_size_is_the_tile() -> None:
    pixels = tile()
    seen, valid = crop(layers_of(pixels, everywhere(pixels)), WHOLE, NO_FLIP, 32)
    torch.testing.assert_close(seen, pixels, rtol=0, atol=1e-5)
    assert valid.all()


@pytest.mark.parametrize(("rows", "columns", "size"), [(16, 16, 32), (24, 12, 16), (32, 32, 16), (8, 20, 24)])
def test_a_crop_is_torchs_antialiased_interpolation(rows: int, columns: int, size: int) -> None:
    """Inside the crop; at its border the crop also sees the pixels beyond."""
    pixels, top, left = tile(), 4 if rows < 28 else 0, 6 if columns < 26 else 0
    box = torch.tensor([[top / 32, left / 32, rows / 32, columns / 32]])
    seen, _ = crop(layers_of(pixels, everywhere(pixels)), box, NO_FLIP, size)
    cut = pixels[..., top : top + rows, left : left + columns]
    expected = interpolate(cut, (size, size), mode="bilinear", antialias=True)
    inner = slice(3, -3)
    torch.testing.assert_close(seen[..., inner, inner], expected[..., inner, inner], rtol=0, atol=1e-4)


def test_an_enlarged_box_is_the_same_by_either_way() -> None:
    generator = np.random.default_rng(5)
    pixels = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    valid = torch.rand(20, 32, 32, generator=torch.Generator().manual_seed(4)) < 0.9
    box_B4 = torch.from_numpy(draw_boxes(20, (0.1, 1.0), generator))
    flip_B3 = torch.from_numpy(generator.random((20, 3)) < 0.5)
    layers = layers_of(pixels, valid)
    one, known = crop(layers, box_B4, flip_B3, 40, shrinks=False)
    other, same = crop(layers, box_B4, flip_B3, 40, shrinks=True)
    agree = known == same  # a share of a half may be rounded either way
    assert agree.float().mean() > 0.999
    torch.testing.assert_close(one * agree[:, None], other * agree[:, None], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("flips", "undo"),
    [
        ([True, False, False], lambda seen: seen.flip(-1)),
        ([False, True, False], lambda seen: seen.flip(-2)),
        ([False, False, True], lambda seen: seen.mT),
    ],
)
def test_flips_and_turns_are_exact(flips: list[bool], undo: object) -> None:
    pixels, box = tile(), torch.tensor([[0.1, 0.2, 0.5, 0.7]])
    plain, _ = crop(layers_of(pixels, everywhere(pixels)), box, NO_FLIP, 16)
    turned, _ = crop(layers_of(pixels, everywhere(pixels)), box, torch.tensor([flips]), 16)
    torch.testing.assert_close(undo(turned), plain, rtol=0, atol=1e-5)  # type: ignore[operator]


def test_missing_pixels_reach_no_crop() -> None:
    """Whatever is stored where a pixel is missing, the crop is the same; a constant stays the constant."""
    pixels = torch.ones(1, 2, 32, 32)
    valid = everywhere(pixels)
    valid[0, 5:19, 11:30] = False
    seen = []
    for stored in (0.0, 1e6, -7.0):
        spoilt = pixels.clone()
        spoilt[0, :, 5:19, 11:30] = stored
        seen.append(crop(layers_of(spoilt, valid), torch.tensor([[0.05, 0.1, 0.8, 0.8]]), NO_FLIP, 24))
    (first, known), *others = seen
    for view, same in others:
        assert torch.equal(view, first)
        assert torch.equal(same, known)
    assert 0.2 < known.float().mean() < 0.9
    torch.testing.assert_close(first[0, 0][known[0]], torch.ones(int(known.sum())), rtol=0, atol=1e-5)
    assert not first[0, 0][~known[0]].any()


def test_boxes_have_the_area_and_the_sides_that_were_asked_for() -> None:
    box_B4 = draw_boxes(5000, (0.05, 0.4), np.random.default_rng(0))
    top_B, left_B, height_B, width_B = box_B4.T
    area_B = height_B * width_B
    assert 0.0499 < area_B.min() < 0.06 < 0.39 < area_B.max() < 0.4001
    assert np.abs(area_B.mean() - 0.225) < 0.01
    ratio_B = height_B / width_B
    assert 1 / ASPECT - 1e-3 < ratio_B.min() < 0.8 < 1.25 < ratio_B.max() < ASPECT + 1e-3
    assert min(top_B.min(), left_B.min()) >= 0
    assert max((top_B + height_B).max(), (left_B + width_B).max()) <= 1 + 1e-6
    assert np.allclose(draw_boxes(9, (1.0, 1.0), np.random.default_rng(1)), [0, 0, 1, 1])


def test_noise_is_a_function_of_seed_and_place_alone() -> None:
    seeds = torch.tensor([3, 1 << 39, 77])
    noise = uniform_noise(seeds, 2, (8, 8))
    assert torch.equal(noise[1:], uniform_noise(seeds[1:], 2, (8, 8)))
    assert 0 < noise.min() < noise.max() < 1
    many = uniform_noise(torch.arange(64), 1, (64, 64)).flatten()
    assert abs(float(many.mean()) - 0.5) < 2e-3
    assert abs(float(many.var()) - 1 / 12) < 1e-3
    rows = uniform_noise(torch.arange(200), 1, (500,))[:, 0]
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.25  # 1 / sqrt(500) is 0.045


@pytest.mark.parametrize("looks", [1, 4, 10])
def test_speckle_has_the_looks_that_were_asked_for(looks: int) -> None:
    intensity = 10 ** (speckle_decibels(torch.arange(20), looks, (100, 100)).double() / 10)
    assert float(intensity.mean()) == pytest.approx(1, abs=0.01)
    assert float(intensity.mean() ** 2 / intensity.var()) == pytest.approx(looks, rel=0.03)


def test_sizes_of_crops_are_whole_patches_within_a_tile() -> None:
    assert crop_sizes(0, 0, 16, 448) == (448, 224)
    assert crop_sizes(0, 0, 16, 112) == (112, 48)
    assert crop_sizes(224, 96, 16, 448) == (224, 96)
    for sizes, said in (((240, 100, 16, 448), "--local-size 100"), ((512, 96, 16, 448), "--global-size 512")):
        with pytest.raises(InputError, match=said):
            crop_sizes(*sizes)
