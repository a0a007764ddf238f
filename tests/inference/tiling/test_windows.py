"""How a scene is cut into blocks to own and windows to compute: pure functions, held over grids of sizes.

- Blocks cover each pixel exactly once.
- Each pixel is covered by a window, and by the same windows whatever the blocks.
- The halo that is read holds all that the windows are made from, reflection included; it is bounded.
- The triangle of weights is SciPy's, and never 0.
"""

import numpy as np
import pytest

from inference.config import Weighting
from inference.predict.block_tasks import BlockTask
from inference.tiling.blend import window_weights
from inference.tiling.halo import Halo, halo_block
from inference.tiling.windows import Block, Span, WindowGrid, blocks_of
from shards.errors import InputError

LENGTHS = range(1, 201)
GRIDS = [
    WindowGrid(size, max(1, round(size * (1 - overlap))))
    for size in (16, 32, 48, 64)
    for overlap in (0, 0.25, 0.5, 0.75)
]
grids = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid.size}-every-{grid.step}")


def spans(length: int, size: int) -> list[Span]:
    """An axis cut into blocks of `size`."""
    return [Span(start, min(start + size, length)) for start in range(0, length, size)]


def covers(start: int, size: int, pixel: int) -> bool:
    return start <= pixel < start + size


@pytest.mark.parametrize("size", [1, 7, 32, 512])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (64, 64), (65, 31), (131, 97)])
def test_blocks_cover_each_pixel_exactly_once(shape: tuple[int, int], size: int) -> None:
    owners_HW = np.zeros(shape, int)
    for block in blocks_of(*shape, size):
        assert 0 < len(block.rows) <= size
        assert 0 < len(block.columns) <= size
        owners_HW[block.rows.start : block.rows.stop, block.columns.start : block.columns.stop] += 1
    assert (owners_HW == 1).all()


def test_the_windows_of_150_pixels_start_at_0_32_64_96() -> None:
    assert list(WindowGrid(64, 32).starts(Span(0, 150), 150)) == [0, 32, 64, 96]


@grids
def test_windows_start_on_the_global_grid_and_end_with_the_scene(grid: WindowGrid) -> None:
    for length in LENGTHS:
        starts = list(grid.starts(Span(0, length), length))
        assert starts == [grid.step * number for number in range(len(starts))]
        assert starts[-1] + grid.size >= length, "the last pixel is covered"
        assert len(starts) == 1 or starts[-2] + grid.size < length, "no window more than needed"


@grids
def test_each_pixel_is_covered_by_the_same_windows_whatever_the_blocks(grid: WindowGrid) -> None:
    for length in (*range(1, 201, 7), 16, 64, 128, 200):
        every = list(grid.starts(Span(0, length), length))
        windows_of = {p: [s for s in every if covers(s, grid.size, p)] for p in range(length)}
        assert all(windows_of.values()), "a pixel is covered by no window"
        for block_size in (1, 5, 16, 32, 48, 512):
            for span in spans(length, block_size):
                starts = grid.starts(span, length)
                touching = [s for s in every if s < span.stop and s + grid.size > span.start]
                assert list(starts) == touching
                for pixel in (span.start, (span.start + span.stop) // 2, span.stop - 1):
                    assert [s for s in starts if covers(s, grid.size, pixel)] == windows_of[pixel]


@grids
def test_the_halo_holds_all_that_reflection_needs(grid: WindowGrid) -> None:
    """Numbers instead of pixels: what a window reads through its halo is what the whole scene would give."""
    for length in LENGTHS:
        scene = np.arange(length)
        end = grid.starts(Span(0, length), length)[-1] + grid.size
        whole = np.pad(scene, (0, max(0, end - length)), mode="reflect")
        for span in (wanted for size in (1, 16, 48, 512) for wanted in spans(length, size)):
            needed = grid.needed(span, length)
            assert 0 <= needed.start <= span.start
            assert span.stop <= needed.stop <= length
            starts = grid.starts(span, length)
            halo = Halo(scene[None, needed.start : needed.stop, None], needed.start, 0, (length, 1))
            halo = halo.reflected(starts[-1] + grid.size, 1)
            for start in starts:
                part = halo.image_CHW[:, *halo.place(grid.span(start), Span(0, 1))][0, :, 0]
                assert np.array_equal(part, whole[start : start + grid.size]), (length, span, start)


@grids
def test_the_halo_is_bounded_by_the_block_and_not_by_the_scene(grid: WindowGrid) -> None:
    for length in (5_000, 20_000, 20_001):
        for span in spans(length, 512)[::5]:
            assert len(grid.needed(span, length)) <= len(span) + 2 * grid.size + grid.step


@pytest.mark.parametrize("dtype", ["<i2", ">u2", "<f4"])
def test_a_halo_and_a_task_travel_as_rows(dtype: str) -> None:
    halo = Halo(np.arange(24).reshape(2, 3, 4).astype(dtype), 5, 6, (150, 400))
    there = Halo.from_row(halo.to_row())
    assert (there.image_CHW.dtype, there.image_CHW.tolist()) == (dtype, halo.image_CHW.tolist())
    assert (there.row, there.column, there.scene_shape) == (5, 6, (150, 400))
    task = BlockTask("s3://bucket/a.tif", "1 2", "a-12", Block(Span(0, 32), Span(96, 128)))
    assert BlockTask.from_row(task.to_row()) == task


def test_rows_and_columns_have_their_own_halo() -> None:
    block, grid = Block(Span(0, 32), Span(96, 128)), WindowGrid(64, 32)
    # Windows at 0 along the rows; at 64 and 96 along the columns.
    assert halo_block(block, grid, (150, 400)) == Block(Span(0, 64), Span(64, 160))


@pytest.mark.parametrize(
    ("size", "overlap", "step"), [(64, 0.5, 32), (64, 0, 64), (64, 0.75, 16), (48, 0.5, 24), (16, 0.3, 11)]
)
def test_the_step_follows_from_the_overlap(size: int, overlap: float, step: int) -> None:
    assert WindowGrid.with_overlap(size, overlap, patch_size=16) == WindowGrid(size, step)


@pytest.mark.parametrize(
    ("size", "overlap", "named"),
    [
        (0, 0.5, "--window 0"),
        (-16, 0.5, "--window -16"),
        (40, 0.5, "--window 40"),
        (64, 0.76, "--overlap"),
        (64, -0.1, "--overlap"),
        (64, float("nan"), "--overlap"),
    ],
)
def test_windows_that_cannot_be_are_refused(size: int, overlap: float, named: str) -> None:
    with pytest.raises(InputError, match=named):
        WindowGrid.with_overlap(size, overlap, patch_size=16)


def test_weights_are_scipys() -> None:
    np.testing.assert_allclose(window_weights("triangle", 4), [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(window_weights("triangle", 5), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3], rtol=1e-6)
    of_cosine = [0.38268343, 0.92387953, 0.92387953, 0.38268343]
    np.testing.assert_allclose(window_weights("cosine", 4), of_cosine, rtol=1e-6)


@pytest.mark.parametrize("kind", ["triangle", "cosine", "flat"])
@pytest.mark.parametrize("size", [1, 2, 16, 63, 64])
def test_weights_are_symmetric_and_never_0(kind: Weighting, size: int) -> None:
    weights = window_weights(kind, size)
    assert weights.shape == (size,)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    np.testing.assert_allclose(weights, weights[::-1], rtol=1e-6)
