"""The sample of a scene: few pixels, spread over it, always the same. An overview clears, never accuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from honest_scenes import SCHEMA, plain_scene, statistics, stored
from numpy.typing import NDArray
from rasterio.enums import Resampling
from regressors import NODATA, write_scene

from inference.scenes.check import findings_of
from inference.scenes.sample import overview_sample, windows, windows_sample
from inference.scenes.scene import Scene
from inference.tiling.windows import Block
from shards.errors import InputError
from shards.raster.sample_windows import LEAST_PIXELS, MOST_BLOCKS, MOST_PIXELS, SHARE, edge_windows

SHAPES = [
    ((256, 256), (4, 256)),
    ((2048, 2048), (512, 512)),
    ((40_000, 30_000), (256, 256)),
    ((5, 9000), (5, 9000)),
]


@pytest.mark.parametrize(("shape", "block_shape"), [*SHAPES, ((1, 1), (1, 1)), ((9000, 3), (1, 3))])
def test_windows_are_few_and_lie_apart_in_the_scene(
    shape: tuple[int, int], block_shape: tuple[int, int]
) -> None:
    found = list(windows(shape, block_shape))
    pixels = sum(block.pixels for block in found)
    assert 0 < pixels <= min(max(SHARE * shape[0] * shape[1], LEAST_PIXELS), MOST_PIXELS)
    assert found == list(windows(shape, block_shape))
    assert all(0 <= block.rows.start < block.rows.stop <= shape[0] for block in found)
    assert all(0 <= block.columns.start < block.columns.stop <= shape[1] for block in found)
    touched = {
        (block.rows.start // block_shape[0], block.columns.start // block_shape[1])
        for block in found
        if (block.rows.stop - 1) // block_shape[0] == block.rows.start // block_shape[0]
        and (block.columns.stop - 1) // block_shape[1] == block.columns.start // block_shape[1]
    }
    assert len(touched) <= MOST_BLOCKS
    assert len(touched) == len(
        {(b.rows.start // block_shape[0], b.columns.start // block_shape[1]) for b in found}
    )


@pytest.mark.parametrize(("shape", "block_shape"), SHAPES[:3])
def test_windows_reach_every_quarter_of_the_scene(
    shape: tuple[int, int], block_shape: tuple[int, int]
) -> None:
    found = list(windows(shape, block_shape))
    quarters = {(2 * b.rows.start // shape[0], 2 * b.columns.start // shape[1]) for b in found}
    assert len(quarters) == 4


def write_large(path: Path, fault: float = 1.0) -> Path:
    """A scene of 1,280 x 1,280 pixels in tiles."""
    image_CHW = np.tile(stored(plain_scene(3000) * fault), (1, 5, 5))
    profile = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(write_scene(path, image_CHW)) as raster:
        written = {**raster.profile, **profile}
    with rasterio.open(path, "w", **written) as raster:
        raster.write(image_CHW)
    return path


def add_overviews(path: Path) -> None:
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4, 8], Resampling.average)


def findings_at(path: Path) -> list[str]:
    with Scene(str(path), SCHEMA, ()) as scene:
        return [finding.code for finding in findings_of(scene, statistics())]


class Counting(Scene):
    """Counts the pixels that are read."""

    read = 0

    def pixels(self, block: Block, shape: tuple[int, int] | None = None) -> NDArray[Any]:
        """See Scene."""
        image_CHW = super().pixels(block, shape)
        self.read += image_CHW[0].size
        return image_CHW

    def pixels_of(self, blocks: Sequence[Block]) -> NDArray[Any]:
        """See Scene."""
        image_BN = super().pixels_of(blocks)
        self.read += image_BN.shape[1]
        return image_BN


def test_an_overview_is_read_alone(tmp_path: Path) -> None:
    path = write_large(tmp_path / "scene.tif")
    with Counting(str(path), SCHEMA, ()) as scene:
        assert overview_sample(scene) is None
        assert not findings_of(scene, statistics())
        assert 0 < scene.read <= SHARE * 1280**2
    add_overviews(path)
    with Counting(str(path), SCHEMA, ()) as scene:
        assert not findings_of(scene, statistics())
        assert scene.read == 320**2, "the finest of 131,072 pixels or fewer"


def test_a_fault_is_told_by_the_pixels_beside_an_overview(tmp_path: Path) -> None:
    """Divided by 10 in both: told, with the numbers of the pixels."""
    path = write_large(tmp_path / "scene.tif", 0.1)
    with Scene(str(path), SCHEMA, ()) as scene:
        without = findings_of(scene, statistics())
    add_overviews(path)
    with Scene(str(path), SCHEMA, ()) as scene:
        assert findings_of(scene, statistics()) == without
    assert [finding.code for finding in without] == ["factor"]


def test_an_overview_accuses_no_scene(tmp_path: Path) -> None:
    """The overviews were made when the scene was still divided by 10, and it was mended since."""
    path = write_large(tmp_path / "scene.tif", 0.1)
    add_overviews(path)
    with rasterio.open(path) as raster:
        assert raster.overviews(1) == [2, 4, 8]
    with rasterio.open(path, "r+") as raster:  # writing leaves overviews as they are
        raster.write(np.tile(stored(plain_scene(3000)), (1, 5, 5)))
    with Scene(str(path), SCHEMA, ()) as scene:
        overview = overview_sample(scene)
        assert overview
        assert np.median(overview.stored_BN[3]) < 500 < np.median(windows_sample(scene).stored_BN[3])
    assert findings_at(path) == []


def test_missing_pixels_are_seen_but_not_counted(tmp_path: Path) -> None:
    image_CHW = stored(plain_scene(3000))
    image_CHW[2, :128] = NODATA  # in one band
    with Scene(str(write_scene(tmp_path / "scene.tif", image_CHW)), SCHEMA, ()) as scene:
        sample = windows_sample(scene)
    assert 0.35 < sample.stored_BN.shape[1] / sample.spread.seen < 0.6
    assert (sample.stored_BN != NODATA).all()


# --- what is missing at the edges ---


def wedge(shape: tuple[int, int], kind: str) -> NDArray[np.bool_]:
    """Pixels of a narrow piece at an edge, 1.5 to 4 % of all."""
    row_HW, column_HW = np.indices(shape)
    down_HW, across_HW = row_HW / shape[0], column_HW / shape[1]
    return {
        "strip above": down_HW < 0.02,
        "strip on the right": across_HW >= 0.98,
        "wedge on the left": across_HW < 0.05 * down_HW,
        "wedge below": 1 - down_HW < 0.06 * across_HW,
        "four wedges, as of a turned scene": np.minimum(
            np.minimum(down_HW - 0.02 * across_HW, 1 - down_HW - 0.02 * (1 - across_HW)),
            np.minimum(across_HW - 0.02 * (1 - down_HW), 1 - across_HW - 0.02 * down_HW),
        )
        < 0,
        "a corner": down_HW + across_HW < 0.2,
    }[kind]


KINDS = (
    *("strip above", "strip on the right", "wedge on the left", "wedge below"),
    *("four wedges, as of a turned scene", "a corner"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["strips", "tiles", "overviews"])
def test_narrow_wedges_of_zeros_are_named(kind: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    image_CHW = np.tile(np.maximum(stored(plain_scene(3000)), 1), (1, 5, 5))
    is_zero_HW = wedge(image_CHW.shape[1:], kind)
    image_CHW[:, is_zero_HW] = 0
    tiles = {} if form == "strips" else {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(write_scene(path, image_CHW, nodata=None)) as raster:
        written = {**raster.profile, **({"tiled": False} | tiles)}
    with rasterio.open(path, "w", **written) as raster:
        raster.write(image_CHW)
    if form == "overviews":
        add_overviews(path)
    with Counting(str(path), SCHEMA, ()) as scene:
        (finding,) = findings_of(scene, statistics())
        assert form == "overviews" or scene.read <= SHARE * 1280**2
    share = float(finding.line.partition(" %")[0])
    assert finding.code == "filled"
    assert share == pytest.approx(100 * is_zero_HW.mean(), abs=2.0)


def test_windows_at_edges_reach_from_them_and_stand_for_their_part() -> None:
    assert edge_windows((15, 400)) == []
    for rows, columns in ((16, 16), (1024, 700), (9000, 30)):
        found = edge_windows((rows, columns))
        shares = [share for _, share in found]
        assert shares == [found[0][0][0].height / rows] * 2 + [found[2][0][0].width / columns] * 2
        tops = {(window.row_off, window.row_off + window.height) for window in found[1][0]}
        assert {stop for _, stop in tops} == {rows}
        assert all(window.col_off == 0 for window in found[2][0])


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_windows_read_together_have_the_pixels_that_they_have_alone(dtype: str, tmp_path: Path) -> None:
    """Also under a mask; a value beyond the type of training is refused by its place."""
    image_CHW = np.where(stored(plain_scene(3001)) == NODATA, 500, stored(plain_scene(3001)))
    path = write_scene(tmp_path / "scene.tif", image_CHW.astype(dtype))
    with rasterio.open(path, "r+") as raster:
        raster.write_mask(np.indices(raster.shape)[1] > 40)
    with Scene(str(path), SCHEMA, ()) as scene:
        blocks = list(windows(scene.shape, scene.raster.block_shapes[0]))
        alone = [scene.pixels(block).reshape(4, -1) for block in blocks]
        np.testing.assert_array_equal(scene.pixels_of(blocks), np.hstack(alone))
        spread = windows_sample(scene).spread
    assert 0 < spread.stored_BN.shape[1] < spread.seen
    if dtype != "int16":
        row, column = blocks[9].rows.start, blocks[9].columns.start
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(np.ones(raster.shape, np.bool_))
            changed_HW = raster.read(1)
            changed_HW[row, column] = 40_000
            raster.write(changed_HW, 1)
        with (
            Scene(str(path), SCHEMA, ()) as scene,
            pytest.raises(InputError, match=f"row {row}, column {column}"),
        ):
            windows_sample(scene)
