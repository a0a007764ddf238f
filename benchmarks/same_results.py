"""Check that two checkouts make the same datasets, weights, maps and scores from the same commands.

python benchmarks/same_results.py make OUT                  # with the code of this checkout
python benchmarks/same_results.py compare BEFORE AFTER      # two such folders

A change that alters no result shows identical checksums; one that alters some shows which. JSON files are
compared value by value, rasters by pixels and tags, everything else byte by byte. Differences in version,
commit, times and new options are listed as such; the exit code is 1 if anything else differs.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCENES = "--images demo/scenes/train/WV02_*.tif --heights"
UNSEEN = "demo/scenes/unseen"
COMMANDS = f"""
demo demo --train-scenes 3 --unseen-scenes 2 --scene-size 256 --epochs 1
ingest synthetic --chips 600 --shard-chips 128 --out synthetic
ingest pairs --images images --heights heights --shard-chips 8 --split-by scene --out pairs
convert pairs --to zarr --out pairs-zarr
ingest scenes {SCENES} demo/scenes/train/lidar_*.tif --stride 48 --out scenes
ingest scenes {SCENES} coarse/*.tif --pixel-size 4 --out regridded
split pairs --split-by key --shares 0.5 0.3 0.2
train --data synthetic --out run --epochs 2 --limit 256 --deterministic
train --data scenes --out run-tiny --recipe tiny --epochs 1 --deterministic --average 0.9 --accumulate 2
train --data scenes --out run-lora --tune lora --decoder linear --epochs 1 --deterministic
evaluate --checkpoint run --data scenes --split all --out scores
predict {UNSEEN}/WV02_*.tif --checkpoint run --out maps --spread --block 200
predict {UNSEEN}/WV02_*.tif --checkpoint run-tiny --out maps-8 --symmetries 8 --weights cosine --stac
mosaic maps/*.chm.tif --out mosaic.tif
mosaic maps/*.chm.tif maps-8/*.chm.tif --out mosaic-median.tif --method median --crs EPSG:3338 --resolution 3
evaluate --maps maps/*.chm.tif --heights {UNSEEN}/lidar_*.tif --out scores-maps
"""
PASSED_OVER = ("tensorboard", "report.html", ".png", ".predict/")
"""Parts of the names of files that show a time, are drawn, or are named by the time of a scene."""
RECORDED = {"treeline", "version", "commit", "made_by", "sha256", "TREELINE_VERSION", "TREELINE_COMMIT"}
"""Names of values that say who made a file."""


def write_pairs(count: int = 40) -> None:
    """Write folders of .npy chips, the same in every run."""
    for kind in ("images", "heights"):
        Path(kind).mkdir()
    generator = np.random.default_rng(7)
    for number in range(count):
        scene = f"WV02_201508{number % 28 + 1:02d}_M1BS_1030010047ADDD{number % 5:02d}"
        key = f"chip_{scene}_CHM_AK_IFSAR_CHM_{number:05d}_v1"
        image_CHW = generator.integers(1, 4000, (4, 64, 64)).astype(np.int16)
        height_HW = (image_CHW[3] / 400 + generator.random((64, 64))).astype(np.float32)
        if number % 9 == 4:
            image_CHW[:, :3] = -9999
        np.save(f"images/{key}.npy", image_CHW)
        np.save(f"heights/{key}.npy", height_HW)


def write_coarse() -> None:
    """Write the demo's heights in another CRS and pixel size."""
    from rasterio.enums import Resampling
    from rasterio.warp import calculate_default_transform, reproject

    Path("coarse").mkdir()
    for path in sorted(Path("demo/scenes/train").glob("lidar_*.tif")):
        with rasterio.open(path) as source:
            shape = calculate_default_transform(
                source.crs, "EPSG:3857", source.width, source.height, *source.bounds, resolution=5
            )
            height_HW = np.full((shape[2], shape[1]), -9999, np.float32)
            reproject(
                source.read(1).astype(np.float32),
                height_HW,
                src_transform=source.transform,
                src_crs=source.crs,
                src_nodata=source.nodata,
                dst_transform=shape[0],
                dst_crs="EPSG:3857",
                dst_nodata=-9999,
                resampling=Resampling.average,
            )
            profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "crs": "EPSG:3857", "nodata": -9999}
        with rasterio.open(
            f"coarse/{path.name}", "w", width=shape[1], height=shape[2], transform=shape[0], **profile
        ) as target:
            target.write(height_HW, 1)


def make(out: Path) -> None:
    """Run the commands in the empty folder `out`."""
    out.mkdir(parents=True)
    os.chdir(out)
    write_pairs()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    for line in COMMANDS.strip().splitlines():
        if "coarse/" in line:
            write_coarse()
        print(f"treeline {line}", flush=True)
        arguments = [
            name
            for word in shlex.split(line)
            for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            env=env,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    shutil.rmtree("demo/report", ignore_errors=True)


def content(path: Path) -> Any:
    """Read what is compared of a file: parsed values, pixels and tags, or bytes."""
    if path.suffix in (".json", ".yaml"):
        return yaml.safe_load(path.read_text())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".tif":
        with rasterio.open(path) as raster:
            pixels = hashlib.sha256(raster.read().tobytes()).hexdigest()
            places = [list(raster.transform), str(raster.crs), raster.nodata, list(raster.descriptions)]
            return {"pixels": pixels, "place": places, **raster.tags()}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(before: Any, after: Any, where: str) -> list[tuple[str, bool]]:
    """List the places where two values differ, each with whether it is only a record, or new."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [(f"{where}.{name} (new)", True) for name in after.keys() - before.keys()]
        found += [(f"{where}.{name} (gone)", False) for name in before.keys() - after.keys()]
        for name in before.keys() & after.keys():
            inner = differences(before[name], after[name], f"{where}.{name}")
            found += [(place, True) for place, _ in inner] if name in RECORDED else inner
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [d for place, (a, b) in pairs for d in differences(a, b, f"{where}[{place}]")]
    return [] if before == after else [(f"{where}: {before!r:.60} -> {after!r:.60}", False)]


def compare(before: Path, after: Path) -> int:
    """Print what differs, and a checksum of all that is equal; return 1 on a difference that matters."""
    names = {}
    for folder in (before, after):
        files = (p for p in folder.rglob("*") if p.is_file())
        names[folder] = {str(p.relative_to(folder)) for p in files}
        names[folder] = {n for n in names[folder] if not any(part in n for part in PASSED_OVER)}
    wrong = 0
    for name in sorted(names[before] ^ names[after]):
        wrong += name in names[before]
        print(f"{'gone' if name in names[before] else 'new '}  {name}")
    for name in sorted(names[before] & names[after]):
        found = differences(content(before / name), content(after / name), "")
        wrong += any(not allowed for _, allowed in found)
        digest = hashlib.sha256((after / name).read_bytes()).hexdigest()[:12]
        state = "same" if not found else "equal but for" if all(a for _, a in found) else "OTHER"
        print(f"{state}  {digest}  {name}  {', '.join(sorted(place for place, _ in found))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        sys.exit(compare(Path(sys.argv[2]), Path(sys.argv[3])))
