"""Time and memory of a map: the notebook's way, ours, and the model's forward passes alone.

python benchmarks/predict.py --size 2048                # a scene of 2048 x 2048 pixels
python benchmarks/predict.py --size 2048 --only ray-1 ray-2     # two scenes on one and two Ray workers

(a) notebook   the whole scene, read and normalised as float32; tiles of 64 at half overlap by the package
               `tiler` (triangular weights, batches of 32), merged whole and written
(b) Treeline   the same model, window, overlap and weights
(c) model      the forward passes of (b) alone: on random windows, the same number, side by side as in (b)
(d) Treeline   windows of 256 with a quarter of overlap

Each runs in a process of its own, so that its peak memory is its own; imports are not timed. tiler is no
dependency of Treeline: pip install tiler.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inference.config import PredictConfig  # noqa: E402
from inference.predict.block import predict_windows  # noqa: E402
from inference.predict.in_process import InProcess  # noqa: E402
from inference.predict.map_options import MapOptions  # noqa: E402
from inference.predict.run import predict  # noqa: E402
from inference.tiling.windows import Span, WindowGrid  # noqa: E402
from ingest.config import SyntheticConfig  # noqa: E402
from ingest.synthetic.landscape import write_scene  # noqa: E402
from ingest.synthetic.synthetic_source import SyntheticSource  # noqa: E402
from ingest.work.run import ingest  # noqa: E402
from trainer.commands.train_on_ray import launch  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.devices.cards import chosen_here  # noqa: E402
from trainer.devices.repeatable import side_by_side  # noqa: E402
from trainer.model.height_checkpoint import load_checkpoint  # noqa: E402

WINDOW, OVERLAP, BATCH = 64, 0.5, 32
PIXEL_M = 2.0
CONTENDERS = ("notebook", "treeline", "model", "treeline-256")
ON_RAY = ("ray-1", "ray-2")


def windows_of(size: int) -> int:
    """Count the windows in a scene of `size` x `size` pixels."""
    return len(WindowGrid(WINDOW, int(WINDOW * (1 - OVERLAP))).starts(Span(0, size), size)) ** 2


def notebook(scene: Path, checkpoint: Path, out: Path) -> float:
    """Measure seconds for a scene, as the notebook does it."""
    from tiler import Merger, Tiler

    regressor = load_checkpoint(str(checkpoint)).regressor
    start = time.perf_counter()
    with rasterio.open(scene) as raster:
        image_CHW, profile = raster.read().astype(np.float32), raster.profile
    pixels_CHW = regressor.normalise(torch.from_numpy(image_CHW[None]))[0][0].numpy()
    missing_HW = (image_CHW == profile["nodata"]).any(0)
    bands, *shape = pixels_CHW.shape
    tiles = Tiler(pixels_CHW.shape, (bands, WINDOW, WINDOW), OVERLAP, 0, mode="reflect")
    of_heights = Tiler((1, *shape), (1, WINDOW, WINDOW), OVERLAP, 0, mode="reflect")
    merger = Merger(of_heights, window="triang")
    for number, batch_BCHW in tiles(pixels_CHW, batch_size=BATCH):
        with torch.inference_mode():
            height_BHW = regressor.heights(torch.from_numpy(batch_BCHW)).clamp(min=0)
        merger.add_batch(number, BATCH, height_BHW[:, None].numpy())
    metres_HW = merger.merge()[0]
    decimetres_HW = np.where(missing_HW, -9999, np.rint(metres_HW * 10)).astype(np.int16)
    with rasterio.open(out / "map.tif", "w", **{**profile, "count": 1, "dtype": "int16"}) as target:
        target.write(decimetres_HW, 1)
    return time.perf_counter() - start


def treeline(scene: Path, checkpoint: Path, out: Path, window: int, overlap: float) -> float:
    """Measure seconds for a scene, with all that `treeline predict` does."""
    options = {"window": window, "overlap": overlap, "batch_size": BATCH * WINDOW**2 // window**2}
    config = PredictConfig((str(scene),), str(checkpoint), str(out / "maps"), **options)
    start = time.perf_counter()
    predict(config, InProcess(chosen_here("auto")))
    return time.perf_counter() - start


def model_alone(checkpoint: Path, size: int) -> float:
    """Measure seconds for forward passes on as many windows as a scene of `size` x `size` has."""
    loaded = load_checkpoint(str(checkpoint))
    method = MapOptions(WindowGrid(WINDOW, int(WINDOW * (1 - OVERLAP))), batch_size=BATCH)
    shape = BATCH, len(loaded.regressor.schema.bands), WINDOW, WINDOW
    image_BCHW = torch.from_numpy(np.random.default_rng(0).integers(100, 3000, shape).astype(np.int16))
    start = time.perf_counter()
    load_checkpoint(str(checkpoint))  # (b) loads it too, once to describe it and once to predict
    batches = range(-(-windows_of(size) // BATCH))
    for _ in side_by_side(lambda _: predict_windows(loaded.regressor, image_BCHW, method), batches):
        pass
    return time.perf_counter() - start


def on_ray(scenes: list[Path], checkpoint: Path, out: Path, workers: int) -> float:
    """Measure seconds for some scenes on Ray workers, after a first run; the cluster's start is not timed."""
    import ray

    from inference.predict.on_ray import OnRay

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=500 * 2**20, log_to_driver=False)
    seconds = []
    for run in ("first", "timed"):
        names = tuple(str(scene) for scene in (scenes[:1] if run == "first" else scenes))
        config = PredictConfig(names, str(checkpoint), str(out / run), workers=workers, block=512)
        start = time.perf_counter()
        predict(config, OnRay(config))
        seconds.append(time.perf_counter() - start)
    return seconds[-1]


def run_one(contender: str, folder: Path, size: int) -> dict[str, float]:
    """Run a contender in this process; return seconds and peak memory in GB."""
    scene, checkpoint = next(folder.glob("WV02_*.tif")), folder / "run"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if contender == "notebook":
            seconds = notebook(scene, checkpoint, out)
        elif contender == "model":
            seconds = model_alone(checkpoint, size)
        elif contender.startswith("ray"):
            seconds = on_ray(sorted(folder.glob("WV02_*.tif")), checkpoint, out, int(contender[-1]))
        else:
            of_large = contender == "treeline-256"
            seconds = treeline(scene, checkpoint, out, *((256, 0.25) if of_large else (WINDOW, OVERLAP)))
    # VmHWM is this program's: getrusage would also count the process that it was forked from.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return {"seconds": seconds, "peak_gb": int(line.split()[1]) * 1024 / 1e9}


def prepare(folder: Path, size: int, scenes: int) -> None:
    """Make scenes, and a regressor of the default recipe, hardly trained."""
    for number in range(scenes):
        write_scene(folder, number, 0, (size, size))
    config = SyntheticConfig(out=str(folder / "chips"), chips=64)
    ingest(SyntheticSource(config), config)
    launch(TrainConfig.of(config.out, str(folder / "run"), epochs=1))


def main() -> None:
    """Run all in turn, `repeats` times, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS + ON_RAY, default=CONTENDERS)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one[0], Path(arguments.one[1]), arguments.size)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), arguments.size, 2 if set(ON_RAY) & set(arguments.only) else 1)
        for _ in range(arguments.repeats):
            for name in results:
                command = [sys.executable, __file__, "--size", str(arguments.size), "--one", name, scratch]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, results[name][-1], file=sys.stderr, flush=True)
    print(table(results, arguments.size))


def table(results: dict[str, list[dict[str, float]]], size: int) -> str:
    """Format medians, and the time spent outside the model."""
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    kilometres2 = (size * PIXEL_M / 1000) ** 2
    lines = [f"{size} x {size} pixels, {windows_of(size):,} windows of {WINDOW}; torch {torch.__version__}"]
    for name, values in median.items():
        scenes = 2 if name.startswith("ray") else 1
        speed = scenes * kilometres2 / values["seconds"] * 3600
        lines.append(
            f"{name:14}{values['seconds']:8.2f} s {values['peak_gb']:6.2f} GB {speed:10,.0f} km2/h"
            f" {scenes * size**2 / 1e6 / values['seconds']:7.2f} megapixels/s"
        )
    if {"treeline", "model"} <= median.keys():
        outside = [
            ours["seconds"] / alone["seconds"] - 1
            for ours, alone in zip(results["treeline"], results["model"], strict=True)
        ]
        lines.append(f"outside the model: {statistics.median(outside):.1%} of the model's time")
    if {"treeline", "notebook"} <= median.keys():
        faster = median["notebook"]["seconds"] / median["treeline"]["seconds"]
        lines.append(f"as fast as the notebook's way: {faster:.2f} times")
    if set(ON_RAY) <= median.keys():
        shares = [
            one["seconds"] / two["seconds"] / 2
            for one, two in zip(results["ray-1"], results["ray-2"], strict=True)
        ]
        lines.append(f"two workers: {statistics.median(shares):.2f} of linear")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
