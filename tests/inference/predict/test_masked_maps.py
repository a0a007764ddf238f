"""What a mask drops is missing to the model and has no height, wherever the blocks are cut."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject
from regressors import CRS, NODATA, TRANSFORM, small_regressor, stored_images, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from inference.predict.summary import Summary
from shards.errors import InputError

ROWS, COLUMNS = 96, 120
IMAGE_CHW = stored_images(1, ROWS, COLUMNS)[0]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PredictConfig:
    """A scene without a missing pixel, and a checkpoint."""
    folder = tmp_path_factory.mktemp("masked")
    checkpoint = write_checkpoint(folder / "checkpoint", small_regressor())
    write_scene(folder / "scene.tif", IMAGE_CHW)
    return PredictConfig((str(folder / "scene.tif"),), str(checkpoint), "", block=40, batch_size=4)


def write_mask(path: Path, mask_HW: np.ndarray, transform: Affine = TRANSFORM, crs: str = CRS) -> str:
    rows, columns = mask_HW.shape
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": rows, "width": columns}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform) as raster:
        raster.write(mask_HW.astype(np.uint8), 1)
    return str(path)


def clouds() -> np.ndarray:
    """1 in a cloud, 3 in water, 0 elsewhere."""
    mask_HW = np.zeros((ROWS, COLUMNS), np.uint8)
    mask_HW[30:60, 20:70] = 1
    mask_HW[80:, 100:] = 3
    return mask_HW


def run(config: PredictConfig) -> Summary:
    return predict(config, InProcess())


def heights(config: PredictConfig) -> tuple[np.ndarray, dict[str, str]]:
    with rasterio.open(Path(config.out, "scene.chm.tif")) as raster:
        return raster.read(1), raster.tags()


def test_a_masked_map_is_that_of_a_scene_whose_pixels_are_missing(
    config: PredictConfig, tmp_path: Path
) -> None:
    mask_HW = clouds()
    mask = write_mask(tmp_path / "scene_clouds.tif", mask_HW)
    holes = tmp_path / "scene.tif"
    write_scene(holes, np.where(mask_HW > 0, NODATA, IMAGE_CHW).astype(np.int16))
    asked = replace(config, mask=(mask,), mask_drop=(3, 1))
    maps = []
    for block in (40, 17, 2048):
        masked = replace(asked, out=str(tmp_path / f"maps-{block}"), block=block)
        run(masked)
        maps.append(Path(masked.out, "scene.chm.tif").read_bytes())
    assert maps[0] == maps[1] == maps[2]
    found_HW, tags = heights(masked)
    unmasked = replace(config, scenes=(str(holes),), out=str(tmp_path / "holes"))
    run(unmasked)
    np.testing.assert_array_equal(found_HW, heights(unmasked)[0])
    np.testing.assert_array_equal(found_HW == NODATA, mask_HW > 0)
    assert tags["TREELINE_MASK"] == "scene_clouds.tif"
    assert tags["TREELINE_MASK_DROP"] == "1 3"
    assert json.loads(Path(masked.out, "predict.json").read_text())["mask_drop"] == "1 3"


def test_only_the_values_of_mask_drop_drop(config: PredictConfig, tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "scene_clouds.tif", clouds())
    masked = replace(config, mask=(mask,), out=str(tmp_path / "maps"))
    run(masked)
    np.testing.assert_array_equal(heights(masked)[0] == NODATA, clouds() == 1)


@pytest.mark.parametrize("beside", [0.0, 0.4])
def test_a_mask_may_begin_elsewhere_and_cover_a_part(
    beside: float, config: PredictConfig, tmp_path: Path
) -> None:
    """It begins 7 columns left of the scene and 50 rows below; less than half a pixel changes nothing."""
    cover_HW = np.ones((30, 40), np.uint8)
    transform = TRANSFORM @ Affine.translation(-7 + beside, 50 + beside)
    mask = write_mask(tmp_path / "scene_clouds.tif", cover_HW, transform)
    masked = replace(config, mask=(mask,), out=str(tmp_path / "maps"))
    run(masked)
    expected_HW = np.zeros((ROWS, COLUMNS), bool)
    expected_HW[50:80, :33] = True
    np.testing.assert_array_equal(heights(masked)[0] == NODATA, expected_HW)


def test_a_mask_in_another_crs_and_of_other_pixels_drops_the_same_ground(
    config: PredictConfig, tmp_path: Path
) -> None:
    bounds = rasterio.transform.array_bounds(ROWS, COLUMNS, TRANSFORM)
    transform, width, height = calculate_default_transform(CRS, "EPSG:4326", COLUMNS, ROWS, *bounds)
    fine, degrees_HW = transform @ Affine.scale(0.25), np.zeros((height * 4, width * 4), np.uint8)
    reproject(
        clouds(),
        degrees_HW,
        src_transform=TRANSFORM,
        src_crs=CRS,
        dst_transform=fine,
        dst_crs="EPSG:4326",
        resampling=Resampling.nearest,
    )
    mask = write_mask(tmp_path / "qa.tif", degrees_HW, fine, "EPSG:4326")
    maps = []
    for block in (40, 23):
        masked = replace(config, mask=(mask,), out=str(tmp_path / f"maps-{block}"), block=block)
        run(masked)
        maps.append(Path(masked.out, "scene.chm.tif").read_bytes())
    assert maps[0] == maps[1]
    wrong = (heights(masked)[0] == NODATA) != (clouds() == 1)
    edge = 2 * (30 + 50)
    assert wrong.sum() <= edge / 4, "a few pixels at the edge of the cloud"


def test_a_scene_without_a_mask_is_named_and_not_mapped(config: PredictConfig, tmp_path: Path) -> None:
    other = tmp_path / "other.tif"
    write_scene(other, IMAGE_CHW)
    mask = write_mask(tmp_path / "scene_clouds.tif", clouds())
    both = replace(config, scenes=(*config.scenes, str(other)), mask=(mask,), out=str(tmp_path / "maps"))
    summary = run(both)
    assert [one.scene for one in summary.failed] == [str(other)]
    assert f"{other}: no --mask covers it and is named after it" in summary.failed[0].reason
    assert [path.name for path in Path(both.out).glob("*.tif")] == ["scene.chm.tif"]


def test_a_map_depends_on_its_masks(config: PredictConfig, tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "scene_clouds.tif", clouds())
    plain, masked = (replace(config, out=str(tmp_path / "maps"), mask=given) for given in ((), (mask,)))
    run(masked)
    with pytest.raises(InputError, match=r"made with another mask_drop \(1 there, None asked for\)"):
        run(plain)
    with pytest.raises(InputError, match=r"made with another mask_drop \(1 there, 1 3 asked for\)"):
        run(replace(masked, mask_drop=(1, 3)))
    assert run(masked).before == 1
    changed_HW = clouds()
    changed_HW[0, 0] = 1
    write_mask(tmp_path / "scene_clouds.tif", np.pad(changed_HW, ((0, 1), (0, 0))))
    with pytest.raises(InputError, match="already exists, made from another"):
        run(masked)
    run(replace(masked, overwrite=True))
    assert heights(masked)[0][0, 0] == NODATA


def test_a_mask_that_drops_nothing_it_shows_is_noted(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask_HW = np.where(clouds() == 1, 4, 0)
    mask = write_mask(tmp_path / "scene_clouds.tif", mask_HW)
    for drop, is_noted in (((1,), True), ((4,), False)):
        asked = replace(config, mask=(mask,), mask_drop=drop, out=str(tmp_path / f"maps-{drop[0]}"))
        run(asked)
        said = "scene_clouds.tif has no value of --mask-drop 1 in the pixels looked at, which hold 4"
        assert (said in capsys.readouterr().err) == is_noted


def test_a_mask_without_a_cloud_is_not_noted(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = write_mask(tmp_path / "scene_clouds.tif", np.zeros((ROWS, COLUMNS)))
    run(replace(config, mask=(mask,), out=str(tmp_path / "maps")))
    said = [line for line in capsys.readouterr().err.splitlines() if "bands have no names" not in line]
    assert not [line for line in said if "mask" in line]
