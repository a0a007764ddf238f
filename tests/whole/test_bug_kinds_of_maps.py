"""Kinds of maps and mosaics that went wrong once: for each its right exit code, line and value.

Each row of a table makes one input; its id names the kind.
"""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from in_process import treeline
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform
from regressors import odd_scene, small_regressor, write_checkpoint, write_scene
from shapely.geometry import shape

from inference.maps.cloud_optimised import LARGE
from inference.maps.map_file import HEIGHT, map_writer, stop_writing
from inference.maps.stac_item import stac_item
from inference.mosaic.combine_heights import BANDS
from inference.tiling.windows import Block, Span
from shards.raster.grid import Grid

ROOT = Path(__file__).resolve().parents[2]
PLACE = Affine(2, 0, 200_000, 0, -2, 1_700_000)


def noise(rows: int, columns: int) -> NDArray[np.int16]:
    """Heights that can hardly be compressed, in decimetres, (1, rows, columns)."""
    return np.random.default_rng(0).integers(0, 300, (1, rows, columns)).astype(np.int16)


def write_map(path: Path, side: int, place: Affine = PLACE, crs: str = "EPSG:3338") -> Path:
    """A map of `side` x `side` pixels."""
    with map_writer(str(path), Grid(CRS.from_user_input(crs), place, side, side), (HEIGHT,), {}) as write:
        write(Block(Span(0, side), Span(0, side)), noise(side, side))
    return path


# --- maps across 180 degrees ---


@pytest.mark.parametrize("share", [0.1, 0.22, 0.6], ids=lambda share: f"{share:.0%}-west")
@pytest.mark.parametrize(
    ("crs", "latitude"),
    [("EPSG:32601", 66), ("EPSG:32660", 66), ("EPSG:32760", -44)],
    ids=["utm-1-north", "utm-60-north", "utm-60-south"],
)
def test_stac_items_across_180(crs: str, latitude: float, share: float, tmp_path: Path) -> None:
    """The geometry is cut at 180 degrees, and the box goes across it (RFC 7946, 3.1.9 and 5.2)."""
    (x,), (y,) = transform("EPSG:4326", crs, [180], [latitude])
    size, pixels = 30, 300
    place = Affine(size, 0, x - share * size * pixels, 0, -size, y + size * pixels / 2)
    url = f"{tmp_path}/scene.chm.tif"
    with map_writer(url, Grid(CRS.from_user_input(crs), place, pixels, pixels), (HEIGHT,), {}) as write:
        write(Block(Span(0, pixels), Span(0, pixels)), np.ones((1, pixels, pixels), np.int16))
    item = json.loads(json.dumps(stac_item(url)))
    assert item["geometry"]["type"] == "MultiPolygon"
    west, south, east, north = item["bbox"]
    assert 179 < west <= 180
    assert -180 <= east < -179
    assert south < latitude < north
    geometry = shape(item["geometry"])
    assert geometry.is_valid
    assert geometry.bounds == (-180, south, 180, north)
    sides = sorted(geometry.geoms, key=lambda part: -part.bounds[0])
    assert (sides[0].bounds[0], sides[-1].bounds[2]) == (west, east)


@dataclass(frozen=True)
class Sides:
    """What `mosaic` must do with maps at places near the end of a CRS."""

    kind: str
    crs: str
    """CRS of the maps."""
    longitudes: tuple[float, ...]
    options: tuple[str, ...]
    says: str = ""
    """Part of the line that refuses them; "": the mosaic is no larger than the ground under it."""


BOTH = (179.99, -179.99)
TORN = "lie on both sides of the 180th meridian, or wherever {} ends"
SIDES = [
    Sides("degrees", "EPSG:4326", BOTH, (), TORN.format("EPSG:4326")),
    Sides(
        "coarse degrees",
        *("EPSG:32601", BOTH, ("--crs", "EPSG:4326", "--resolution", "0.0005")),
        says=TORN.format("EPSG:4326"),
    ),
    Sides(
        "fine degrees",
        *("EPSG:32601", BOTH, ("--crs", "EPSG:4326", "--resolution", "0.00002")),
        says=TORN.format("EPSG:4326"),
    ),
    Sides("mercator", "EPSG:32601", BOTH, ("--crs", "EPSG:3857"), TORN.format("EPSG:3857")),
    Sides("another end", "EPSG:32626", (-30.02, -29.98), ("--crs", "EPSG:3832"), TORN.format("EPSG:3832")),
    Sides(
        "one map across 180 to mercator",
        *("EPSG:32601", (180,), ("--crs", "EPSG:3857")),
        says="crosses the 180th meridian",
    ),
    Sides("utm", "EPSG:32601", BOTH, ()),
    Sides("albers", "EPSG:32601", BOTH, ("--crs", "EPSG:3338")),
    Sides("apart on one side", "EPSG:3857", (10, 12), ("--resolution", "200")),
    Sides(
        "a part of one side",
        *("EPSG:32601", BOTH),
        ("--crs", "EPSG:4326", "--resolution", "0.00002", "--bounds", "179.985", "65.99", "180", "66.01"),
    ),
]


@pytest.mark.parametrize("case", SIDES, ids=lambda case: case.kind.replace(" ", "-"))
def test_mosaics_across_180(case: Sides, tmp_path: Path) -> None:
    """No mosaic goes round the Earth because its CRS ends between two maps."""
    maps = []
    for number, longitude in enumerate(case.longitudes):
        (x,), (y,) = transform("EPSG:4326", case.crs, [longitude], [66])
        size = 2e-5 if case.crs == "EPSG:4326" else 2
        place = Affine(size, 0, x - size * 64, 0, -size, y + size * 64)
        maps.append(write_map(tmp_path / f"{number}.chm.tif", 128, place, case.crs).name)
    done = treeline("mosaic", *maps, "--out", "out/mosaic.tif", *case.options, folder=tmp_path)
    if case.says:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert case.says in done.stderr
        assert not (tmp_path / "out").exists()
        return
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "out" / "mosaic.tif") as raster:
        assert raster.width * raster.height < 2_000_000
        assert (raster.read(1) != raster.nodata).any()


# --- disks that are full, and commands that are stopped ---


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process have more than `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [10_000, 600_000], ids=["tiles", "copy"])
def test_a_mosaic_on_a_full_disk(size: int, tmp_path: Path) -> None:
    """One line names the mosaic and the reason, and nothing is left of it."""
    write_map(tmp_path / "a.chm.tif", 300)
    with largest_file(size):
        done = treeline("mosaic", "a.chm.tif", "--out", "out/mosaic.tif", folder=tmp_path)
    assert done.returncode == 1
    assert_one_line(done.stderr, "out/mosaic.tif: cannot be written (File too large)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "names"),
    [(10_000, ".block"), (250_000, "scene.chm.tif: cannot be written")],
    ids=["block", "map"],
)
def test_predict_on_a_full_disk(size: int, names: str, tmp_path: Path) -> None:
    """One line names the file and the reason; with room, the same command makes the map."""
    write_checkpoint(tmp_path / "run", small_regressor())
    write_scene(tmp_path / "scene.tif", odd_scene(300, 300))
    command = ["predict", "scene.tif", "--checkpoint", "run", "--out", "maps", "--window", "64"]
    with largest_file(size):
        done = treeline(*command, folder=tmp_path)
    assert done.returncode == 1
    assert_one_line(done.stderr, names)
    assert_one_line(done.stderr, "File too large")
    assert not list((tmp_path / "maps").glob("*.tif"))
    assert treeline(*command, folder=tmp_path).returncode == 0
    assert (tmp_path / "maps" / "scene.chm.tif").is_file()


def assert_one_line(said: str, what: str) -> None:
    """`what` is in the one line in which the command says why it failed."""
    (line,) = [line for line in said.splitlines() if line.startswith("treeline: failed")]
    assert what in line


@pytest.mark.slow
def test_a_mosaic_that_becomes_a_file_is_stopped_at_once(tmp_path: Path) -> None:
    """What finishes the file is held, so that the command would never end if it waited for it."""
    side = math.isqrt(LARGE // len(BANDS)) + 1
    write_map(tmp_path / "a.chm.tif", side)
    command = [sys.executable, "-m", "cluster.cli", "mosaic", "a.chm.tif", "--out", "out/mosaic.tif"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        finisher = child_of(process.pid)
        os.kill(finisher, signal.SIGSTOP)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert "treeline: stopped" in said
    assert not (tmp_path / "out").exists()
    assert not Path(f"/proc/{finisher}").exists()


def test_a_map_has_the_same_bytes_if_another_process_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a map is finished depends on its size alone, and shows in nothing."""
    here = write_map(tmp_path / "here.tif", 1100).read_bytes()
    monkeypatch.setattr("inference.maps.map_file.LARGE", 0)
    assert write_map(tmp_path / "apart.tif", 1100).read_bytes() == here


@pytest.mark.slow
def test_maps_of_other_threads_are_stopped_at_once(tmp_path: Path) -> None:
    """As of predict, whose maps are finished by threads that no signal reaches."""
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write_map, tmp_path / "a.chm.tif", math.isqrt(LARGE) + 1)
        finisher = child_of(os.getpid())
        os.kill(finisher, signal.SIGSTOP)
        stop_writing()
        with pytest.raises(OSError, match=r"a\.chm\.tif: cannot be written \(was stopped\)"):
            writing.result(timeout=120)
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{finisher}").exists()


def child_of(parent: int) -> int:
    """Wait for the process that finishes a map of `parent`; its number."""
    while True:
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in (task / "children").read_text().split():
                with suppress(OSError):
                    # It writes: until then the command may still be about to wait for it.
                    if any(".tif" in os.readlink(one) for one in Path(f"/proc/{child}/fd").iterdir()):
                        return int(child)
        time.sleep(0.01)
