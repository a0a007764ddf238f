"""`treeline attention`, from real GeoTIFFs to GeoTIFFs, pictures and numbers.

- A head's band holds, on each pixel, its patch's share of the attention to patches: what the encoder alone
  gives, 1 in sum over patches, nodata where a patch is not attended to, on the tile's own grid.
- A scene is looked at window by window: it has the bits of the tiles cut from it.
- Rasters beside may have any CRS and pixel size; what cannot be aligned is refused.
- IoU and AUC are those of brute force on the written rasters; a planted class is found.
- Whatever is refused is refused in one line, and leaves nothing behind.
"""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from browser import NARROW, laid_out, needs_browser
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import Resampling, calculate_default_transform, reproject
from regressors import (
    NODATA,
    TRANSFORM,
    odd_scene,
    small_regressor,
    stored_images,
    write_checkpoint,
    write_scene,
)

from inference.attention.components import Moments
from inference.attention.windows import some_of
from shards.read.dataset import open_dataset
from shards.storage.objects import find_files, read_bytes
from trainer.model.class_attention import class_attention
from trainer.model.encoder import patches_valid
from trainer.model.load_encoder import load_encoder

SIDE, PATCH, HEADS = 64, 16, 2
CRS = "EPSG:3338"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A regressor's checkpoint whose attention is far from even."""
    regressor = small_regressor(seed=3)
    with torch.no_grad():
        for block in regressor.backbone.model.layer:
            for weight in (block.attention.q_proj.weight, block.attention.k_proj.weight):
                weight.mul_(12)
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), regressor))


def called(*arguments: str, folder: Path | None = None) -> str:
    done = treeline("attention", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def band(path: Path) -> NDArray[np.float32]:
    """All bands; also of a raster without a place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            return np.asarray(raster.read())


def numbers(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "attention.json").read_text()))


def write_beside(
    path: Path, value_HW: NDArray[Any], transform: Affine = TRANSFORM, crs: str | None = CRS, **more: Any
) -> Path:
    """A raster of one band, or several if the array has them."""
    value_CHW = value_HW if value_HW.ndim == 3 else value_HW[None]
    count, height, width = value_CHW.shape
    profile = {"count": count, "height": height, "width": width, "dtype": value_CHW.dtype}
    with rasterio.open(path, "w", "GTiff", crs=crs, transform=transform, **profile, **more) as raster:
        raster.write(value_CHW)
    return path


def patches(value_HW: NDArray[Any]) -> NDArray[Any]:
    """The upper left pixel of each patch."""
    return value_HW[..., ::PATCH, ::PATCH]


# --- rasters ---


def test_each_head_holds_what_the_encoder_alone_gives(checkpoint: str, tmp_path: Path) -> None:
    """Two corners are missing: one patch wholly, and less than half of another, which is attended to."""
    image_CHW = stored_images(1)[0]
    image_CHW[:, :20, :20] = NODATA
    image_CHW[2, -PATCH:, -7:] = NODATA
    scene = write_scene(tmp_path / "tile.tif", image_CHW)
    out = tmp_path / "out"
    for layer in (1, 2):
        called(
            str(scene), "--checkpoint", checkpoint, "--out", str(out), "--layer", str(layer), "--overwrite"
        )
        encoder = load_encoder(checkpoint).encoder
        pixels_BCHW, valid_BHW = encoder.normalise(torch.from_numpy(image_CHW[None]))
        attended_BN = patches_valid(valid_BHW, PATCH)
        assert (~attended_BN).nonzero()[:, 1].tolist() == [0], "only the first patch lacks half of its pixels"
        with torch.no_grad(), class_attention(encoder.backbone, (layer,)) as found:
            tokens_BND = encoder(pixels_BCHW, attended_BN=attended_BN)
        attention_KN = found[layer][0] / found[layer][0].sum(1, keepdim=True)
        attention_KN[:, 0] = torch.nan
        expected_KHW = attention_KN.reshape(HEADS, 4, 4).numpy().repeat(PATCH, 1).repeat(PATCH, 2)
        written_KHW = band(out / "tile.attention.tif")
        np.testing.assert_allclose(written_KHW, expected_KHW, atol=1e-6)
        assert np.nanstd(expected_KHW) > 0.01, "not even"
        np.testing.assert_allclose(np.nansum(written_KHW, (1, 2)), PATCH**2, rtol=1e-5)
        with rasterio.open(out / "tile.attention.tif") as raster, rasterio.open(scene) as tile:
            assert raster.descriptions == tuple(f"layer {layer} head {head}" for head in (1, 2))
            assert (raster.crs, raster.transform, raster.shape) == (tile.crs, tile.transform, tile.shape)
            assert np.isnan(raster.nodata)
            assert raster.dtypes == ("float32", "float32")
            assert raster.tags()["TREELINE_CHECKPOINT_FINGERPRINT"] == load_encoder(checkpoint).fingerprint
        share = (found[layer][0].sum(1)).tolist()
        assert numbers(out)["mass_on_patches"] == pytest.approx(share, abs=1e-6)
        scores_NHW = band(out / "tile.components.tif")
        assert (np.isnan(scores_NHW) == np.isnan(expected_KHW[:1])).all()
        tokens_ND = tokens_BND[0, 5:][attended_BN[0]].double()
        centred_ND = tokens_ND - tokens_ND.mean(0)
        direction_DD = torch.linalg.svd(centred_ND)[2]
        for number in range(3):
            expected_N = (
                centred_ND
                @ direction_DD[number]
                * direction_DD[number][direction_DD[number].abs().argmax()].sign()
            )
            found_N = patches(scores_NHW)[number].ravel()[1:]
            np.testing.assert_allclose(found_N, expected_N.numpy(), atol=1e-4)


def test_a_scene_is_the_tiles_cut_from_it(checkpoint: str, tmp_path: Path) -> None:
    """Its last windows reach beyond its end. The pictures' components have another basis in each call."""
    rows, columns = 2 * SIDE + 24, 2 * SIDE + 5
    image_CHW = odd_scene(rows, columns)
    scene = write_scene(tmp_path / "scene.tif", image_CHW)
    (tmp_path / "tiles").mkdir()
    corners = [(row, column) for row in range(0, rows, SIDE) for column in range(0, columns, SIDE)]
    for row, column in corners:
        cut_CHW = image_CHW[:, row : row + SIDE, column : column + SIDE]
        path = write_scene(tmp_path / "tiles" / f"t_{row}_{column}.tif", cut_CHW)
        with rasterio.open(path, "r+") as raster:
            raster.transform = TRANSFORM @ Affine.translation(column, row)
    called(str(scene), "--checkpoint", checkpoint, "--out", str(tmp_path / "a"), "--batch-size", "4")
    called(str(tmp_path / "tiles"), "--checkpoint", checkpoint, "--out", str(tmp_path / "b"))
    whole_KHW = band(tmp_path / "a" / "scene.attention.tif")
    assert whole_KHW.shape == (HEADS, rows, columns)
    for row, column in corners:
        tile_KHW = band(tmp_path / "b" / f"t_{row}_{column}.attention.tif")
        cut_KHW = whole_KHW[:, row : row + SIDE, column : column + SIDE]
        np.testing.assert_allclose(cut_KHW, tile_KHW, atol=1e-6)
    missing_HW = np.isnan(whole_KHW[0])
    assert missing_HW[:PATCH, :].sum() > 0
    assert missing_HW[: 2 * SIDE, 2 * SIDE :].all(), "5 columns are less than half of a patch"
    assert not missing_HW[SIDE : SIDE + PATCH, :PATCH].all()
    by_name = {tile["name"]: tile for tile in numbers(tmp_path / "a")["tiles"]}
    assert by_name["scene"]["attended"] == np.isfinite(patches(whole_KHW[0])).sum()


def test_the_same_call_gives_the_same_bytes_in_any_batches_nearly(checkpoint: str, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", odd_scene(150, 140))
    for name, batch_size in (("a", 2), ("b", 2), ("c", 32)):
        flags = ("--checkpoint", checkpoint, "--out", str(tmp_path / name), "--batch-size", str(batch_size))
        called(str(scene), *flags)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "attention.json",
        "index.html",
        "scene.attention.tif",
        "scene.components.tif",
        "scene.png",
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    for name in files[2:4]:
        np.testing.assert_allclose(band(tmp_path / "a" / name), band(tmp_path / "c" / name), atol=1e-4)


def test_results_go_to_any_storage_and_are_replaced_there(
    checkpoint: str, storage: str, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "tile.tif", stored_images(1)[0])
    for more in ((), ("--overwrite",)):
        called(str(scene), "--checkpoint", checkpoint, "--out", storage, *more)
    files = ["attention.json", "index.html", "tile.attention.tif", "tile.components.tif", "tile.png"]
    assert find_files(storage) == files
    assert json.loads(read_bytes(f"{storage}/attention.json"))["files"] == files[1:]
    called(str(scene), "--checkpoint", checkpoint, "--out", str(tmp_path / "here"))
    written = tmp_path / "here" / "tile.attention.tif"
    assert read_bytes(f"{storage}/tile.attention.tif") == written.read_bytes()


def test_a_tile_without_a_place_stays_without(checkpoint: str, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "tile.tif", stored_images(1)[0], crs=None)
    called(str(scene), "--checkpoint", checkpoint, "--out", str(tmp_path / "out"))
    with rasterio.open(tmp_path / "out" / "tile.attention.tif") as raster:
        assert raster.crs is None
        assert raster.transform == TRANSFORM


def test_components_have_one_sign_and_lose_nothing() -> None:
    """Three directions hold all that varies in three; another order of tokens gives the same signs."""
    rng = np.random.default_rng(0)
    basis_3D = np.linalg.qr(rng.normal(size=(9, 3)))[0].T
    tokens_ND = (rng.normal(size=(50, 3)) * (5, 2, 1) @ basis_3D + 7).astype(np.float32)
    found = []
    for order in (np.arange(50), rng.permutation(50)):
        moments = Moments(9)
        for some_ND in np.array_split(tokens_ND[order], 7):
            moments.add(some_ND)
        found.append(moments.components())
    one, other = found
    np.testing.assert_allclose(one.direction_D3, other.direction_D3, atol=1e-9)
    assert one.explained_3.sum() == pytest.approx(1)
    assert (np.diff(one.explained_3) < 0).all()
    restored_ND = one.of(tokens_ND) @ one.direction_D3.T + one.mean_D
    np.testing.assert_allclose(restored_ND, tokens_ND, atol=1e-4)
    for direction_D in one.direction_D3.T:
        assert direction_D[np.abs(direction_D).argmax()] > 0


def test_some_windows_are_spread_over_all() -> None:
    for count in range(1, 30):
        chosen = some_of(list(range(count)), 7)  # type: ignore[arg-type]
        assert 0 < len(chosen) <= 7
        assert chosen[0] == 0
        assert np.ptp(np.diff([*chosen])) == 0 if len(chosen) > 1 else count <= 1 or len(chosen) == 1


# --- a dataset ---


def test_tiles_of_a_dataset(checkpoint: str, pairs_dataset: Any, tmp_path: Path) -> None:
    """Files are named by key; the tiles' own label lies beside them, and may be measured."""
    out = tmp_path / "out"
    called(
        *("--data", pairs_dataset.url, "--checkpoint", checkpoint, "--out", str(out)),
        *("--split", "val", "--limit", "5", "--above", "height=2"),
    )
    dataset = open_dataset(pairs_dataset.url)
    chosen = dataset.chips("val", 5)
    keys = dataset.index["key"].take(chosen).to_pylist()
    found = numbers(out)
    assert [tile["name"] for tile in found["tiles"]] == keys
    assert all((out / f"{key}.attention.tif").exists() for key in keys)
    (target,) = found["classes"]
    height_BHW = dataset.gather(chosen).height_BHW
    assert target["share"] == pytest.approx((height_BHW > 2).mean())
    assert target["pixels"] == height_BHW.size
    called(
        *("--data", pairs_dataset.url, "--checkpoint", checkpoint, "--out", str(tmp_path / "one")),
        *("--keys", keys[3]),
    )
    tile_KHW = band(tmp_path / "one" / f"{keys[3]}.attention.tif")
    np.testing.assert_allclose(tile_KHW, band(out / f"{keys[3]}.attention.tif"), atol=1e-6)


def test_chips_of_a_scene_are_where_they_were_cut(checkpoint: str, tmp_path: Path) -> None:
    """Their rasters have their windows' grids and values, and rasters beside reach them."""
    scene = write_scene(tmp_path / "WV02_20150802_scene.tif", odd_scene(2 * SIDE, 2 * SIDE))
    made = treeline(
        *("ingest", "scenes", "--images", str(scene), "--chip-size", str(SIDE), "--min-valid", "0"),
        *("--out", "chips"),
        folder=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    called(str(scene), "--checkpoint", checkpoint, "--out", str(tmp_path / "whole"))
    flags = ("--checkpoint", checkpoint, "--out", str(tmp_path / "out"), "--beside", f"scene={scene}")
    called("--data", str(tmp_path / "chips"), *flags)
    whole_KHW = band(tmp_path / "whole" / f"{scene.stem}.attention.tif")
    written = sorted((tmp_path / "out").glob("*.attention.tif"))
    assert len(written) == 4
    for path in written:
        with rasterio.open(path) as raster:
            column, row = map(round, ~TRANSFORM @ (raster.bounds.left, raster.bounds.top))
            assert raster.crs == CRS
            assert raster.transform == TRANSFORM @ Affine.translation(column, row)
        np.testing.assert_allclose(
            band(path), whole_KHW[:, row : row + SIDE, column : column + SIDE], atol=1e-6
        )


# --- layers beside ---


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    """Four tiles side by side; one has a hole."""
    paths = []
    for number, image_CHW in enumerate(stored_images(4, seed=8)):
        if number == 2:
            image_CHW[:, 30:50, 10:60] = NODATA
        path = write_scene(tmp_path / f"tile{number}.tif", image_CHW)
        with rasterio.open(path, "r+") as raster:
            raster.transform = TRANSFORM @ Affine.translation(SIDE * number, 0)
        paths.append(path)
    return paths


def relative(out: Path, tiles: list[Path], head: int) -> NDArray[np.float64]:
    """Attention of a head on all pixels, 1 on average in each tile."""
    found = []
    for tile in tiles:
        share_HW = band(out / f"{tile.stem}.attention.tif")[head].astype(np.float64)
        found.append(share_HW * np.isfinite(patches(share_HW)).sum())
    return np.concatenate(found, axis=1)


def brute_force(score_P: NDArray[np.float64], is_class_P: NDArray[np.bool_]) -> tuple[float, float]:
    """Best IoU over all thresholds, and AUC over all pairs of different scores."""
    score_G, place_P = np.unique(score_P, return_inverse=True)
    positive_G, other_G = (
        np.bincount(place_P[some_P], minlength=score_G.size) for some_P in (is_class_P, ~is_class_P)
    )
    ious = [
        (chosen_P & is_class_P).sum() / (chosen_P | is_class_P).sum()
        for t in score_G
        for chosen_P in (score_P >= t, score_P <= t)
    ]
    wins_GG = (np.sign(score_G[:, None] - score_G) + 1) / 2
    auc = positive_G @ wins_GG @ other_G / (positive_G.sum() * other_G.sum())
    return max(ious), max(auc, 1 - auc)


def test_numbers_are_those_of_brute_force_on_what_was_written(
    checkpoint: str, four: list[Path], tmp_path: Path
) -> None:
    """Heads, bands pixel by pixel and bands averaged over patches, for classes and above the median."""
    rng = np.random.default_rng(2)
    class_HW = rng.choice(np.array([1, 4], np.uint8), (SIDE, 4 * SIDE), p=[0.7, 0.3])
    class_HW[:9] = 255
    height_HW = rng.normal(size=class_HW.shape).astype(np.float32)
    cover = write_beside(tmp_path / "cover.tif", class_HW, nodata=255)
    heights = write_beside(tmp_path / "heights.tif", height_HW)
    out = tmp_path / "out"
    called(
        *(*map(str, four), "--checkpoint", checkpoint, "--out", str(out)),
        *("--beside", f"cover={cover}", f"height={heights}", "--classes", "cover", "--above", "height"),
        *("--class-names", "4=built up"),
    )
    found = numbers(out)
    named = {(target["layer"], target["name"]): target for target in found["classes"]}
    assert [name for _, name in named][:2] == ["class 1", "built up"]
    image_CHW = np.concatenate([band(tile) for tile in four], axis=2)
    valid_HW = (image_CHW != NODATA).all(0) & np.isfinite(relative(out, four, 0))
    assert 0 < (~valid_HW).sum() < valid_HW.size / 4
    median = np.median(height_HW[valid_HW])
    wanted = {
        ("cover", "class 1"): (class_HW == 1, class_HW != 255),
        ("cover", "built up"): (class_HW == 4, class_HW != 255),
        ("height", f"above {median:.4g} (median)"): (height_HW > median, valid_HW),
    }
    assert named.keys() == wanted.keys()
    for target, (is_class_HW, known_HW) in wanted.items():
        counted_HW = valid_HW & known_HW
        is_class_P = is_class_HW[counted_HW]
        assert named[target]["share"] == pytest.approx(is_class_P.mean(), abs=1e-6)
        for head in range(HEADS):
            expected = brute_force(relative(out, four, head)[counted_HW].round(5), is_class_P)
            each = named[target]["attention"]["each"][f"head {head + 1}"]
            assert (each["iou"], each["auc"]) == pytest.approx(expected, abs=1e-6)
        for number, name in ((2, "red"), (3, "nir")):
            value_HW = np.where(valid_HW, image_CHW[number], np.nan)
            tiled = value_HW.reshape(4, PATCH, -1, PATCH)
            count_RC = np.isfinite(tiled).sum((1, 3)).clip(1)
            mean_HW = (np.nansum(tiled, (1, 3)) / count_RC).repeat(PATCH, 0).repeat(PATCH, 1)
            each = named[target]["bands_of_patches"]["each"][name]
            expected = brute_force(mean_HW[counted_HW], is_class_P)
            assert (each["iou"], each["auc"]) == pytest.approx(expected, abs=1e-6)
            some = np.unique(value_HW[counted_HW])[::97]  # not all of a thousand thresholds
            best = named[target]["bands"]["each"][name]["iou"]
            tried = [
                (chosen_P & is_class_P).sum() / (chosen_P | is_class_P).sum()
                for t in some
                for chosen_P in (value_HW[counted_HW] >= t, value_HW[counted_HW] <= t)
            ]
            assert max(tried) <= best + 1e-9
    text = (out / "index.html").read_text()
    assert "cover: built up" in text
    assert "chosen elsewhere" in text


def test_a_class_that_a_head_marks_is_found_by_it_alone(
    checkpoint: str, four: list[Path], tmp_path: Path
) -> None:
    """Also where the head is chosen on the other tiles; an untrained backbone and bands do worse."""
    first = tmp_path / "first"
    called(*map(str, four), "--checkpoint", checkpoint, "--out", str(first))
    marked_HW = relative(first, four, 1)
    class_HW = np.where(marked_HW > np.nanquantile(marked_HW, 0.7), 2, 1).astype(np.uint8)
    cover = write_beside(tmp_path / "cover.tif", class_HW)
    out = tmp_path / "out"
    called(
        *(*map(str, four), "--checkpoint", checkpoint, "--out", str(out), "--layers", "all"),
        *("--beside", f"cover={cover}", "--classes", "cover"),
    )
    (_, target) = numbers(out)["classes"]
    assert target["attention"]["best_iou"] == "layer 2 head 2"
    assert target["attention"]["each"]["layer 2 head 2"]["iou"] == pytest.approx(1)
    assert target["attention"]["each"]["layer 2 head 2"]["auc"] == pytest.approx(1)
    assert target["attention"]["on_other_tiles"]["auc"] == pytest.approx(1)
    assert target["attention"]["on_other_tiles"]["iou"] > 0.9
    for kind in ("untrained", "bands", "bands_of_patches"):
        best = target[kind]["best_iou"]
        assert target[kind]["each"][best]["iou"] < 0.8, kind
        assert target[kind]["on_other_tiles"]["iou"] < 0.8, kind
    assert len(target["attention"]["each"]) == 2 * HEADS
    assert "Attention finds it better than all others" in (out / "index.html").read_text()


def test_an_untrained_backbone_does_not_find_itself_better(
    checkpoint: str, four: list[Path], tmp_path: Path
) -> None:
    """With --weights random both are the same one, by its seed."""
    cover = write_beside(tmp_path / "cover.tif", (np.indices((SIDE, 4 * SIDE))[1] // 24 % 2).astype(np.uint8))
    kept = {}
    for seed in ("0", "1"):
        out = tmp_path / f"out{seed}"
        called(
            *(*map(str, four), "--checkpoint", checkpoint, "--out", str(out), "--weights", "random"),
            *("--seed", seed, "--beside", f"cover={cover}", "--classes", "cover"),
        )
        for target in numbers(out)["classes"]:
            assert target["attention"] == target["untrained"]
        kept[seed] = band(out / "tile0.attention.tif")
    assert np.abs(kept["0"] - kept["1"]).max() > 1e-4


def test_three_tiles_are_too_few_to_choose_elsewhere(
    checkpoint: str, four: list[Path], tmp_path: Path
) -> None:
    """Then windows are halved where there are four of them."""
    cover = write_beside(tmp_path / "cover.tif", (np.indices((SIDE, 4 * SIDE))[1] // 24 % 2).astype(np.uint8))
    beside = ("--beside", f"cover={cover}", "--classes", "cover", "--checkpoint", checkpoint)
    called(*map(str, four[:3]), *beside, "--out", str(tmp_path / "three"))
    found = numbers(tmp_path / "three")
    assert found["halved"] == ""
    assert {target["attention"]["on_other_tiles"]["iou"] for target in found["classes"]} == {None}
    called(*map(str, four[:3]), *beside, "--out", str(tmp_path / "cut"), "--tile-size", "32")
    found = numbers(tmp_path / "cut")
    assert (found["halved"], found["measured_windows"]) == ("windows", 12)


def test_rasters_in_another_crs_are_brought_onto_the_tile(
    checkpoint: str, four: list[Path], tmp_path: Path
) -> None:
    """A border along a column is found within two pixels, and nothing is lost."""
    class_HW = np.where(np.arange(6 * SIDE) < 3.25 * SIDE, 3, 8).astype(np.uint8) * np.ones(
        (3 * SIDE, 1), np.uint8
    )
    above = TRANSFORM @ Affine.translation(-SIDE, -SIDE)
    degrees, width, height = calculate_default_transform(
        CRS, "EPSG:4326", 6 * SIDE, 3 * SIDE, *rasterio.transform.array_bounds(3 * SIDE, 6 * SIDE, above)
    )
    turned_HW = np.zeros((height, width), np.uint8)
    reproject(
        class_HW, turned_HW, src_transform=above, src_crs=CRS, dst_transform=degrees, dst_crs="EPSG:4326",
        resampling=Resampling.nearest,
    )  # fmt: skip
    cover = write_beside(tmp_path / "cover.tif", turned_HW, degrees, "EPSG:4326", nodata=0)
    called(
        *(*map(str, four), "--checkpoint", checkpoint, "--out", str(tmp_path / "out")),
        *("--beside", f"cover={cover}", "--classes", "cover"),
    )
    image_CHW = np.concatenate([band(tile) for tile in four], axis=2)
    valid_HW = (image_CHW != NODATA).all(0) & np.isfinite(relative(tmp_path / "out", four, 0))
    expected = valid_HW[:, : round(2.25 * SIDE)].sum() / valid_HW.sum()
    three, eight = numbers(tmp_path / "out")["classes"]
    assert (three["number"], eight["number"]) == (3, 8)
    assert three["pixels"] == valid_HW.sum()
    assert three["share"] == pytest.approx(expected, abs=2 / (4 * SIDE))


# --- the page ---


@pytest.fixture(scope="module")
def shown(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of layer; one has a name to be escaped."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(1)
    tiles = [write_scene(folder / f"tile{n}.tif", image) for n, image in enumerate(stored_images(2))]
    rgb = write_beside(folder / "rgb.tif", rng.integers(0, 3000, (4, SIDE, SIDE)).astype(np.int16))
    cover = write_beside(folder / "cover.tif", rng.integers(1, 4, (SIDE, SIDE)).astype(np.uint8))
    called(
        *(*map(str, tiles), "--checkpoint", checkpoint, "--out", str(folder / "out")),
        *("--beside", f"Sentinel-2={rgb}", f"<b>cover</b> $x$={cover}", "--classes", "<b>cover</b> $x$"),
    )
    return folder / "out"


def test_the_page_holds_all_pictures_and_escapes_names(shown: Path) -> None:
    page = (shown / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2, "tiles beside layers, heads"
    assert "<b>cover" not in page
    assert "&lt;b&gt;cover&lt;/b&gt; $x$: class 2" in page
    assert "There are too few tiles to choose on some" in page
    for name in ("tile0", "tile1"):
        assert (shown / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page(shown: Path, dark: bool, tmp_path: Path) -> None:
    page = (shown / "index.html").read_text()
    for width in (NARROW, 1200):
        layout = laid_out(page, tmp_path, width, dark)
        assert all(layout.picture_widths)
        assert layout.page_width <= width


# --- what cannot be used ---

Spoil = Callable[[Path, str, str], list[str]]
"""Makes something wrong in a folder, given the tile and the checkpoint; returns the arguments."""


def _with(*more: str) -> Spoil:
    return lambda folder, tile, checkpoint: [tile, *more]


def _beside(value_HW: NDArray[Any], *more: str, **place: Any) -> Spoil:
    def spoil(folder: Path, tile: str, checkpoint: str) -> list[str]:
        path = write_beside(folder / "beside.tif", value_HW, **place)
        return [tile, "--beside", f"x={path}", *more]

    return spoil


def _scene(image_CHW: NDArray[Any], *more: str) -> Spoil:
    return lambda folder, tile, checkpoint: [str(write_scene(folder / "other.tif", image_CHW)), *more]


def _twice(folder: Path, tile: str, checkpoint: str) -> list[str]:
    (folder / "more").mkdir()
    return [tile, str(write_scene(folder / "more" / "tile.tif", stored_images(1)[0]))]


def _damaged(folder: Path, tile: str, checkpoint: str) -> list[str]:
    path = write_scene(folder / "zz.tif", stored_images(1, 256, 256)[0])
    path.write_bytes(path.read_bytes()[:90_000])
    return [tile, str(path)]


def _placeless(folder: Path, tile: str, checkpoint: str) -> list[str]:
    path = write_scene(folder / "placeless.tif", stored_images(1)[0], crs=None)
    return [str(path), "--beside", f"x={tile}"]


ZEROS = np.zeros((SIDE, SIDE), np.uint8)
FAR = TRANSFORM @ Affine.translation(SIDE, 0)
WRONG: dict[str, tuple[Spoil, str]] = {
    "no tile": (lambda *_: [], "no tile is named"),
    "no such tile": (lambda folder, *_: [str(folder / "absent.tif")], "absent.tif"),
    "tile and dataset": (_with("--data", "chips"), "--tiles: does nothing with --data"),
    "no such dataset": (lambda folder, *_: ["--data", str(folder)], "no dataset"),
    "two of one name": (_twice, "has the same name as"),
    "window": (_with("--tile-size", "40"), "multiple of the backbone's patches of 16"),
    "layer": (_with("--layer", "3"), "has 2 layers"),
    "negative layer": (_with("--layer", "-1"), "give 0 or more"),
    "batch": (_with("--batch-size", "0"), "give 1 or more"),
    "weights": (_with("--weights", "teacher"), "no pre-training run"),
    "no checkpoint": (_with("--checkpoint", "nowhere"), "not a checkpoint"),
    "bands": (_scene(stored_images(1)[0][:3]), "has 3 bands"),
    "type": (_scene(stored_images(1)[0].astype(np.float32) + 40_000), "beyond the int16 of training"),
    "named bands": (_with("--bands", "w", "x", "y", "z"), "lacks band blue"),
    "all nodata": (_scene(np.full((4, SIDE, SIDE), NODATA, np.int16)), "no patch is valid"),
    "damaged in the middle": (_damaged, "zz.tif: cannot be read"),
    "beside unnamed": (_with("--beside", "x.tif"), "give NAME=PATTERN"),
    "beside absent": (_with("--beside", "x=absent/*.tif"), "absent"),
    "beside without CRS": (_beside(ZEROS, crs=None), "has no CRS"),
    "beside elsewhere": (_beside(ZEROS, transform=FAR), "no raster reaches"),
    "beside in another zone": (_beside(ZEROS, crs="EPSG:32633"), "no raster reaches"),
    "tile without CRS": (_placeless, "has no CRS, so no raster can be laid beside it"),
    "two bands beside": (_beside(np.stack([ZEROS] * 2)), "has 2 bands"),
    "unknown classes": (_with("--classes", "y"), "no layer beside has this name"),
    "classes of fractions": (_beside(ZEROS / 2, "--classes", "x"), "has no whole numbers"),
    "classes of colours": (_beside(np.stack([ZEROS] * 3), "--classes", "x"), "has several bands"),
    "too many classes": (
        _beside(np.arange(SIDE**2).reshape(SIDE, SIDE).astype(np.int32), "--classes", "x"),
        "different numbers, and at most 32",
    ),
    "classes without a pixel": (
        _beside(ZEROS, "--classes", "x", nodata=0),
        "has no value on any valid pixel",
    ),
    "class name": (_beside(ZEROS, "--classes", "x", "--class-names", "zero"), "write NUMBER=NAME"),
    "class name twice": (
        _beside(ZEROS, "--classes", "x", "--class-names", "0=a", "0=b"),
        "has a name already",
    ),
    "class names alone": (_with("--class-names", "0=a"), "--class-names: does nothing without --classes"),
    "above": (_beside(ZEROS, "--above", "x=high"), "NAME or NAME=NUMBER"),
    "above nothing": (_beside(ZEROS, "--above", "x=nan"), "NAME or NAME=NUMBER"),
    "all layers for nothing": (_with("--layers", "all"), "nothing is measured"),
    "where without data": (_with("--where", "x > 1"), "--where: does nothing without --data"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_refused_in_one_line(case: str, checkpoint: str, tmp_path: Path) -> None:
    spoil, says = WRONG[case]
    tile = str(write_scene(tmp_path / "tile.tif", stored_images(1)[0]))
    arguments = spoil(tmp_path, tile, checkpoint)
    if "--checkpoint" not in arguments:
        arguments += ["--checkpoint", checkpoint]
    done = treeline("attention", *arguments, "--out", "new/out", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    (line,) = [
        line for line in lines if not line.startswith("attention: ") and "bands have no names" not in line
    ]
    assert says in line
    assert not (tmp_path / "new").exists()


def test_a_dataset_with_other_bands_or_without_the_tile_is_refused(
    checkpoint: str, pairs_dataset: Any, tmp_path: Path
) -> None:
    made = treeline(
        *("ingest", "synthetic", "--sar", "seasonal", "--chips", "8", "--chip-size", "32", "--out", "sar"),
        folder=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    for arguments, says in (
        (["--data", "sar"], "lack band blue"),
        (["--data", pairs_dataset.url, "--keys", "absent"], "has no such tile"),
        (["--data", pairs_dataset.url, "--where", "height_max > 1e9"], "choose another --split or --where"),
        (["--data", pairs_dataset.url, "--classes", "height"], "which is no class"),
    ):
        done = treeline("attention", *arguments, "--checkpoint", checkpoint, "--out", "out", folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert not (tmp_path / "out").exists()


def test_what_is_there_is_replaced_only_when_asked(checkpoint: str, four: list[Path], tmp_path: Path) -> None:
    """Files of tiles that are not drawn any more go; files of others stay."""
    out = tmp_path / "out"
    called(*map(str, four), "--checkpoint", checkpoint, "--out", str(out))
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = treeline("attention", str(four[0]), "--checkpoint", checkpoint, "--out", str(out))
    assert done.returncode == 2
    assert re.search(r"has attention of another call; give another --out, or --overwrite", done.stderr)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    called(str(four[0]), "--checkpoint", checkpoint, "--out", str(out), "--overwrite")
    assert {path.stem.partition(".")[0] for path in out.glob("tile*")} == {"tile0"}
    assert (out / "notes.txt").read_text() == "mine"


# --- real tiles ---


def placed_vectors(folder: Path) -> dict[tuple[str, float, float], np.ndarray]:
    """Vectors by CRS and place."""
    rows = pq.read_table(folder / "part-000000.parquet").to_pylist()
    return {
        (row["crs"], round(row["x"], 3), round(row["y"], 3)): np.array(row["vector"], np.float32)
        for row in rows
    }


@pytest.mark.real
@pytest.mark.slow
def test_real_tiles_beside_sentinel_2_vegetation_and_land_cover(terramind: Path, tmp_path: Path) -> None:
    """From files to pictures: ingest, a few steps of pre-training, tokens, attention; no claim is made."""
    images = str(terramind / "S1RTC" / "*.tif")
    ingest = ("ingest", "scenes", "--images", images, "--bands", "vv", "vh", "--chip-size", "56")
    beside = {layer: f"{layer}={terramind}/{layer}/*.tif" for layer in ("S2L2A", "NDVI", "LULC")}
    commands = (
        (*ingest, "--min-valid", "0", "--derive", "vv_vh = vv - vh", "--out", "chips"),
        (
            *("pretrain", "--data", "chips", "--out", "run", "--recipe", "dino-tiny", "--patch-size", "14"),
            *("--epochs", "1", "--width", "48", "--depth", "2"),
        ),
        ("inspect", "chips", "--out", "page"),
        ("embed", "chips", "--checkpoint", "run", "--out", "of-chips"),
        ("embed", "--scenes", images, "--bands", "vv", "vh", "--checkpoint", "run", "--out", "of-scenes"),
        (
            *("attention", images, "--bands", "vv", "vh", "--checkpoint", "run", "--out", "out"),
            *("--beside", *beside.values(), "--classes", "LULC", "--above", "NDVI"),
        ),
    )
    for command in commands:
        done = treeline(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    of_chips, of_scenes = (placed_vectors(tmp_path / name) for name in ("of-chips", "of-scenes"))
    assert len(of_chips) == 5 * 16
    assert of_chips.keys() == of_scenes.keys()
    for place, vector_D in of_chips.items():
        np.testing.assert_allclose(vector_D, of_scenes[place], rtol=0, atol=2e-3)  # float16
    assert len({tuple(vector_D) for vector_D in of_chips.values()}) == 5 * 16
    found = numbers(tmp_path / "out")
    assert (found["bands"], found["weights"], found["halved"]) == (["vv", "vh", "vv_vh"], "teacher", "tiles")
    assert found["measured_windows"] == 5 * 16
    tiles = sorted((terramind / "S1RTC").glob("*.tif"))
    assert len(tiles) == 5
    cover_PH = []
    for tile in tiles:
        with (
            rasterio.open(tmp_path / "out" / f"{tile.stem}.attention.tif") as raster,
            rasterio.open(tile) as own,
        ):
            assert (raster.crs, raster.transform, raster.shape) == (own.crs, own.transform, own.shape)
            share_KHW = raster.read().astype(np.float64)
        windows_KRPCP = share_KHW.reshape(6, 4, 56, 4, 56)
        np.testing.assert_allclose(windows_KRPCP.sum((2, 4)), 14**2, rtol=1e-5)
        cover_PH.append(band(terramind / "LULC" / tile.name)[0].ravel())
    cover_P = np.concatenate(cover_PH)
    by_class = {one["number"]: one for one in found["classes"] if one["layer"] == "LULC"}
    assert by_class.keys() == set(np.unique(cover_P).tolist())
    for number, target in by_class.items():
        assert target["share"] == pytest.approx((cover_P == number).mean())
    # Water is dark: a threshold on VH finds it, whatever attention does.
    water = by_class[1]["bands_of_patches"]["each"]["vh"]
    assert (water["auc_side"], water["side"]) == ("below", "below")
    assert water["auc"] > 0.8
