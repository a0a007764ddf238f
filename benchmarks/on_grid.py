"""Comparison of rules that bring a raster onto another grid: heights, pixels, seconds, memory.

python benchmarks/on_grid.py --tahoe ../shared/data/tahoe --sides 10000 20000      # about three minutes

First, canopy heights of Tahoe on pixels of 0.5 m and 2 m in UTM: each of GDAL's rules against the mean over
areas, which scores of maps use. Then a map of noise in pixels of 0.5 m is brought from one UTM zone into the
next, on pixels of its own size and a hundred times as large: by `Bilinear`, which mosaics use, and by a
WarpedVRT, from which chips are read. Each runs in a process of its own, for its peak of resident memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, transform
from rasterio.windows import Window

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shards.raster.grid import Grid  # noqa: E402
from shards.raster.on_grid import Areas, Bilinear, area_means, read_on_grid, resampled  # noqa: E402
from shards.raster.opening import bound_cache, open_raster  # noqa: E402

NODATA = -9999
FIRST, NEXT = "EPSG:32605", "EPSG:32606"
LEFT, TOP, SIDE = 500_000.0, 7_200_000.0, 0.5
VALUES = {"src_nodata": NODATA, "nodata": NODATA, "dtype": "float32"}


def tahoe_on(folder: Path, resolution: float, rule: str) -> NDArray[np.float64]:
    """Return canopy heights in UTM by a rule, NaN where there are none."""
    heights = []
    for name in ("highesthit", "bareearth"):
        with ExitStack() as opened:
            raster = opened.enter_context(open_raster(str(folder / f"tahoe_lidar_{name}.tif")))
            affine, width, height = calculate_default_transform(
                raster.crs, "EPSG:32610", raster.width, raster.height, *raster.bounds, resolution=resolution
            )
            grid = Grid(CRS.from_epsg(32610), affine, height, width)
            if rule == "area_means":
                values_HW = raster.read(1).astype(np.float64)
                areas = Areas.of(grid, range(height), range(width), raster.crs)
                wanted_HW = np.ones((height, width), np.bool_)
                found_HW = area_means(
                    lambda part, v=values_HW: v[part.toslices()], Grid.of(raster), areas, wanted_HW
                )
            else:
                warped = opened.enter_context(resampled(raster, grid, Resampling[rule], **VALUES))
                stored_HW = read_on_grid(warped, 1, Window(0, 0, width, height)).astype(np.float64)
                found_HW = np.where(stored_HW == NODATA, np.nan, stored_HW)
            heights.append(found_HW)
    return np.asarray(heights[0] - heights[1])


def write_map(path: Path, side: int) -> None:
    """Write a map of 0 to 30 m in decimetres: no two neighbours alike, one pixel in a hundred missing."""
    (x,), (y,) = transform(NEXT, FIRST, [LEFT], [TOP])
    shape = {"height": side, "width": side, "count": 1, "dtype": "int16", "nodata": NODATA}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    generator = np.random.default_rng(0)
    with rasterio.open(
        path, "w", "GTiff", crs=FIRST, transform=Affine(SIDE, 0, x, 0, -SIDE, y), **shape, **tiles
    ) as raster:
        for row in range(0, side, 512):
            decimetres_HW = generator.integers(0, 300, (min(512, side - row), side)).astype(np.int16)
            decimetres_HW[generator.random(decimetres_HW.shape) < 0.01] = NODATA
            raster.write(decimetres_HW, 1, window=Window(0, row, side, len(decimetres_HW)))


def measured(path: Path, ratio: int, way: str, out: Path) -> dict[str, Any]:
    """Bring the map into the next zone; return seconds and MB, and write its pixels to `out`."""
    bound_cache()
    began, pixel = time.perf_counter(), SIDE * ratio
    with ExitStack() as opened:
        raster = opened.enter_context(open_raster(str(path)))
        side, scale = raster.width // ratio + 2, 1 / ratio
        grid = Grid(CRS.from_string(NEXT), Affine(pixel, 0, LEFT - pixel, 0, -pixel, TOP + pixel), side, side)
        whole = Window(0, 0, side, side)
        if way == "reproject":
            band = Bilinear(raster, 1, NODATA, grid.crs, grid.transform, whole, (scale, scale))
            values_HW = band.read(whole)
        else:
            options = VALUES | {"XSCALE": scale, "YSCALE": scale}
            warped = opened.enter_context(resampled(raster, grid, Resampling.bilinear, **options))
            values_HW = read_on_grid(warped, 1, whole)
            values_HW[values_HW == NODATA] = np.nan
    np.save(out, values_HW)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"seconds": round(time.perf_counter() - began, 1), "MB": peak}


def main() -> None:
    """Run the comparisons, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tahoe", type=Path, default=ROOT.parent / "shared" / "data" / "tahoe")
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000])
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        path, ratio, way, out = options.only
        print(json.dumps(measured(Path(path), int(ratio), way, Path(out))))
        return
    for resolution in (0.5, 2.0):
        exact_HW = tahoe_on(options.tahoe, resolution, "area_means")
        for rule in ("average", "bilinear", "nearest"):
            error_HW = tahoe_on(options.tahoe, resolution, rule) - exact_HW
            more = np.isfinite(tahoe_on(options.tahoe, resolution, rule)).sum() - np.isfinite(exact_HW).sum()
            rms, most = np.sqrt(np.nanmean(error_HW**2)), np.nanmax(np.abs(error_HW))
            print(f"Tahoe, {resolution} m, {rule}: RMS {rms:.3f} m, at most {most:.2f} m, {more:+,} pixels")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.tif"
        for side, ratio in [(3000, 1), *((side, 100) for side in options.sides)]:
            write_map(path, side)
            found = []
            for way in ("reproject", "WarpedVRT"):
                out = Path(folder) / f"{way}.npy"
                command = [sys.executable, __file__, "--only", str(path), str(ratio), way, str(out)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.append(np.load(out))
                print(f"{side} pixels a side, 1:{ratio}, {way}: {json.loads(said)}")
            valid_HW = [np.isfinite(values_HW) for values_HW in found]
            both_HW = valid_HW[0] & valid_HW[1]
            changed = (np.rint(found[0]) != np.rint(found[1]))[both_HW].sum()
            edges = (valid_HW[0] != valid_HW[1]).sum()
            print(f"  {changed:,} of {both_HW.sum():,} decimetres differ, {edges} pixels are in one alone")


if __name__ == "__main__":
    main()
