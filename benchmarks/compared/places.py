"""Places with known heights: each has ground to learn from and ground to be scored on.

`folds` cut the west half of Tahoe in two, north and south: choices are made there. Its east half, and worlds
of the synthetic landscape, are for reports alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from ingest.synthetic.landscape import make_landscape

HALF, SIDE = 200, 400
BANDS = ("nir", "red", "green")
WORLD_SIDE = 384
SHIFTED, MOST_PIXELS = 0.2, 2
"""Share of a world's training rows of blocks whose heights are shifted, and by how many pixels at most."""


@dataclass(frozen=True)
class Ground:
    """An image and its heights."""

    image_CHW: NDArray[Any]
    """As stored."""
    height_HW: NDArray[np.float32]
    """Metres; NaN where nothing is measured or the image has no value."""
    profile: dict[str, Any]
    """Profile of the image's GeoTIFF."""

    def write(self, folder: Path) -> tuple[str, str]:
        """Write both as GeoTIFFs; return their paths."""
        bands = len(self.image_CHW)
        paths = folder / "image.tif", folder / "heights.tif"
        with rasterio.open(paths[0], "w", **{**self.profile, "count": bands}) as file:
            file.write(self.image_CHW)
        profile = {**self.profile, "count": 1, "dtype": "float32", "nodata": -9999.0}
        with rasterio.open(paths[1], "w", **profile) as file:
            file.write(np.nan_to_num(self.height_HW, nan=-9999.0)[None])
            file.units = ("metre",)
        return str(paths[0]), str(paths[1])


@dataclass(frozen=True)
class Place:
    """Ground to learn from and ground to be scored on."""

    name: str
    learns: Ground
    scored: Ground
    bands: tuple[str, ...]
    is_kept_aside: bool
    """Whether a score is a look at ground that is kept for reports, which is counted."""


def folds(tahoe: Path) -> list[Place]:
    """Return both folds of Tahoe's west half."""
    north, south = (_tahoe(tahoe, Window(0, row, HALF, HALF)) for row in (0, HALF))
    return [
        Place("fold-north", south, north, BANDS, False),
        Place("fold-south", north, south, BANDS, False),
    ]


def east_half(tahoe: Path) -> Place:
    """Return Tahoe whole: learn from the west half, be scored on the east half."""
    halves = (_tahoe(tahoe, Window(column, 0, HALF, SIDE)) for column in (0, HALF))
    return Place("tahoe-east", *halves, BANDS, True)


def world(seed: int) -> Place:
    """Return a scene of a synthetic landscape to learn from, with some heights shifted, and a second one.

    The landscape has stands, shrubs, a cloud and holes. Of the training heights a fifth, in strips of 64
    rows, lie up to two pixels beside their trees.
    """
    learns, scored = (_scene(seed, number) for number in (0, 1))
    generator, height_HW = np.random.default_rng((seed, 2)), learns.height_HW.copy()
    for row in range(0, WORLD_SIDE, 64):
        if generator.random() < SHIFTED:
            shift = generator.integers(-MOST_PIXELS, MOST_PIXELS + 1, 2)
            height_HW[row : row + 64] = np.roll(learns.height_HW, shift, (0, 1))[row : row + 64]
    return Place(f"world-{seed}", Ground(learns.image_CHW, height_HW, learns.profile), scored, BANDS, True)


def _scene(seed: int, number: int) -> Ground:
    landscape = make_landscape(seed, number, (WORLD_SIDE, WORLD_SIDE))
    image_CHW = landscape.image_CHW[[3, 2, 1]]
    height_HW = np.where(image_CHW[0] == -9999, np.nan, landscape.height_m_HW).astype(np.float32)
    transform = rasterio.Affine(2, 0, 0, 0, -2, 1_500_000)
    return Ground(image_CHW, height_HW, _profile(image_CHW, "EPSG:3338", transform, -9999))


def _tahoe(folder: Path, window: Window) -> Ground:
    with rasterio.open(folder / "tahoe_highrez.tif") as source:
        image_CHW, transform, crs = source.read(window=window), source.window_transform(window), source.crs
    highest_HW, ground_HW = (
        rasterio.open(folder / f"tahoe_lidar_{name}.tif").read(1, window=window)
        for name in ("highesthit", "bareearth")
    )
    return Ground(image_CHW, highest_HW - ground_HW, _profile(image_CHW, crs, transform, None))


def _profile(image_CHW: NDArray[Any], crs: Any, transform: Any, nodata: float | None) -> dict[str, Any]:
    height, width = image_CHW.shape[1:]
    shape = {"height": height, "width": width, "dtype": image_CHW.dtype.name}
    return {"driver": "GTiff", "crs": crs, "transform": transform, "nodata": nodata, **shape}
