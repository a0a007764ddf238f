"""A synthetic taiga-tundra landscape: satellite scenes with lidar-like heights, for demos and load tests.

The world is drawn on cells of 1 m and seen through pixels of 2 m. Height shows in the image only as in
nature: through crown size, shading and the length of shadows. Every field is periodic, so crowns and shadows
that leave the scene on one side come back on the other, and no edge is special.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio

from shards.format.missing import NODATA as NODATA
from shards.storage.objects import staged

FloatHW = npt.NDArray[np.floating[Any]]
FloatCHW = npt.NDArray[np.floating[Any]]
FloatN = npt.NDArray[np.floating[Any]]
BoolHW = npt.NDArray[np.bool_]

CELL_M = 1.0
PIXEL_M = 2.0
BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:3338"
ORIGIN_X_M, ORIGIN_Y_M = -100_000.0, 1_500_000.0
SCENES_PER_ROW = 16

# Sunlit reflectance x 10,000 of each cover in blue, green, red, near infrared, as summer satellites see it.
COVERS = ("spruce", "shrub", "tundra", "wet")
REFLECTANCE_KC = np.array(
    [[330, 520, 400, 2350], [350, 640, 450, 3000], [560, 800, 820, 2500], [300, 460, 390, 1650]], np.float32
)
# Variation of a cover's colour, as standard deviation of its logarithm: in brightness, and from lush to bare.
BRIGHTNESS_STD_K = np.array([0.12, 0.12, 0.14, 0.16], np.float32)
BARENESS_STD_KC = np.array(
    [[0.05, 0.0, 0.10, -0.10], [0.08, 0.0, 0.15, -0.15], [0.20, 0.15, 0.24, -0.10], [0.1, 0.1, 0.2, -0.25]],
    np.float32,
)
# Share of the light that comes from the whole sky, and so reaches shadows: highest in blue.
SKY_LIGHT_C = np.array([0.36, 0.27, 0.21, 0.17], np.float32)
CLOUD_C = np.array([6200, 6000, 5900, 6600], np.float32)


class Sun(NamedTuple):
    """Position of the sun in degrees: azimuth clockwise from north, elevation above the horizon."""

    azimuth_deg: float
    elevation_deg: float


class Plants(NamedTuple):
    """N plants, all in metres: stem from the north (row) and west (col) edge, height, crown radius."""

    row_m: FloatN
    col_m: FloatN
    height_m: FloatN
    radius_m: FloatN


class Landscape(NamedTuple):
    """A scene with its heights."""

    image_CHW: npt.NDArray[np.int16]
    """Reflectance x 10,000 as int16; nodata -9999."""
    height_m_HW: FloatHW
    """Heights in metres as float32, valid everywhere."""
    sun: Sun


class ScenePaths(NamedTuple):
    """The two files of a scene."""

    image: Path
    height: Path


def fractal_noise(shape_HW: tuple[int, int], exponent: float, rng: np.random.Generator) -> FloatHW:
    """Draw periodic noise (H, W), mean 0 and standard deviation 1, with amplitude as frequency^-exponent.

    Exponent 1 gives clumps of every size alike, 2 gives rolling hills.
    """
    spectrum = np.fft.rfft2(rng.standard_normal(shape_HW, dtype=np.float32))
    # Frequencies in cycles per cell, not per side: a non-square scene then has round clumps.
    frequency = np.hypot(np.fft.fftfreq(shape_HW[0])[:, None], np.fft.rfftfreq(shape_HW[1])[None, :])
    frequency[0, 0] = np.inf
    spectrum *= (frequency**-exponent).astype(np.float32)
    noise = np.fft.irfft2(spectrum, s=shape_HW, axes=(0, 1)).astype(np.float32)
    return noise / np.float32(noise.std())


def terrain(shape_HW: tuple[int, int], cell_m: float, rng: np.random.Generator) -> FloatHW:
    """Draw rolling hills: elevation (H, W) in metres around 700 m, relief in proportion to the extent."""
    relief_std_m = 0.04 * cell_m * float(np.sqrt(shape_HW[0] * shape_HW[1]))
    return np.float32(700) + np.float32(relief_std_m) * fractal_noise(shape_HW, 2.6, rng)


def plant_spruce(altitude_HW: FloatHW, rng: np.random.Generator) -> Plants:
    """Plant spruce on 1 m cells; altitude_HW is elevation above the treeline, in standard deviations.

    Stems get rarer and shorter uphill, and stand in clumps whose mean height has a fractal map of its own.
    """
    shape_HW = (altitude_HW.shape[0], altitude_HW.shape[1])
    clumps_HW = fractal_noise(shape_HW, 1.0, rng)
    density_HW = 0.10 * _sigmoid(2.2 * clumps_HW - 2.2 * altitude_HW - 2.1)
    row_m, col_m, cell = _scatter(density_HW, rng)
    stand_HW = 6.8 * np.exp(0.38 * fractal_noise(shape_HW, 1.4, rng) - 0.12 * altitude_HW)
    height_m = stand_HW.ravel()[cell] * np.exp(rng.normal(0.0, 0.32, cell.size))
    height_m = np.clip(height_m, 1.5, 24.0).astype(np.float32)
    crown_ratio = np.clip(rng.normal(0.175, 0.02, cell.size), 0.12, 0.24).astype(np.float32)
    return Plants(row_m, col_m, height_m, height_m * crown_ratio)


def plant_shrubs(altitude_HW: FloatHW, rng: np.random.Generator) -> Plants:
    """Plant shrubs of 0.4-3 m on a grid of 1 m cells: thickets that climb a little higher than the spruce."""
    shape_HW = (altitude_HW.shape[0], altitude_HW.shape[1])
    thickets_HW = fractal_noise(shape_HW, 1.1, rng)
    density_HW = 0.12 * _sigmoid(3.5 * thickets_HW - 0.8 * np.abs(altitude_HW - 0.4) - 4.0)
    row_m, col_m, cell = _scatter(density_HW, rng)
    height_m = np.clip(0.4 + rng.gamma(2.0, 0.4, cell.size), 0.4, 3.0).astype(np.float32)
    radius_m = 0.5 + height_m * rng.uniform(0.4, 0.7, cell.size).astype(np.float32)
    return Plants(row_m, col_m, height_m, radius_m)


def cone(distance: FloatN) -> FloatN:
    """Return the share of a spruce's height at a distance in crown radii; its lowest branches are at 0.25."""
    return np.float32(1) - np.float32(0.75) * distance


def dome(distance: FloatN) -> FloatN:
    """Return the share of a shrub's height at a distance in crown radii."""
    return np.sqrt(np.maximum(np.float32(1) - np.float32(0.8) * distance * distance, 0))


def stamp_crowns(shape_HW: tuple[int, int], plants: Plants, profile: Callable[[FloatN], FloatN]) -> FloatHW:
    """Draw the top of crowns (H, W) in metres above ground, 0 elsewhere, on a periodic grid of 1 m cells."""
    num_rows, num_cols = shape_HW
    canopy_m_HW = np.zeros(shape_HW, np.float32)
    canopy_flat = canopy_m_HW.reshape(-1)
    # A stem nearer to a cell's centre than half its diagonal always marks that cell, however thin its crown.
    reach_m = np.maximum(plants.radius_m, np.float32(0.71))
    # A group for each reach in whole cells, a pass for each offset: memory stays that of a list of plants.
    reach_cells = np.ceil(reach_m).astype(np.int64)
    for reach in np.unique(reach_cells):
        group = reach_cells == reach
        row_m, col_m, height_m, radius_m = (field[group] for field in plants)
        row, col = np.floor(row_m).astype(np.int64), np.floor(col_m).astype(np.int64)
        for d_row in range(-reach, reach + 1):
            for d_col in range(-reach, reach + 1):
                distance_m = np.hypot(row + d_row + 0.5 - row_m, col + d_col + 0.5 - col_m).astype(np.float32)
                hit = distance_m <= reach_m[group]
                top_m = height_m[hit] * profile(np.minimum(distance_m[hit] / radius_m[hit], 1))
                cell = (row[hit] + d_row) % num_rows * num_cols + (col[hit] + d_col) % num_cols
                np.maximum.at(canopy_flat, cell, top_m)
    return canopy_m_HW


def shadow_depth(canopy_m_HW: FloatHW, ground_m_HW: FloatHW, sun: Sun, cell_m: float) -> FloatHW:
    """Compute how many metres (H, W) each cell lies below the edge of the light; 0 in the sun."""
    surface_m_HW = ground_m_HW + canopy_m_HW
    drop_m = cell_m * np.tan(np.radians(sun.elevation_deg))
    # A fifth more than on flat ground, because shadows that fall downhill are longer.
    num_steps = int(np.ceil(1.2 * float(canopy_m_HW.max()) / drop_m))
    azimuth = np.radians(sun.azimuth_deg)
    num_rows, num_cols = surface_m_HW.shape
    padded = np.pad(surface_m_HW, num_steps, mode="wrap")
    ceiling_m_HW = surface_m_HW.copy()
    for step in range(1, num_steps + 1):
        top = num_steps + round(-step * float(np.cos(azimuth)))
        left = num_steps + round(step * float(np.sin(azimuth)))
        towards_sun = padded[top : top + num_rows, left : left + num_cols]
        np.maximum(ceiling_m_HW, towards_sun - np.float32(step * drop_m), out=ceiling_m_HW)
    return ceiling_m_HW - surface_m_HW


def hill_shade(surface_m_HW: FloatHW, sun: Sun, cell_m: float) -> FloatHW:
    """Compute direct sunlight (H, W) on a matt surface: 1 on flat ground, 0 where it faces away."""
    slope_south = (np.roll(surface_m_HW, -1, 0) - np.roll(surface_m_HW, 1, 0)) / np.float32(2 * cell_m)
    slope_east = (np.roll(surface_m_HW, -1, 1) - np.roll(surface_m_HW, 1, 1)) / np.float32(2 * cell_m)
    azimuth, tan_elevation = np.radians(sun.azimuth_deg), np.tan(np.radians(sun.elevation_deg))
    north, east = np.float32(np.cos(azimuth) / tan_elevation), np.float32(np.sin(azimuth) / tan_elevation)
    facing = 1 + north * slope_south - east * slope_east
    return np.clip(facing / np.sqrt(1 + slope_south**2 + slope_east**2), 0, 2)


def reflectance(cover_KHW: FloatCHW, sunlit_KHW: FloatCHW, rng: np.random.Generator) -> FloatCHW:
    """Compute what the sensor sees: reflectance x 10,000 (4, H, W).

    The colours vary smoothly within a scene and from scene to scene, independently of height.

    Args:
        cover_KHW: share of each pixel that each of the 4 covers has.
        sunlit_KHW: direct sun that each cover receives there.
        rng: source of the colours and the noise.
    """
    shape_HW = (cover_KHW.shape[1], cover_KHW.shape[2])
    image_CHW = np.zeros((len(BANDS), *shape_HW), np.float32)
    for k in range(len(COVERS)):
        brightness_HW = BRIGHTNESS_STD_K[k] * (fractal_noise(shape_HW, 1.0, rng) + rng.normal(0.0, 0.5))
        bareness_HW = fractal_noise(shape_HW, 1.1, rng) + rng.normal(0.0, 0.5)
        for c in range(len(BANDS)):
            colour_HW = REFLECTANCE_KC[k, c] * np.exp(brightness_HW + BARENESS_STD_KC[k, c] * bareness_HW)
            light_HW = (1 - SKY_LIGHT_C[c]) * sunlit_KHW[k] + SKY_LIGHT_C[c] * cover_KHW[k]
            image_CHW[c] += colour_HW.astype(np.float32) * light_HW
    for axis in (1, 2):  # the optics spread a seventh of a pixel's light to either side
        image_CHW += 0.14 * (np.roll(image_CHW, 1, axis) + np.roll(image_CHW, -1, axis) - 2 * image_CHW)
    noise_CHW = rng.standard_normal(image_CHW.shape, dtype=np.float32)
    return image_CHW + (6 + 0.015 * image_CHW) * noise_CHW


def cloud_cover(shape_HW: tuple[int, int], rng: np.random.Generator) -> FloatHW:
    """Draw the opacity (H, W), 0..1, of a small ragged cloud near the scene's middle, a few % of its area."""
    radius = 0.09 * min(shape_HW)
    distance_HW = _distance_from(rng.uniform(0.3, 0.7, 2), shape_HW) / np.float32(radius)
    return np.clip(1.4 - distance_HW + 0.2 * fractal_noise(shape_HW, 1.3, rng), 0, 1) ** 2


def missing(shape_HW: tuple[int, int], rng: np.random.Generator) -> BoolHW:
    """Draw the missing pixels (H, W): three ragged holes, and in half the scenes a slanted edge."""
    ragged_HW = 0.25 * fractal_noise(shape_HW, 1.5, rng)
    missing_HW = np.zeros(shape_HW, np.bool_)
    for _ in range(3):
        # 1.5 pixels shrunk by half, the most that raggedness can, still hold one pixel's centre.
        radius = max(1.5, rng.uniform(0.007, 0.018) * min(shape_HW))
        distance_HW = _distance_from(rng.uniform(0.05, 0.95, 2), shape_HW)
        missing_HW |= distance_HW < radius * np.maximum(1 + ragged_HW, 0.5)
    width, lean, has_edge = rng.uniform(0.01, 0.06), rng.uniform(0.02, 0.08), rng.random() < 0.5
    if has_edge:
        row = np.arange(shape_HW[0])[:, None] / shape_HW[0]
        missing_HW |= np.arange(shape_HW[1])[None, :] / shape_HW[1] < width + lean * row
    return missing_HW


def make_landscape(seed: int, scene_number: int = 0, shape_px: tuple[int, int] = (512, 512)) -> Landscape:
    """Make image (4, H, W) and heights (H, W) of a scene of 2 m pixels; same arguments, same arrays."""
    if min(shape_px) < 64:
        raise ValueError(f"scene of {shape_px[0]} x {shape_px[1]} pixels: each side needs at least 64 pixels")
    rng = np.random.default_rng([seed, scene_number])
    sun = Sun(float(rng.uniform(140, 210)), float(rng.uniform(32, 48)))
    cells_HW = (2 * shape_px[0], 2 * shape_px[1])
    ground_m_HW = terrain(cells_HW, CELL_M, rng)
    treeline_m = ground_m_HW.mean() + rng.uniform(-0.3, 0.5) * ground_m_HW.std()
    altitude_HW = (ground_m_HW - treeline_m) / ground_m_HW.std()
    spruce_m_HW = stamp_crowns(cells_HW, plant_spruce(altitude_HW, rng), cone)
    shrub_m_HW = stamp_crowns(cells_HW, plant_shrubs(altitude_HW, rng), dome)
    canopy_m_HW = np.maximum(spruce_m_HW, shrub_m_HW)

    # Crowns are porous: a little sun passes through, and their sides look less steep than they are.
    shaded_HW = 0.85 * np.clip(shadow_depth(canopy_m_HW, ground_m_HW, sun, CELL_M) / 0.5, 0, 1)
    sunlight_HW = (1 - shaded_HW) * hill_shade(ground_m_HW + 0.3 * canopy_m_HW, sun, CELL_M)
    wet_HW = _sigmoid(4 * fractal_noise(cells_HW, 1.3, rng) - 2 * altitude_HW - 6)
    is_spruce_HW = (spruce_m_HW > 0) & (spruce_m_HW >= shrub_m_HW)
    is_shrub_HW = (shrub_m_HW > 0) & ~is_spruce_HW
    is_ground_HW = canopy_m_HW == 0
    covers = (is_spruce_HW, is_shrub_HW, is_ground_HW * (1 - wet_HW), is_ground_HW * wet_HW)
    cover_KHW = np.stack([_quads(cover_HW).mean((1, 3), np.float32) for cover_HW in covers])
    sunlit_KHW = np.stack([_quads(cover_HW * sunlight_HW).mean((1, 3)) for cover_HW in covers])

    image_CHW = reflectance(cover_KHW, sunlit_KHW, rng)
    image_CHW += cloud_cover(shape_px, rng) * (CLOUD_C[:, None, None] - image_CHW)
    image_CHW = np.clip(np.rint(image_CHW), 1, 16_000)
    image_CHW[:, missing(shape_px, rng)] = NODATA
    height_m_HW = _quads(canopy_m_HW).max((1, 3)) + rng.normal(0, 0.04, shape_px)
    height_m_HW[height_m_HW < 0.3] = 0  # a lidar cannot tell so low a return from the ground
    return Landscape(image_CHW.astype(np.int16), height_m_HW.astype(np.float32), sun)


def write_scene(
    folder: Path, scene_number: int, seed: int, shape_px: tuple[int, int] = (512, 512)
) -> ScenePaths:
    """Write a scene and its heights as GeoTIFFs; the same arguments give the same names and bytes.

    Scenes of one shape lie side by side, 16 to a row. A file appears under its name only when it is whole.
    """
    landscape = make_landscape(seed, scene_number, shape_px)
    rng = np.random.default_rng([seed, scene_number, 1])
    date = f"2020{rng.integers(6, 9):02d}{rng.integers(1, 31):02d}"
    catalogue_id = f"1030010{rng.integers(16**9):09X}"
    row, col = divmod(scene_number, SCENES_PER_ROW)
    west_m, north_m = ORIGIN_X_M + col * PIXEL_M * shape_px[1], ORIGIN_Y_M - row * PIXEL_M * shape_px[0]
    paths = ScenePaths(
        folder / f"WV02_{date}_M1BS_{catalogue_id}-sr-02m.tif",
        folder / f"lidar_{date}_{catalogue_id}-chm-02m.tif",
    )
    _write_geotiff(paths.image, landscape.image_CHW, BANDS, (west_m, north_m))
    _write_geotiff(paths.height, landscape.height_m_HW[None], ("height",), (west_m, north_m))
    return paths


def _write_geotiff(
    path: Path,
    array_CHW: npt.NDArray[np.int16] | FloatCHW,
    bands: tuple[str, ...],
    corner_xy_m: tuple[float, float],
) -> None:
    num_bands, num_rows, num_cols = array_CHW.shape
    with (
        staged(str(path)) as partial_path,
        rasterio.open(
            partial_path,
            "w",
            driver="GTiff",
            count=num_bands,
            height=num_rows,
            width=num_cols,
            dtype=array_CHW.dtype,
            crs=CRS,
            transform=rasterio.Affine(PIXEL_M, 0, corner_xy_m[0], 0, -PIXEL_M, corner_xy_m[1]),
            nodata=NODATA,
            tiled=True,
            compress="deflate",
        ) as raster,
    ):
        raster.write(array_CHW)
        raster.descriptions = bands
        raster.units = ("metre",) if bands == ("height",) else ("reflectance x 10000",) * num_bands


def _scatter(density_HW: FloatHW, rng: np.random.Generator) -> tuple[FloatN, FloatN, npt.NDArray[np.intp]]:
    """Scatter stems over cells of 1 m, density_HW per cell; return row and column in metres, and the cell."""
    cell = np.flatnonzero(rng.random(density_HW.shape, dtype=np.float32) < density_HW)
    row, col = np.divmod(cell, density_HW.shape[1])
    # float32 halves the memory of a forest, and still places a stem 4 km away to a quarter of a millimetre.
    row_m, col_m = row + rng.random(cell.size), col + rng.random(cell.size)
    return row_m.astype(np.float32), col_m.astype(np.float32), cell


def _distance_from(centre: npt.NDArray[np.float64], shape_HW: tuple[int, int]) -> FloatHW:
    """Compute the distance (H, W) in pixels from a point given as shares of the two sides."""
    row, col = np.arange(shape_HW[0])[:, None], np.arange(shape_HW[1])[None, :]
    distance_HW: FloatHW = np.hypot(row - centre[0] * shape_HW[0], col - centre[1] * shape_HW[1])
    return distance_HW.astype(np.float32)


def _quads(cells_HW: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Reshape so that axes 1 and 3 hold the 2 x 2 cells of 1 m in each pixel of 2 m."""
    return cells_HW.reshape(cells_HW.shape[0] // 2, 2, cells_HW.shape[1] // 2, 2)


def _sigmoid(x_HW: FloatHW) -> FloatHW:
    return 1 / (1 + np.exp(-x_HW))
