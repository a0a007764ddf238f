"""A map is a function of scene, checkpoint and options alone, bit for bit, on scenes that nothing fits into.

- For each way to weight, turn, spread and overlap windows: the same bytes for any block, in any order of
  blocks, stopped and gone on with other blocks (on Ray's workers: `test_prediction_on_ray`).
- Between batch sizes metres agree to 1e-4; decimetres differ at ties of their rounding alone.
- Maps are valid Cloud-Optimised GeoTIFFs, with overviews and spread and without.
"""

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from regressors import NODATA, odd_scene, small_regressor, write_checkpoint, write_scene
from rio_cogeo import cog_validate

from inference.config import PredictConfig
from inference.maps.map_file import HEIGHT
from inference.predict.block import metres_of_block, stored_metres
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.map_options import MapOptions
from inference.predict.ready_block import ready_block
from inference.predict.run import predict
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span, WindowGrid

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "cosine-spread": {"weights": "cosine", "spread": True, "window": 96, "overlap": 0.25},
    "turned-spread": {"symmetries": 8, "spread": True, "overlap": 0.0},
    "flat-turned": {"weights": "flat", "symmetries": 8, "window": 128, "overlap": 0.0},
    "overlap-0.75": {"weights": "cosine", "overlap": 0.75, "window": 128},
}
TIE_METRES = 1e-4
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Size:
    """A scene that nothing fits into, and how it is cut."""

    shape: tuple[int, int]
    """Rows and columns."""
    blocks: tuple[int, int]
    """Sides of blocks, each of which makes the whole map."""
    interrupted: tuple[int, int, int]
    """Sides of the blocks with which a map is begun and stopped, one after the other."""
    overviews: list[int]
    """Those that a map of it has."""


SMALL = Size((523, 131), (100, 260), (90, 90, 300), [2])
LARGE = Size((1237, 911), (260, 512), (256, 256, 700), [2, 4])


@dataclass(frozen=True)
class Whole:
    """The map of a scene as one block, the way in which it is made, and the size of the scene."""

    map: bytes
    config: PredictConfig
    size: Size


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SMALL, "cosine-spread"), id="cosine-spread"),
        *(
            pytest.param((SMALL, way), id=way, marks=pytest.mark.slow)
            for way in WAYS
            if way != "cosine-spread"
        ),
        *(pytest.param((LARGE, way), id=f"large-{way}", marks=pytest.mark.long) for way in WAYS),
    ],
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    size, way = request.param
    folder = tmp_path_factory.mktemp(way)
    checkpoint = write_checkpoint(folder / "checkpoint", small_regressor())
    scene = write_scene(folder / "scene.tif", odd_scene(*size.shape))
    config = PredictConfig((str(scene),), str(checkpoint), str(folder / "maps"), batch_size=8, **WAYS[way])
    return Whole(map_of(config), config, size)


def map_of(config: PredictConfig, engine: InProcess | None = None) -> bytes:
    (path,) = predict(config, engine or InProcess()).maps.values()
    return Path(path).read_bytes()


class Stopping(InProcess):
    """Does blocks in an order of its own, and stops after some of them."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """The first few of them, shuffled."""
        shuffled = list(tasks)
        self._rng.shuffle(shuffled)
        yield from super().blocks(shuffled[: self._rng.randrange(1, max(2, len(shuffled)))], job)
        raise KeyboardInterrupt


@pytest.mark.parametrize("which", [0, 1], ids=["small-blocks", "large-blocks"])
def test_the_bytes_do_not_depend_on_blocks(whole: Whole, tmp_path: Path, which: int) -> None:
    block = whole.size.blocks[which]
    assert map_of(replace(whole.config, out=str(tmp_path), block=block)) == whole.map


def test_the_bytes_do_not_depend_on_order_and_interruptions(whole: Whole, tmp_path: Path) -> None:
    """Blocks of one size serve another as far as whole blocks fit, and do no harm."""
    rng = random.Random(6)
    for block in whole.size.interrupted:
        with pytest.raises(KeyboardInterrupt):
            predict(replace(whole.config, out=str(tmp_path), block=block), Stopping(rng))
    block = whole.size.interrupted[0]
    assert map_of(replace(whole.config, out=str(tmp_path), block=block)) == whole.map
    assert {path.suffix for path in (tmp_path / ".predict").iterdir()} == {".json", ".made"}


def test_a_map_has_every_valid_pixel_and_no_other(whole: Whole) -> None:
    valid_HW = (odd_scene(*whole.size.shape)[1:] != NODATA).all(0)
    with rasterio.MemoryFile(whole.map) as file, file.open() as raster:
        for map_HW in raster.read():
            assert np.array_equal(map_HW != NODATA, valid_HW)
            assert len(np.unique(map_HW)) > 20, "a map that does not vary proves nothing"


def test_a_map_is_a_valid_cloud_optimised_geotiff(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(whole.map)
    is_valid, errors, warnings = cog_validate(path, strict=True)
    assert (is_valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as raster:
        assert raster.overviews(1) == whole.size.overviews


def metres(size: Size, batch_size: int) -> NDArray[np.float32]:
    """(rows, columns) of the whole scene."""
    rows, columns = size.shape
    method = MapOptions(WindowGrid(64, 32), batch_size=batch_size)
    regressor, block = small_regressor(), Block(Span(0, rows), Span(0, columns))
    halo = Halo(odd_scene(rows, columns), 0, 0, size.shape)
    ready = ready_block(regressor.normalise, block, halo, method.grid, torch.device("cpu"))
    (height_HW,), _ = metres_of_block(regressor, ready, method)
    return height_HW.numpy()


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)], ids=["small", "large"])
def test_batch_sizes_differ_by_less_than_a_tenth_of_a_millimetre(size: Size) -> None:
    """Decimetres differ where both are within that of a tie, which is rare."""
    first_HW = metres(size, 32)
    ties = 0
    for batch_size in (1, 2, 64):
        other_HW = metres(size, batch_size)
        assert np.abs(first_HW - other_HW).max() < TIE_METRES
        stored_HW, other_stored_HW = (
            stored_metres(torch.from_numpy(height_HW), HEIGHT).numpy() for height_HW in (first_HW, other_HW)
        )
        differ_HW = stored_HW != other_stored_HW
        from_tie_N = np.abs(first_HW[differ_HW].astype(np.float64) * 10 % 1 - 0.5) / 10
        assert (from_tie_N < TIE_METRES).all()
        ties += int(differ_HW.sum())
    assert ties < 1e-3 * 3 * first_HW.size


FULL_DISK = """
import resource, sys
import numpy as np
from rasterio.crs import CRS
from rasterio.transform import from_origin
from inference.maps.map_file import HEIGHT, map_writer
from inference.tiling.windows import blocks_of
from shards.raster.grid import Grid

grid = Grid(CRS.from_epsg(32606), from_origin(0, 0, 2, 2), 2048, 2048)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
try:
    with map_writer(sys.argv[1], grid, (HEIGHT,), {}) as write:
        for block in blocks_of(2048, 2048, 300):
            write(block, np.full((1, len(block.rows), len(block.columns)), 7, np.int16))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
        stop = lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        import signal; signal.signal(signal.SIGXFSZ, stop)  # room comes back
except OSError as error:
    print("refused", error)
"""


def test_a_disk_that_was_full_for_a_moment_makes_no_holes(tmp_path: Path) -> None:
    """What GDAL kept in its cache is written when the file is closed, and rasterio hides errors of that."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "map.tif")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "refused" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []
