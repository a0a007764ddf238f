"""What the gate of `predict` says of honest scenes and of faults, and what it costs.

PYTHONPATH=tests/support python -m benchmarks.gate --first 11000      # about ten minutes

First 40 honest scenes of the tests, then 200 of fresh seeds, then the cost; with --faults also the 40 scenes
with each fault, with --cost the cost alone.

Honest scenes and faults are those of tests/support/honest_scenes.py. The cost is CPU time, beside that of
the map of the same scene with the smallest regressor of the tests, the most demanding case.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from honest_scenes import CONDITIONS, FAULTS, SCHEMA, Image, honest_scene, plain_scene, statistics, stored
from regressors import small_regressor, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from inference.scenes.check import findings_of
from inference.scenes.sample import windows
from inference.scenes.scene import Scene
from inference.tiling.windows import Block
from shards.raster.finding import Finding

OF_TESTS, EACH_OF_TESTS, EACH_FRESH = 3000, 5, 25
"""Number of the first scene of the tests, and scenes of each of the eight kinds: 40, and 200 fresh ones."""
REPEATED = 5


def found_in(folder: Path, image_CHW: Image) -> Iterator[tuple[Finding, ...]]:
    """Yield the findings of an image as a file, beside a training with clouds and one without."""
    path = write_scene(folder / "scene.tif", stored(image_CHW))
    for is_clear in (False, True):
        with Scene(str(path), SCHEMA, ()) as scene:
            yield findings_of(scene, statistics(is_clear=is_clear))


def scenes(first: int, each: int) -> Iterator[tuple[str, Image]]:
    """Yield the kind of each honest scene, and its pixels."""
    for kind, condition in enumerate(CONDITIONS):
        for number in range(each):
            yield condition.__name__, honest_scene(condition, first + each * kind + number)


def count(folder: Path, first: int, each: int, fault: Callable[[Image], Image] | None = None) -> None:
    """Print the numbers of refused and noted scenes, beside a training with clouds and one without."""
    said: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for kind, image_CHW in scenes(first, each):
        for counted, findings in zip(
            said, found_in(folder, fault(image_CHW) if fault else image_CHW), strict=True
        ):
            counted["refused"] += any(one.is_gross for one in findings)
            counted["noted"] += bool(findings) and not any(one.is_gross for one in findings)
            counted.update(f"{kind}: {one.code}" for one in findings)
    for training, counted in zip(("with clouds", "without clouds"), said, strict=True):
        others = {name: number for name, number in counted.items() if ":" in name and not fault}
        print(
            f"{each * len(CONDITIONS)} scenes from {first}, training {training}: "
            f"{counted['refused']} refused, "
            f"{counted['noted']} noted {others or ''}",
            flush=True,
        )


def cost(folder: Path, side: int) -> None:
    """Print CPU seconds of the check of a scene and of its whole map."""
    image_CHW = np.tile(stored(plain_scene(OF_TESTS)), (1, side // 256, side // 256))
    path = write_scene(folder / "large.tif", image_CHW)
    for blocks in ({"tiled": False}, {"tiled": True, "blockxsize": 256, "blockysize": 256}):
        with rasterio.open(path) as raster:
            profile = {**raster.profile, **blocks}
        with rasterio.open(folder / "scene.tif", "w", **profile) as raster:
            raster.write(image_CHW)
        checks, read_apart, read_together, trained = [], [], [], statistics()
        for _ in range(REPEATED):
            with Scene(str(folder / "scene.tif"), SCHEMA, ()) as scene:
                read_apart.append(_seconds(lambda scene=scene: [*map(scene.pixels, sampled(scene))]))
                read_together.append(_seconds(lambda scene=scene: scene.pixels_of(sampled(scene))))
            start = time.process_time()
            with Scene(str(folder / "scene.tif"), SCHEMA, ()) as scene:
                findings_of(scene, trained)
            checks.append(time.process_time() - start)
        url = write_checkpoint(folder / "run", small_regressor(statistics=statistics()))
        out = tempfile.mkdtemp(dir=folder)
        start = time.process_time()
        predict(PredictConfig((str(folder / "scene.tif"),), str(url), out), InProcess())
        whole = time.process_time() - start
        share = 100 * min(checks) / whole
        kind = "tiles of 256" if blocks["tiled"] else "strips"
        print(
            f"{side} x {side} in {kind}: check {min(checks):.4f} s, map {whole:.2f} s of CPU, {share:.2f} %; "
            f"its windows one by one {min(read_apart):.4f} s, together {min(read_together):.4f} s",
            flush=True,
        )


def sampled(scene: Scene) -> list[Block]:
    """List the windows that the check reads."""
    return list(windows(scene.shape, scene.raster.block_shapes[0]))


def _seconds(read: Callable[[], object]) -> float:
    start = time.process_time()
    read()
    return time.process_time() - start


def main() -> None:
    """Count and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=11_000, help="number of the first fresh scene")
    parser.add_argument("--side", type=int, default=1024, help="pixels along a side of the mapped scene")
    parser.add_argument("--cost", action="store_true", help="measure the cost alone")
    parser.add_argument("--faults", action="store_true", help="count the scenes of the tests with each fault")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not options.cost:
            count(folder, OF_TESTS, EACH_OF_TESTS)
            count(folder, options.first, EACH_FRESH)
        cost(folder, options.side)
        for name, fault in FAULTS.items() if options.faults else ():
            print(f"{name}:", flush=True)
            count(folder, OF_TESTS, EACH_OF_TESTS, fault)


if __name__ == "__main__":
    main()
