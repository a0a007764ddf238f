"""Rasters -> a dataset: chips are the pixels of the raster, with the heights of the same ground.

- on one grid, chips and heights are the pixels cut from the rasters; every whole chip is kept or listed
- height minus ground; a height raster with other pixels or another CRS lands on the same ground
- stride, resampling, choice of bands; the index says where and when
- a raster that cannot be used is named, and nothing is left behind
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject, transform

from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.synthetic.landscape import BANDS, NODATA, ScenePaths, write_scene
from ingest.work.run import ingest as ingest_source
from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset

SHAPE_PX = (192, 224)
SIZE = 32
UTM = "EPSG:32605"

Pixels = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> ScenePaths:
    """An image and heights on one grid; not to be changed by a test."""
    return write_scene(tmp_path_factory.mktemp("scene"), scene_number=0, seed=4, shape_px=SHAPE_PX)


def ingest(scene: ScenePaths, out: Path, **options: Any) -> Dataset:
    given = {"images": (str(scene.image),), "heights": (str(scene.height),), "chip_size": SIZE}
    config = ScenesConfig(**{**given, **options}, out=str(out))
    ingest_source(ScenesSource(config), config)
    return open_dataset(str(out))


def pixels(dataset: Dataset) -> Pixels:
    """Image and height by key."""
    batch = dataset.gather(dataset.chips("all"))
    keys = dataset.index["key"].to_pylist()
    return dict(zip(keys, zip(batch.image_BCHW, batch.height_BHW, strict=True), strict=True))


def corner(key: str) -> tuple[int, int]:
    """(row, column) of a chip's first pixel."""
    row, column = key.split("_")[-2:]
    return int(row), int(column)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


def write(path: Path, array_CHW: np.ndarray, like: Path, **profile: Any) -> Path:
    """`array_CHW` as a raster with the profile of `like`, but for what is given."""
    with rasterio.open(like) as raster:
        given = {"count": array_CHW.shape[0], "dtype": array_CHW.dtype.name}
        profile = {**raster.profile, **given, **profile}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(array_CHW)
    return path


def warped(path: Path, source: Path, crs: str | None = None, scale: float = 1.0) -> Path:
    """`source` in another CRS, or with pixels of `scale` times the size."""
    with rasterio.open(source) as raster:
        crs = crs or raster.crs
        grid, width, height = calculate_default_transform(
            raster.crs, crs, raster.width, raster.height, *raster.bounds, resolution=scale * raster.res[0]
        )
        array_CHW = np.full((raster.count, height, width), NODATA, raster.dtypes[0])
        reproject(
            rasterio.band(raster, list(raster.indexes)),
            array_CHW,
            dst_transform=grid,
            dst_crs=crs,
            dst_nodata=NODATA,
            resampling=Resampling.bilinear,
        )
    return write(path, array_CHW, source, crs=crs, transform=grid, width=width, height=height)


def smooth_heights(scene: ScenePaths, path: Path) -> Path:
    """Heights of 5 to 15 m that change slowly (waves of 200 m), so that resampling hardly changes them."""
    rows, columns = np.mgrid[: SHAPE_PX[0], : SHAPE_PX[1]]
    height_HW = 10 + 2.5 * (np.sin(rows * np.pi / 50) + np.cos(columns * np.pi / 50))
    return write(path, height_HW[None].astype(np.float32), scene.height)


def nothing_left(folder: Path) -> bool:
    return not folder.exists()


# On one grid


@pytest.mark.parametrize("stride", [0, SIZE, SIZE // 2, 48])
def test_chips_are_the_pixels_cut_from_the_rasters_and_none_is_forgotten(
    scene: ScenePaths, tmp_path: Path, stride: int
) -> None:
    image_CHW, height_HW = read(scene.image), read(scene.height)[0]
    dataset = ingest(scene, tmp_path / "out", stride=stride)
    found, step = pixels(dataset), stride or SIZE
    expected = set()
    for row in range(0, SHAPE_PX[0] - SIZE + 1, step):
        for column in range(0, SHAPE_PX[1] - SIZE + 1, step):
            cut = np.s_[row : row + SIZE, column : column + SIZE]
            key = f"{scene.image.stem}_{row:05d}_{column:05d}"
            if (image_CHW[:, *cut] == NODATA).any() or not (height_HW[cut] > 0).any():
                continue
            expected.add(key)
            np.testing.assert_array_equal(found[key][0], image_CHW[:, *cut])
            np.testing.assert_array_equal(found[key][1], height_HW[cut])
    assert found.keys() == expected
    per_side = [(side - SIZE) // step + 1 for side in SHAPE_PX]
    assert len(expected) + dataset.rejected.num_rows == per_side[0] * per_side[1]
    assert 0 < dataset.manifest.rejected["incomplete"] <= dataset.rejected.num_rows
    assert dataset.schema.bands == BANDS
    assert (dataset.schema.nodata, dataset.schema.pixel_size) == (NODATA, 2.0)


def test_the_index_says_where_and_when(scene: ScenePaths, tmp_path: Path) -> None:
    dataset = ingest(scene, tmp_path / "out")
    day = scene.image.stem.split("_")[1]
    with rasterio.open(scene.image) as raster:
        for entry in dataset.index.to_pylist():
            row, column = corner(entry["key"])
            middle = raster.xy(row + SIZE // 2, column + SIZE // 2, offset="ul")
            assert (entry["x"], entry["y"]) == pytest.approx(middle)
            assert entry["crs"] == "EPSG:3338"
            assert entry["acquired"] == f"{day[:4]}-{day[4:6]}-{day[6:]}"
            assert (entry["sensor"], entry["scene"]) == ("WV02", scene.image.stem)
            assert entry["source"] == scene.height.stem


def test_bands_are_chosen_by_name_in_the_order_asked_for(scene: ScenePaths, tmp_path: Path) -> None:
    every = pixels(ingest(scene, tmp_path / "every"))
    dataset = ingest(scene, tmp_path / "some", use=("nir", "green"))
    assert dataset.schema.bands == ("nir", "green")
    for key, (image_CHW, _) in pixels(dataset).items():
        np.testing.assert_array_equal(image_CHW, every[key][0][[3, 1]])
    with pytest.raises(InputError, match="lacks band swir"):
        ingest(scene, tmp_path / "none", use=("swir",))
    assert nothing_left(tmp_path / "none")


@pytest.mark.parametrize("nodata", [NODATA, np.nan], ids=["number", "NaN"])
def test_a_float_image_gives_the_chips_of_the_same_whole_numbers(
    scene: ScenePaths, tmp_path: Path, nodata: float
) -> None:
    image_CHW = read(scene.image).astype(np.float32)
    image_CHW[image_CHW == NODATA] = nodata
    floats = write(tmp_path / scene.image.name, image_CHW, scene.image, nodata=nodata)
    dataset = ingest(scene, tmp_path / "out", images=(str(floats),))
    found, expected = pixels(dataset), pixels(ingest(scene, tmp_path / "whole"))
    assert dataset.schema.dtype == "float32"
    assert found.keys() == expected.keys()
    for key, (found_CHW, found_HW) in found.items():
        np.testing.assert_array_equal(found_CHW, expected[key][0])
        np.testing.assert_array_equal(found_HW, expected[key][1])


def test_two_ingests_give_the_same_bytes(scene: ScenePaths, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    ingest(scene, first)
    ingest(scene, second)
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_scenes_come_together_by_a_glob_and_are_split_whole(tmp_path: Path) -> None:
    scenes = [write_scene(tmp_path, number, seed=1, shape_px=(64, 64)) for number in range(6)]
    options = {"images": (f"{tmp_path}/WV02*.tif",), "heights": (f"{tmp_path}/lidar*.tif",), "chip_size": 16}
    dataset = ingest(scenes[0], tmp_path / "out", split_by="scene", shares=(0.5, 0.5), **options)
    rows = dataset.index.to_pylist()
    pairs = {(row["scene"], row["split"]) for row in rows}
    assert len(pairs) == len({scene for scene, _ in pairs}) == 6
    assert {split for _, split in pairs} == {"train", "val"}
    images = {scene.image.stem: (read(scene.image), read(scene.height)[0]) for scene in scenes}
    for row, (key, (image_CHW, height_HW)) in zip(rows, pixels(dataset).items(), strict=True):
        top, left = corner(key)
        cut = np.s_[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(image_CHW, images[row["scene"]][0][:, *cut])
        np.testing.assert_array_equal(height_HW, images[row["scene"]][1][cut])


# Heights from elsewhere


def test_a_neighbour_that_only_touches_is_not_the_source(tmp_path: Path) -> None:
    scenes = [write_scene(tmp_path, number, seed=1, shape_px=(64, 64)) for number in range(3)]
    images, heights = (tuple(str(getattr(s, name)) for s in scenes) for name in ("image", "height"))
    rows = ingest(scenes[0], tmp_path / "out", images=images, heights=heights).index.to_pylist()
    sources = {row["scene"]: row["source"] for row in rows}
    assert sources == {scene.image.stem: scene.height.stem for scene in scenes}


def test_height_is_surface_minus_ground(scene: ScenePaths, tmp_path: Path) -> None:
    height_HW = read(scene.height)[0]
    ground_HW = np.linspace(600, 750, height_HW.size, dtype=np.float32).reshape(height_HW.shape)
    ground = write(tmp_path / "ground.tif", ground_HW[None], scene.height)
    surface = write(tmp_path / "surface.tif", (ground_HW + height_HW)[None], scene.height)
    with_ground = ingest(scene, tmp_path / "out", heights=(str(surface),), ground=(str(ground),))
    found, expected = pixels(with_ground), pixels(ingest(scene, tmp_path / "direct"))
    assert found.keys() == expected.keys()
    for key, (_, found_HW) in found.items():
        np.testing.assert_allclose(found_HW, expected[key][1], atol=2e-4)  # float32 at 700 m: 0.06 mm


def test_heights_of_half_the_pixel_size_are_averaged(scene: ScenePaths, tmp_path: Path) -> None:
    height_HW = read(scene.height)[0]
    fine_HW = np.repeat(np.repeat(height_HW, 2, 0), 2, 1)
    fine_HW[::2, ::2] += 0.5
    fine_HW[1::2, 1::2] -= 0.5
    with rasterio.open(scene.height) as raster:
        grid = raster.transform * rasterio.Affine.scale(0.5)
    shape = {"height": fine_HW.shape[0], "width": fine_HW.shape[1], "transform": grid}
    fine = write(tmp_path / "fine.tif", fine_HW[None], scene.height, **shape)
    for key, (_, found_HW) in pixels(ingest(scene, tmp_path / "out", heights=(str(fine),))).items():
        row, column = corner(key)
        np.testing.assert_allclose(found_HW, height_HW[row : row + SIZE, column : column + SIZE], atol=1e-5)


@pytest.mark.parametrize("resampling", ["average", "bilinear"])
def test_heights_in_another_crs_land_on_the_same_ground(
    scene: ScenePaths, tmp_path: Path, resampling: str
) -> None:
    smooth = smooth_heights(scene, tmp_path / "smooth.tif")
    elsewhere = warped(tmp_path / "utm.tif", smooth, UTM)
    found = pixels(ingest(scene, tmp_path / "out", heights=(str(elsewhere),), height_resampling=resampling))
    height_HW = read(smooth)[0]
    assert len(found) > 10
    for key, (_, found_HW) in found.items():
        row, column = corner(key)
        # The steepest slope is 0.16 m a pixel: a shift of one pixel would show.
        difference = found_HW - height_HW[row : row + SIZE, column : column + SIZE]
        assert np.abs(difference).max() < 0.1


def test_the_first_height_raster_with_a_value_counts(scene: ScenePaths, tmp_path: Path) -> None:
    ones = np.ones((1, *SHAPE_PX), np.float32)
    west, both = ones.copy(), 2 * ones
    west[:, :, SHAPE_PX[1] // 2 :] = NODATA
    rasters = tuple(
        str(write(tmp_path / f"{name}.tif", array, scene.height))
        for name, array in (("west", west), ("both", both))
    )
    for key, (_, height_HW) in pixels(ingest(scene, tmp_path / "out", heights=rasters)).items():
        columns = corner(key)[1] + np.arange(SIZE)
        np.testing.assert_array_equal(
            height_HW, np.broadcast_to(np.where(columns < SHAPE_PX[1] // 2, 1, 2), (SIZE, SIZE))
        )


def test_chips_without_heights_are_listed(scene: ScenePaths, tmp_path: Path) -> None:
    height_1HW = read(scene.height) + 1
    height_1HW[:, :, :100] = NODATA
    partial = write(tmp_path / "partial.tif", height_1HW, scene.height)
    dataset = ingest(scene, tmp_path / "out", heights=(str(partial),))
    assert all(corner(key)[1] >= 100 for key in pixels(dataset))
    reasons = [row["reason"] for row in dataset.rejected.to_pylist() if corner(row["key"])[1] < 100]
    assert reasons == ["incomplete"] * (SHAPE_PX[0] // SIZE * 4)


def test_height_rasters_somewhere_else_are_an_error_that_says_so(scene: ScenePaths, tmp_path: Path) -> None:
    far = write_scene(tmp_path, 5, seed=4, shape_px=(64, 64)).height
    with pytest.raises(InputError, match="no height raster overlaps"):
        ingest(scene, tmp_path / "out", heights=(str(far),))
    assert nothing_left(tmp_path / "out")


# On another grid


def test_another_pixel_size_covers_the_same_ground(scene: ScenePaths, tmp_path: Path) -> None:
    dataset = ingest(scene, tmp_path / "out", pixel_size=4.0, chip_size=16)
    assert dataset.schema.pixel_size == 4.0
    image_CHW, height_HW = read(scene.image).astype(float), read(scene.height)[0]
    found = pixels(dataset)
    assert found
    for key, (found_CHW, found_HW) in found.items():
        row, column = (2 * place for place in corner(key))
        cut = np.s_[row : row + 32, column : column + 32]
        coarse_HW = height_HW[cut].reshape(16, 2, 16, 2).mean((1, 3))
        np.testing.assert_allclose(found_HW, coarse_HW, atol=1e-5)
        coarse_CHW = image_CHW[:, *cut].reshape(4, 16, 2, 16, 2).mean((2, 4))
        assert np.corrcoef(found_CHW.ravel(), coarse_CHW.ravel())[0, 1] > 0.98


def test_another_crs_covers_the_same_ground(scene: ScenePaths, tmp_path: Path) -> None:
    smooth = smooth_heights(scene, tmp_path / "smooth.tif")
    dataset = ingest(scene, tmp_path / "out", heights=(str(smooth),), crs=UTM, pixel_size=2.0)
    found, height_HW = pixels(dataset), read(smooth)[0]
    assert len(found) > 5
    with rasterio.open(smooth) as raster:
        for entry in dataset.index.to_pylist():
            assert entry["crs"] == UTM
            (x,), (y,) = transform(UTM, raster.crs, [entry["x"]], [entry["y"]])
            row, column = raster.index(x, y)
            # The middle of a chip is the corner of four pixels; a pixel is worth 0.16 m at most.
            middle = found[entry["key"]][1][SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1]
            assert middle.mean() == pytest.approx(height_HW[row, column], abs=0.25)


def test_no_chip_reaches_beyond_an_image_without_nodata(scene: ScenePaths, tmp_path: Path) -> None:
    image_CHW = np.full((4, 128, 128), 1000, np.int16)
    image_CHW[:, ::2] = 1001  # an image of one value is refused
    with rasterio.open(scene.image) as raster:
        grid = raster.transform * rasterio.Affine.translation(32, 32)
    shape = {"height": 128, "width": 128, "transform": grid, "nodata": None}
    inner = write(tmp_path / "inner.tif", image_CHW, scene.image, **shape)
    smooth = smooth_heights(scene, tmp_path / "smooth.tif")
    paths = {"images": (str(inner),), "heights": (str(smooth),)}
    found = pixels(ingest(scene, tmp_path / "out", **paths, crs=UTM, pixel_size=2.0))
    assert found
    for key, (found_CHW, _) in found.items():
        assert np.isin(found_CHW, (1000, 1001)).all(), f"{key} has pixels that the image does not have"


# What cannot be used


def _text(scene: ScenePaths, path: Path) -> None:
    path.write_text("not a raster")


def _without_crs(scene: ScenePaths, path: Path) -> None:
    write(path, read(scene.image), scene.image, crs=None)


def _absent(scene: ScenePaths, path: Path) -> None:
    pass


def _cut_short(scene: ScenePaths, path: Path) -> None:
    path.write_bytes(scene.image.read_bytes()[: scene.image.stat().st_size // 2])


def _five_bands(scene: ScenePaths, path: Path) -> None:
    write(path, np.concatenate([read(scene.image), read(scene.image)[:1]]), scene.image)


def _doubles(scene: ScenePaths, path: Path) -> None:
    write(path, read(scene.image).astype(np.float64), scene.image)


def _too_small(scene: ScenePaths, path: Path) -> None:
    write(path, read(scene.image)[:, :8, :8], scene.image, height=8, width=8)


@pytest.mark.parametrize(
    "spoil", [_text, _without_crs, _absent, _cut_short, _five_bands, _doubles, _too_small]
)
def test_an_image_that_cannot_be_used_is_named(
    scene: ScenePaths, tmp_path: Path, spoil: Callable[[ScenePaths, Path], None]
) -> None:
    spoil(scene, tmp_path / "spoilt.tif")
    with pytest.raises(InputError) as caught:
        ingest(scene, tmp_path / "out", images=(str(tmp_path / "spoilt.tif"),))
    assert nothing_left(tmp_path / "out")
    assert "spoilt.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [_text, _without_crs, _absent])
@pytest.mark.parametrize("option", ["heights", "ground"])
def test_a_height_or_ground_that_cannot_be_used_is_named(
    scene: ScenePaths, tmp_path: Path, option: str, spoil: Callable[[ScenePaths, Path], None]
) -> None:
    spoil(scene, tmp_path / "spoilt.tif")
    with pytest.raises(InputError, match=r"spoilt\.tif"):
        ingest(scene, tmp_path / "out", **{option: (str(tmp_path / "spoilt.tif"),)})
    assert nothing_left(tmp_path / "out")


def test_a_glob_that_matches_nothing_is_named(scene: ScenePaths, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.jp2"):
        ingest(scene, tmp_path / "out", images=(str(tmp_path / "*.jp2"),))


def test_a_later_image_unlike_the_first_is_named(scene: ScenePaths, tmp_path: Path) -> None:
    other = write(tmp_path / "bytes.tif", np.ones((4, *SHAPE_PX), np.uint8), scene.image, nodata=None)
    with pytest.raises(InputError, match=r"bytes\.tif.*uint8"):
        ingest(scene, tmp_path / "out", images=(str(scene.image), str(other)))
    assert nothing_left(tmp_path / "out")


def test_two_images_of_one_name_are_refused(scene: ScenePaths, tmp_path: Path) -> None:
    twin = shutil.copy(scene.image, tmp_path)
    with pytest.raises(InputError, match="same name"):
        ingest(scene, tmp_path / "out", images=(str(scene.image), str(twin)))


def test_a_crs_that_nobody_knows_is_named(scene: ScenePaths, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="EPSG:1"):
        ingest(scene, tmp_path / "out", crs="EPSG:1")
    assert nothing_left(tmp_path / "out")


def test_strict_stops_at_a_bad_chip_and_leaves_nothing(scene: ScenePaths, tmp_path: Path) -> None:
    first = ingest(scene, tmp_path / "lenient").rejected.to_pylist()[0]
    with pytest.raises(InputError, match=f"{first['key']}: {first['reason']}"):
        ingest(scene, tmp_path / "out", strict=True)
    assert nothing_left(tmp_path / "out")


@pytest.mark.real
def test_a_real_image_in_degrees_gives_metres_above_ground(tahoe: Path, tmp_path: Path) -> None:
    files = {
        "images": "tahoe_highrez.tif",
        "heights": "tahoe_lidar_highesthit.tif",
        "ground": "tahoe_lidar_bareearth.tif",
    }
    paths = {name: (str(tahoe / file),) for name, file in files.items()}
    bands = ("nir", "red", "green")
    config = ScenesConfig(**paths, out=str(tmp_path / "out"), bands=bands, use=("green", "red", "nir"))
    manifest = ingest_source(ScenesSource(config), config).manifest
    image_CHW = read(tahoe / files["images"])[::-1]
    height_HW = read(tahoe / files["heights"])[0] - read(tahoe / files["ground"])[0]
    found = pixels(open_dataset(config.out))
    assert len(found) == 36
    assert manifest.rejected == {}
    for key, (found_CHW, found_HW) in found.items():
        row, column = corner(key)
        cut = np.s_[row : row + 64, column : column + 64]
        np.testing.assert_array_equal(found_CHW, image_CHW[:, *cut])
        # The three grids differ by fractions of a pixel, the heights by what lies between two pixels.
        assert np.median(np.abs(found_HW - height_HW[cut])) < 0.5


# What must not pass unseen


def test_the_same_image_given_twice_does_not_give_its_chips_twice(scene: ScenePaths, tmp_path: Path) -> None:
    images = (str(scene.image), str(scene.image.parent / "WV02*.tif"))
    keys = ingest(scene, tmp_path / "out", images=images).index["key"].to_pylist()
    assert len(keys) == len(set(keys)) > 0


def test_without_ground_below_it_a_surface_is_not_taken_for_a_height(
    scene: ScenePaths, tmp_path: Path
) -> None:
    surface = write(tmp_path / "surface.tif", read(scene.height) + 700, scene.height)
    far = write_scene(tmp_path, 5, seed=4, shape_px=(64, 64)).height
    with pytest.raises(InputError, match="ground"):
        ingest(scene, tmp_path / "out", heights=(str(surface),), ground=(str(far),))
    assert nothing_left(tmp_path / "out")


def _other_pixel_size(scene: ScenePaths, path: Path) -> None:
    image_CHW = read(scene.image)[:, ::2, ::2]
    with rasterio.open(scene.image) as raster:
        grid = raster.transform @ rasterio.Affine.scale(2)
    shape = {"height": image_CHW.shape[1], "width": image_CHW.shape[2], "transform": grid}
    write(path, image_CHW, scene.image, **shape)


def test_a_later_image_with_another_nodata_gives_the_same_chips(scene: ScenePaths, tmp_path: Path) -> None:
    image_CHW = read(scene.image)
    image_CHW[image_CHW == NODATA] = -32768
    other = write(tmp_path / "other.tif", image_CHW, scene.image, nodata=-32768)
    both = ingest(scene, tmp_path / "out", images=(str(scene.image), str(other)), min_valid=0.0)
    found = pixels(both)
    for key in [key for key in found if key.startswith("other")]:
        np.testing.assert_array_equal(found[key][0], found[key.replace("other", scene.image.stem)][0])
    assert any((image_CHW == NODATA).any() for key, (image_CHW, _) in found.items() if "other" in key)


def test_a_later_image_of_other_pixels_is_named(scene: ScenePaths, tmp_path: Path) -> None:
    _other_pixel_size(scene, tmp_path / "other.tif")
    with pytest.raises(InputError, match=r"other\.tif"):
        ingest(scene, tmp_path / "out", images=(str(scene.image), str(tmp_path / "other.tif")))
    assert nothing_left(tmp_path / "out")
