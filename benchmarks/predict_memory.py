"""Peak memory of a prediction, by the size of the scene, for tiled and stripped files.

python benchmarks/predict_memory.py --sizes 20000 40000      # about 10 minutes

Scenes are square, with four bands of int16. Only a diagonal strip, a twentieth of each, has data: missing
blocks take no room on disk. `treeline predict` runs in a process of its own, with default options and a
regressor of the recipe tiny; its peak is the resident memory that Linux reports (VmHWM). The scene in strips
has one row in each, as GDAL writes by default.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inference.config import PredictConfig  # noqa: E402
from inference.predict.in_process import InProcess  # noqa: E402
from inference.predict.run import predict  # noqa: E402
from ingest.config import SyntheticConfig  # noqa: E402
from ingest.synthetic.synthetic_source import SyntheticSource  # noqa: E402
from ingest.work.run import ingest  # noqa: E402
from trainer.commands.train_on_ray import launch  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.devices.cards import chosen_here  # noqa: E402

NODATA, TILE, SHARE = -9999, 512, 0.05


def write_scene(path: Path, size: int, tiled: bool) -> None:
    """Write a scene of `size` x `size` pixels with data on its diagonal."""
    rng = np.random.default_rng(0)
    pattern_CHW = rng.integers(100, 3000, (4, TILE, TILE)).astype(np.int16)
    profile = {"driver": "GTiff", "dtype": "int16", "count": 4, "width": size, "height": size}
    profile |= {"nodata": NODATA, "crs": "EPSG:32606", "transform": from_origin(500_000, 7_500_000, 2, 2)}
    profile |= {"compress": "deflate", "sparse_ok": True, "bigtiff": "yes", "interleave": "pixel"}
    if tiled:
        profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    wide = round(size * SHARE)
    with rasterio.open(path, "w", **profile) as raster:
        raster.descriptions = ("blue", "green", "red", "nir")
        for row in range(0, size, TILE):
            rows = min(TILE, size - row)
            first = min(row, size - wide)
            image_CHW = np.tile(pattern_CHW, (1, 1, -(-wide // TILE)))[:, :rows, :wide]
            raster.write(image_CHW, window=Window(first, row, wide, rows))


def run_one(scene: str, checkpoint: str, out: str) -> None:
    """Predict in this process; print seconds and GB."""
    start = time.perf_counter()
    summary = predict(PredictConfig((scene,), checkpoint, out), InProcess(chosen_here("auto")))
    assert not summary.failed, summary
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    print(json.dumps([time.perf_counter() - start, int(line.split()[1]) * 1024 / 1e9]))


def main() -> None:
    """Measure each size, tiled and in strips."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 20_000, 40_000])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(*options.one)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = SyntheticConfig(out=str(folder / "chips"), chips=64)
        ingest(SyntheticSource(config), config)
        launch(TrainConfig.of(config.out, str(folder / "run"), recipe="tiny", epochs=1))
        for size in options.sizes:
            for tiled in (True, False):
                scene = folder / f"{'tiles' if tiled else 'strips'}_{size}.tif"
                write_scene(scene, size, tiled)
                command = [sys.executable, __file__, "--one", str(scene), str(folder / "run")]
                command.append(str(folder / scene.stem))
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds, gigabytes = json.loads(done.stdout.splitlines()[-1])
                print(f"{scene.stem:14} {seconds:7.1f} s {gigabytes:6.2f} GB", flush=True)


if __name__ == "__main__":
    main()
