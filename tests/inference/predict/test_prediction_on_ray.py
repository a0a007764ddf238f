"""Ray workers make the maps that one process makes, byte for byte, also when they are killed while they work.

Real clusters, started here, of two machines as Ray sees it.
"""

import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import treeline
from ray_machines import PATIENCE_SECONDS, kill_all, processes_of, running, wait_until
from regressors import NODATA, odd_scene, small_regressor, stored_images, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict

BROKEN = 1, 4
SHAPE = 150, 170

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass(frozen=True)
class Scenes:
    """Scenes, two of them broken, and the maps that this process makes of the others."""

    folder: Path
    checkpoint: Path
    mask: Path
    """One raster over all scenes."""
    maps: dict[str, bytes]

    def command(self, out: Path, workers: int = 2) -> list[str]:
        options = ["--checkpoint", str(self.checkpoint), "--out", str(out), "--workers", str(workers)]
        options += ["--block", "64", "--batch-size", "4", "--mask", str(self.mask)]
        return ["predict", str(self.folder / "*.tif"), *options]

    def mend(self) -> None:
        for number in BROKEN:
            write_scene(self.folder / f"scene_{number:02}.tif", image(number))


def image(number: int):  # type: ignore[no-untyped-def]
    image_CHW = stored_images(1, *SHAPE, seed=number, missing=0.005)[0]
    image_CHW[:, : SHAPE[0] // 8] = NODATA
    return image_CHW


@pytest.fixture(params=[6, pytest.param(20, marks=pytest.mark.long)])
def scenes(request: pytest.FixtureRequest, tmp_path: Path) -> Scenes:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_regressor())
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(request.param):
        path = write_scene(folder / f"scene_{number:02}.tif", image(number))
        if number == BROKEN[0]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif number == BROKEN[1]:
            write_scene(path, image(number)[:3])
    clouds_1HW = np.zeros((1, *SHAPE), np.int16)
    clouds_1HW[:, 40:90, 50:120] = 1
    mask = write_scene(tmp_path / "clouds.tif", clouds_1HW)
    out = str(tmp_path / "here")
    config = PredictConfig((str(folder / "*.tif"),), str(checkpoint), out, batch_size=4, mask=(str(mask),))
    summary = predict(config, InProcess())
    assert len(summary.failed) == len(BROKEN)
    return Scenes(folder, checkpoint, mask, maps_in(tmp_path / "here"))


def maps_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tif")}


def blocks_in(out: Path) -> int:
    return len(list(out.glob(".predict/*/*.block")))


def test_two_scenes_are_broken_and_a_worker_is_killed_halfway(
    ray_env: dict[str, str],
    ray_head: "subprocess.Popen[bytes]",
    ray_second: "subprocess.Popen[bytes]",
    scenes: Scenes,
    tmp_path: Path,
) -> None:
    out = tmp_path / "maps"
    with running(ray_env, *scenes.command(out)) as process:
        wait_until(lambda: blocks_in(out) + 9 * len(maps_in(out)) >= 4 * len(scenes.maps))
        victims = processes_of(ray_head, "MapWorker")
        for worker in victims[:1]:
            worker.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert victims, "a worker was killed"
    assert process.returncode == 1, said
    made = len(scenes.maps)
    assert f"{made} maps made, 0 there before, 2 scenes failed" in said
    truncated, three_bands = (scenes.folder / f"scene_{number:02}.tif" for number in BROKEN)
    assert f"failed: {truncated}: cannot be read at row" in said
    assert f"failed: {three_bands}: has 3 bands" in said
    assert maps_in(out) == scenes.maps
    scenes.mend()
    if made < 18:  # one process completes what workers began
        done = treeline(*scenes.command(out, workers=0))
        returncode, said = done.returncode, done.stdout + done.stderr
    else:
        with running(ray_env, *scenes.command(out)) as process:
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        returncode = process.returncode
    assert returncode == 0, said
    assert f"2 maps made, {made} there before, 0 scenes failed" in said
    config = PredictConfig(
        (str(scenes.folder / "*.tif"),),
        str(scenes.checkpoint),
        str(tmp_path / "all"),
        batch_size=4,
        mask=(str(scenes.mask),),
    )
    predict(config, InProcess())
    assert maps_in(out) == maps_in(tmp_path / "all")
    assert not list(out.rglob("*.block"))


@pytest.mark.long
def test_worker_machine_and_driver_are_lost_at_random_moments(
    ray_env: dict[str, str],
    ray_head: "subprocess.Popen[bytes]",
    ray_second: "subprocess.Popen[bytes]",
    tmp_path: Path,
) -> None:
    """Of a scene with odd sides; the map is the one of a single process with other blocks."""
    rng = random.Random(8)
    options: dict[str, Any] = {"window": 96, "overlap": 0.25, "weights": "cosine", "batch_size": 8}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_regressor())
    scene = write_scene(tmp_path / "scene.tif", odd_scene(1237, 911))
    config = PredictConfig((str(scene),), str(checkpoint), str(tmp_path / "here"), spread=True, **options)
    predict(config, InProcess())
    out = tmp_path / "maps"
    command = ["predict", str(scene), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "2"]
    command += ["--block", "64", "--spread"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]

    def some_more_blocks() -> None:
        enough = blocks_in(out) + rng.randrange(1, 40)
        wait_until(lambda: blocks_in(out) >= enough)
        time.sleep(rng.uniform(0, 0.5))

    with running(ray_env, *command) as process:
        some_more_blocks()
        workers = [*processes_of(ray_head, "MapWorker"), *processes_of(ray_second, "MapWorker")]
        rng.choice(workers).kill()
        some_more_blocks()
        kill_all(ray_second)
        some_more_blocks()
        process.kill()
    with running(ray_env, *command) as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert "1 map made, 0 there before, 0 scenes failed" in said
    assert maps_in(out) == maps_in(tmp_path / "here")
    assert not list(out.rglob("*.block"))
