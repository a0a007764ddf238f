"""Windows are cut on the device: what it is asked for does not grow with the windows of a row."""

import numpy as np
import torch
from dispatched import Counted
from torch import Tensor

from inference.predict.map_options import MapOptions
from inference.predict.ready_block import ReadyBlock
from inference.predict.window_batches import WindowBatches
from inference.tiling.blend import Blend, axes_of
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span, WindowGrid

CPU = torch.device("cpu")


def ready(image_CHW: np.ndarray, valid_HW: np.ndarray) -> ReadyBlock:
    """A scene as one block."""
    shape = image_CHW.shape[1:]
    block = Block(Span(0, shape[0]), Span(0, shape[1]))
    return ReadyBlock(block, Halo(image_CHW, 0, 0, shape), valid_HW, torch.from_numpy(image_CHW))


def first_band(image_BCHW: Tensor) -> Tensor:
    """A model that costs nothing."""
    return image_BCHW[:, :1].float()


def asked(columns: int, batch_size: int) -> tuple[int, int, int]:
    """Kernels, copies and waits for a block of 5 rows of windows, which has a hole."""
    height, width = 32 * 6, 32 * (columns + 1)
    image_CHW = np.random.default_rng(5).integers(0, 9000, (3, height, width)).astype(np.uint16)
    valid_HW = np.ones((height, width), np.bool_)
    valid_HW[64:128, 64:128] = False
    method, block = MapOptions(WindowGrid(64, 32), batch_size=batch_size), ready(image_CHW, valid_HW)
    axes = axes_of(block.block, method.grid, (height, width))
    with Counted() as counted:
        blend = Blend(*axes, method.weighting, CPU)
        for start, of_row_MNSS in WindowBatches(first_band, 1, method, CPU).rows(block, axes):
            blend.add(start, of_row_MNSS[0])
        blend.mean()
    return counted.kernels, len(counted.copies), len(counted.waits)


def test_what_a_block_asks_for_does_not_grow_with_the_windows_of_its_rows() -> None:
    assert asked(8, 256) == asked(16, 256) == asked(40, 256)


def test_each_window_is_cut_at_its_place_whatever_the_batch() -> None:
    """Also where CUDA cannot index the pixels' type. Windows without a valid pixel are 0."""
    generator = np.random.default_rng(6)
    for dtype in (np.uint8, np.int16, np.uint16, np.float32):
        image_CHW = generator.integers(0, 200, (2, 150, 170)).astype(dtype)
        valid_HW = generator.random((150, 170)) > 0.9995
        for batch_size in (1, 4, 64):
            method = MapOptions(WindowGrid(32, 24), batch_size=batch_size)
            block = ready(image_CHW, valid_HW)
            rows, columns = axes_of(block.block, method.grid, (128, 128))  # whose windows all lie inside
            met, worth = dict(WindowBatches(first_band, 1, method, CPU).rows(block, (rows, columns))), 0
            for row in rows.starts:
                for number, column in enumerate(columns.starts):
                    place = slice(row, row + 32), slice(column, column + 32)
                    expected_SS = np.zeros((32, 32), np.float32)
                    if valid_HW[place].any():
                        expected_SS, worth = image_CHW[0][place].astype(np.float32), worth + 1
                    found_SS = met[row][0, number].numpy() if row in met else np.zeros((32, 32))
                    assert np.array_equal(found_SS, expected_SS), (dtype, batch_size, row, column)
            assert 3 < worth < 0.9 * len(rows.starts) * len(columns.starts)
