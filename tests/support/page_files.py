"""Files that pages of the documentation take for the reader's own: small, and the same in every run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

SEASONS = ("spring", "summer", "autumn", "winter")
RADAR = tuple(f"{polarisation}_{season}" for season in SEASONS for polarisation in ("vv", "vh"))


def own_scenes(folder: Path, demo: Path) -> None:
    """scenes/ and lidar/, as in the README: one of each, since it trains for thirty epochs."""
    for name, pattern in (("scenes", "WV02_20200826_*.tif"), ("lidar", "lidar_20200826_*.tif")):
        (folder / name).mkdir()
        for path in (demo / "scenes" / "train").glob(pattern):
            shutil.copy(path, folder / name)


def rasters_of_labels(folder: Path, demo: Path) -> None:
    """Chips, and rasters of tree cover and of land cover on the same ground, beside radar images."""
    rng = np.random.default_rng(0)
    shutil.copytree(demo / "chips", folder / "chips")
    place = Affine(250, 0, -101_000, 0, -250, 1_502_000)
    write(folder / "MOD44B" / "2020.tif", rng.choice([5, 40, 80, 200], (1, 20, 20)).astype(np.uint8), place)
    write(folder / "landcover" / "2020.tif", rng.choice([1, 2, 4], (1, 40, 40)).astype(np.uint8), place)
    image_CHW = rng.normal(-12, 2, (2, 128, 128)).astype(np.float32)
    write(folder / "s1" / "s1.tif", image_CHW, Affine(10, 0, -100_000, 0, -10, 1_500_000), ("vv", "vh"))


def radar_pairs(folder: Path, demo: Path) -> None:
    """s1/ and chm/: radar chips as bytes, and heights."""
    rng = np.random.default_rng(0)
    for name in ("s1", "chm"):
        (folder / name).mkdir()
    for number in range(20):
        height_HW = rng.gamma(2.0, 2.0, (64, 64)).astype(np.float32)
        image_CHW = rng.normal(120, 20, (4, 64, 64)).clip(1, 255).astype(np.uint8)
        np.save(folder / "chm" / f"tile{number}.npy", height_HW)
        np.save(folder / "s1" / f"tile{number}.npy", image_CHW)


def rasters_of_attention(folder: Path, demo: Path) -> None:
    """Radar tiles, and an optical image, an index of vegetation and classes on the same ground."""
    rng = np.random.default_rng(0)
    place = Affine(10, 0, 500_000, 0, -10, 5_500_000)
    level_C11 = np.array([-10.0, -17.0] * len(SEASONS))[:, None, None]
    image_CHW = (level_C11 + rng.normal(0, 2, (len(RADAR), 64, 64))).astype(np.float32)
    write(folder / "s1" / "tile.tif", image_CHW, place, RADAR, crs="EPSG:32633")
    optical_CHW = rng.integers(200, 3000, (3, 64, 64)).astype(np.int16)
    write(folder / "s2" / "tile.tif", optical_CHW, place, ("red", "green", "blue"), crs="EPSG:32633")
    ndvi_1HW = rng.uniform(0, 1, (1, 64, 64)).astype(np.float32)
    write(folder / "ndvi" / "tile.tif", ndvi_1HW, place, crs="EPSG:32633")
    write(
        folder / "lc" / "tile.tif", rng.integers(1, 6, (1, 64, 64)).astype(np.uint8), place, crs="EPSG:32633"
    )


def write(
    path: Path,
    image_CHW: NDArray[np.generic],
    place: Affine,
    names: tuple[str, ...] = (),
    crs: str = "EPSG:3338",
) -> None:
    """Write a GeoTIFF."""
    path.parent.mkdir(exist_ok=True)
    shape = dict(zip(("count", "height", "width"), image_CHW.shape, strict=True))
    given = {"driver": "GTiff", "dtype": image_CHW.dtype.name, "crs": crs, "transform": place}
    with rasterio.open(path, "w", **given, **shape) as raster:
        raster.write(image_CHW)
        if names:
            raster.descriptions = names


FILES: dict[str, Callable[[Path, Path], None]] = {
    "README": own_scenes,
    "labels": rasters_of_labels,
    "training": radar_pairs,
    "pretraining": rasters_of_attention,
}
"""By page: what makes the files in a folder, given the small demo's."""
