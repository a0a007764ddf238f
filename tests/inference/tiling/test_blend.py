"""Overlapping windows become one block: the same bits however a scene is cut, and what brute force gives."""

from itertools import product

import numpy as np
import pytest
import torch
from regressors import SCHEMA, SMALL_DECODER, small_regressor, stored_images
from torch import Tensor

from inference.predict.block import predict_block
from inference.predict.map_options import MapOptions, Weighting
from inference.tiling.blend import Axis, Blend, window_weights
from inference.tiling.halo import Halo, halo_block
from inference.tiling.windows import Block, Span, WindowGrid, blocks_of
from trainer.decoders.features import DecoderConfig
from trainer.devices.choice import Precision
from trainer.model.regressor import Regressor
from trainer.model.symmetries import SYMMETRIES, turned, turned_back

SHAPE = 93, 131
GRIDS = [WindowGrid(size, step) for size, step in ((16, 16), (16, 8), (16, 12), (32, 8), (48, 20), (64, 1))]


def value(row: int, column: int, size: int) -> Tensor:
    """What a window "predicts": numbers of its own."""
    generator = torch.Generator().manual_seed(1000 * row + column)
    return torch.rand(size, size, generator=generator) * 30


def blended(block: Block, grid: WindowGrid, weighting: Weighting) -> Tensor:
    rows = Axis(block.rows, grid.starts(block.rows, SHAPE[0]), grid)
    columns = Axis(block.columns, grid.starts(block.columns, SHAPE[1]), grid)
    blend = Blend(rows, columns, weighting, torch.device("cpu"))
    for row in rows.starts:
        blend.add(row, torch.stack([value(row, column, grid.size) for column in columns.starts]))
    return blend.mean()


@pytest.mark.parametrize("weighting", ["triangle", "cosine", "flat"])
@pytest.mark.parametrize("grid", GRIDS[:-1], ids=lambda grid: f"{grid.size}-every-{grid.step}")
def test_a_pixel_is_the_weighted_mean_of_its_windows(grid: WindowGrid, weighting: Weighting) -> None:
    whole = Block(Span(0, SHAPE[0]), Span(0, SHAPE[1]))
    blend_HW = blended(whole, grid, weighting).double()
    padded = SHAPE[0] + grid.size, SHAPE[1] + grid.size
    total_HW, weights_HW = torch.zeros(padded).double(), torch.zeros(padded).double()
    side = torch.from_numpy(window_weights(weighting, grid.size)).double()
    for row, column in product(grid.starts(whole.rows, SHAPE[0]), grid.starts(whole.columns, SHAPE[1])):
        place = slice(row, row + grid.size), slice(column, column + grid.size)
        total_HW[place] += side[:, None] * side * value(row, column, grid.size)
        weights_HW[place] += side[:, None] * side
    expected_HW = (total_HW / weights_HW)[: SHAPE[0], : SHAPE[1]]
    torch.testing.assert_close(blend_HW, expected_HW, rtol=2e-6, atol=0)


@pytest.mark.parametrize("grid", GRIDS[:-1], ids=lambda grid: f"{grid.size}-every-{grid.step}")
def test_the_bits_do_not_depend_on_the_blocks(grid: WindowGrid) -> None:
    whole_HW = blended(Block(Span(0, SHAPE[0]), Span(0, SHAPE[1])), grid, "triangle")
    for size in (7, 20, 64):
        for block in blocks_of(*SHAPE, size):
            part_HW = whole_HW[block.rows.start : block.rows.stop, block.columns.start : block.columns.stop]
            assert torch.equal(blended(block, grid, "triangle"), part_HW), (size, block)


def test_turning_back_undoes_turning() -> None:
    array = torch.arange(24).reshape(2, 3, 4)
    for symmetry in range(SYMMETRIES):
        assert torch.equal(turned_back(turned(array, symmetry), symmetry), array)


def stored(regressor: Regressor, image_CHW: np.ndarray, method: MapOptions) -> np.ndarray:
    """stored_CHW of a whole scene, as one block."""
    shape = image_CHW.shape[1:]
    block = Block(Span(0, shape[0]), Span(0, shape[1]))
    read = halo_block(block, method.grid, shape)
    return predict_block(
        regressor, block, Halo(image_CHW, read.rows.start, read.columns.start, shape), method
    )


@pytest.mark.slow
def test_with_all_symmetries_a_turned_scene_gives_the_turned_map() -> None:
    """On sides that the windows fit into; rounding apart."""
    regressor, image_CHW = small_regressor(), stored_images(1, 96, 128)[0]
    method = MapOptions(WindowGrid(64, 32), symmetries=8, batch_size=4)
    expected_HW = stored(regressor, image_CHW, method)[0]
    assert (expected_HW != stored(regressor, image_CHW, MapOptions(WindowGrid(64, 32)))[0]).any()
    for symmetry in range(SYMMETRIES):
        turned_CHW = turned(torch.from_numpy(image_CHW), symmetry).contiguous().numpy()
        map_HW = torch.from_numpy(stored(regressor, turned_CHW, method)[0])
        difference_HW = (turned_back(map_HW, symmetry).numpy() - expected_HW).astype(int)
        assert np.abs(difference_HW).max() <= 1
        assert (difference_HW == 0).mean() > 0.995


@pytest.mark.parametrize("kind", ["residual", "dpt"])
def test_the_spread_is_that_of_the_windows_predictions(kind: str) -> None:
    """Brute force over the windows of a pixel, their turns, and for `dpt` the height bins of each."""
    decoder = SMALL_DECODER if kind == "residual" else DecoderConfig((32, 16, 16, 8), kind="dpt")
    regressor, image_CHW = small_regressor(decoder=decoder), stored_images(1, 96, 96)[0]
    grid = WindowGrid(64, 32)
    spread_HW = stored(regressor, image_CHW, MapOptions(grid, "flat", 4, symmetries=8, spread=True))[1]
    row, column = 40, 50
    values, variances = [], []
    for top, left, symmetry in product((0, 32), (0, 32), range(SYMMETRIES)):
        window = torch.from_numpy(image_CHW[None, :, top : top + 64, left : left + 64].copy())
        with torch.inference_mode():
            pixels_BCHW = turned(regressor.normalise(window)[0], symmetry)
            features = regressor.features(pixels_BCHW)
            height_HW = turned_back(regressor.decode(features, pixels_BCHW)[0].clamp(min=0), symmetry)
            values.append(height_HW[row - top, column - left].item())
            if kind == "dpt":
                of_bins_HW = turned_back(regressor.decoder.spread(features, pixels_BCHW)[0], symmetry)
                variances.append(of_bins_HW[row - top, column - left].item() ** 2)
    expected_m = (np.var(values) + (np.mean(variances) if variances else 0)) ** 0.5
    assert expected_m > 0.02, "a spread of nothing proves nothing"
    assert spread_HW[row, column] == pytest.approx(100 * expected_m, abs=0.6)


@pytest.mark.slow
def test_the_height_is_the_same_with_and_without_spread() -> None:
    regressor, image_CHW = small_regressor(), stored_images(1, *SHAPE, missing=0.01)[0]
    for options in ({}, {"weighting": "cosine", "symmetries": 8}):
        alone = stored(regressor, image_CHW, MapOptions(WindowGrid(48, 24), **options))
        both = stored(regressor, image_CHW, MapOptions(WindowGrid(48, 24), spread=True, **options))
        assert (len(alone), len(both)) == (1, 2)
        assert np.array_equal(alone[0], both[0])
        assert np.array_equal(both[0] == SCHEMA.nodata, both[1] == SCHEMA.nodata)


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    """Workers of Ray have one, a process on its own has all: a batch on several threads has other bits."""
    regressor, image_CHW = small_regressor(), stored_images(1, 224, 256)[0]
    method, threads = MapOptions(WindowGrid(64, 32), batch_size=4, spread=True), torch.get_num_threads()
    maps = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        maps.append(stored(regressor, image_CHW, method))
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


def test_windows_may_be_as_large_as_one_likes() -> None:
    """One window over the whole scene is the regressor's own answer."""
    regressor, image_CHW = small_regressor(), stored_images(1, 128, 128)[0]
    heights_BHW, _ = regressor.predict(torch.from_numpy(image_CHW[None]))
    map_HW = stored(regressor, image_CHW, MapOptions(WindowGrid(128, 96), batch_size=1))[0]
    # Decimetres apart only where the rounding of another number of threads tips the scale.
    difference_HW = map_HW - np.rint(heights_BHW[0].numpy() * 10)
    assert np.abs(difference_HW).max() <= 1
    assert (difference_HW == 0).mean() > 0.999


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_is_close(half: Precision) -> None:
    regressor, image_CHW = small_regressor(), stored_images(1, 96, 96)[0]
    exact, rounded = (
        stored(regressor, image_CHW, options)[0].astype(int)
        for options in (MapOptions(WindowGrid(64, 32)), MapOptions(WindowGrid(64, 32), precision=half))
    )
    assert (exact != rounded).any()
    assert np.abs(exact - rounded).max() <= 0.05 * exact.max()
