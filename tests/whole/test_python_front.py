"""`import treeline` gives what the commands give: the same maps, vectors, scores, chips and errors.

- Importing it loads no library, computing loads no Ray, and a folder of its name does not hide it.
- Of a scene and of its pixels as an array the map is the file's, for heights, classes and labels of tiles.
- Options have the names, types and defaults of the commands'.
"""

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import honest_scenes
import numpy as np
import pytest
import rasterio
from classes import NAMES, small_class_model, write_class_checkpoint
from encoders import write_untrained
from in_process import treeline as command
from numpy.typing import NDArray
from regressors import (
    CHIP_SCHEMA,
    NODATA,
    SCHEMA,
    odd_scene,
    small_regressor,
    stored_images,
    write_checkpoint,
    write_dataset,
    write_scene,
)
from tile_models import small_tile_model, write_tile_checkpoint
from torch.utils.data import DataLoader

import treeline
from cluster.jobs.submit import _copy_packages
from inference.config import EmbedConfig, PredictConfig, Weighting
from inference.embed.embeddings import read_embeddings
from inference.maps.map_file import HEIGHT, SPREAD
from shards import Dataset, InputError, Part
from shards.raster.finding import OnMismatch
from shards.raster.height_unit import HeightUnit
from trainer.config import EvaluateConfig
from trainer.devices.choice import Precision, Wanted
from trainer.model.tile_model import TileHead

ROOT = Path(__file__).parents[2]
CHIPS = 24
HEADS = {
    "heights": None,
    "pixel classes": None,
    "tile values": TileHead("tree_percent", centre=20.0, scale=9.0),
    "tile classes": TileHead("region", classes=("conus", "europe")),
}


def said_by(code: str, folder: Path = ROOT) -> str:
    """What Python code prints in a process of its own, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image_CHW() -> NDArray[np.int16]:
    return odd_scene(150, 130)


@pytest.fixture(scope="module")
def scene(image_CHW: NDArray[np.int16], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("front") / "scene.tif", image_CHW)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    class_schema = replace(SCHEMA, label="cover", label_unit="", class_names=NAMES)
    made = {
        "heights": write_checkpoint(folder / "heights", small_regressor()),
        "pixel classes": write_class_checkpoint(folder / "classes", small_class_model(class_schema)),
    }
    for name, head in HEADS.items():
        if head:
            made[name] = write_tile_checkpoint(folder / name.replace(" ", "-"), small_tile_model(head))
    return made


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("front") / "chips", CHIPS, val_share=0.3)


# --- the module ---


def test_importing_it_loads_no_library() -> None:
    code = "import sys; before = set(sys.modules); import treeline; print(*sorted(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in said_by(code).split()}
    assert "treeline" in loaded
    assert not loaded - sys.stdlib_module_names - {"treeline", "shards"}


@pytest.mark.slow
def test_loading_and_predicting_takes_no_ray(checkpoints: dict[str, Path]) -> None:
    code = f"""
import sys, numpy as np, treeline
model = treeline.load({str(checkpoints["heights"])!r}, device="cpu")
model.predict(500 + np.eye(64, dtype=np.int16) + np.zeros((4, 1, 1), np.int16))
model.embed(500 + np.eye(64, dtype=np.int16) + np.zeros((4, 1, 1), np.int16))
import trainer.evaluate.run, inference.score.score_maps, trainer.data.torch_chips
print({{"ray", "torch"}} & sys.modules.keys())"""
    assert said_by(code) == "{'torch'}"


def test_a_folder_of_its_name_does_not_hide_it(tmp_path: Path) -> None:
    """Such as a clone of this repository: a namespace package, if there were no treeline.py on the path."""
    (tmp_path / "treeline").mkdir()
    said = said_by(
        f"import sys; sys.path.append({str(ROOT)!r}); import treeline; print(treeline.__file__)", tmp_path
    )
    assert Path(said) == ROOT / "treeline.py"
    # An editable install puts the root on the path for this, and has no finder after it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-dir"] == {"": "."}


def test_a_submitted_job_takes_it_along(tmp_path: Path) -> None:
    _copy_packages(tmp_path)
    said = said_by("import shards, treeline; print(treeline.__file__, shards.__file__)", tmp_path)
    assert said == f"{tmp_path / 'treeline.py'} {tmp_path / 'shards' / '__init__.py'}"


def test_its_names_are_there_and_others_are_not() -> None:
    assert {name for name in treeline.__all__ if getattr(treeline, name).__name__ == name} == {
        *treeline.__all__
    }
    with pytest.raises(AttributeError, match="module 'treeline' has no attribute 'nothing'"):
        treeline.nothing  # noqa: B018


OF_FILES = {"scenes", "checkpoint", "out", "overwrite", "stac", "quick_look", "palette"}
OF_RAY = {"workers", "gpus_per_worker"}
OF_LOAD = {"device", "precision", "trust"}
OF_DATASETS = {"data", "split", "where", "limit", "tiles_per_part"}


@pytest.mark.parametrize(
    ("options", "config", "others"),
    [
        (treeline.SceneMapOptions, PredictConfig, OF_FILES | OF_RAY | OF_LOAD),
        (treeline.SceneVectorOptions, EmbedConfig, OF_FILES | OF_RAY | OF_LOAD | OF_DATASETS | {"weights"}),
        (treeline.ScoreOptions, EvaluateConfig, {"out", "reading"}),
    ],
)
def test_options_are_the_commands(options: Any, config: Any, others: set[str]) -> None:
    names: dict[str, Any] = {"Literal": Literal, "Precision": Precision, "Wanted": Wanted}
    names |= {"OnMismatch": OnMismatch, "HeightUnit": HeightUnit}
    names |= {"Weighting": Weighting, "Split": get_type_hints(EvaluateConfig)["split"]}
    asked = get_type_hints(options, localns=names)
    fields = get_type_hints(config)
    assert asked.keys() == fields.keys() - others
    assert {name: fields[name] for name in asked} == asked
    of_load = get_type_hints(treeline.LoadOptions, localns=names)
    assert all(fields[name] == of_load[name] for name in OF_LOAD)


# --- maps ---


@pytest.mark.parametrize("kind", HEADS)
def test_a_map_is_the_file_that_the_command_writes(
    kind: str,
    checkpoints: dict[str, Path],
    scene: Path,
    image_CHW: NDArray[np.int16],
    tmp_path: Path,
) -> None:
    of_heights, of_pixels = kind == "heights", kind in ("heights", "pixel classes")
    options: dict[str, Any] = {"window": 64, "overlap": 0.25, "batch_size": 4} if of_pixels else {}
    options |= {"spread": True, "symmetries": 8, "weights": "cosine"} if of_heights else {}
    flags = [
        f"--{name}".replace("_", "-") + f" {value}" * (value is not True) for name, value in options.items()
    ]
    checkpoint, out = checkpoints[kind], tmp_path / "maps"
    given = ["--checkpoint", str(checkpoint), "--out", str(out), *" ".join(flags).split()]
    done = command("predict", str(scene), *given)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("scene.*.tif")
    with rasterio.open(path) as raster:
        file_CHW, file_valid_HW = raster.read(), raster.read_masks(1) > 0
        crs, transform, names, units = raster.crs, raster.transform, raster.descriptions, raster.units
    model = treeline.load(checkpoint)
    of_scene = model.predict(scene, **options)
    assert (of_scene.crs, of_scene.transform) == (crs, transform)
    for found in (of_scene, model.predict(image_CHW, **options, block=64)):
        assert np.array_equal(found.valid_HW, file_valid_HW)
        assert 0 < file_valid_HW.sum() < file_valid_HW.size
        assert (found.label, found.unit) == (names[0], units[0] or "")
        if found.classes:
            assert found.values_HW.dtype == np.uint8
            assert np.array_equal(found.values_HW, file_CHW[0])
            assert {number for number, _ in found.classes} >= set(np.unique(found.values_HW[found.valid_HW]))
        else:
            steps = round(1 / HEIGHT.scale) if of_heights else 1
            assert found.values_HW.dtype == np.float32
            assert np.isnan(found.values_HW[~found.valid_HW]).all()
            stored_N = file_CHW[0][file_valid_HW]
            assert np.array_equal(found.values_HW[found.valid_HW], (stored_N / steps).astype(np.float32))
        if of_heights:
            assert found.height_HW is found.values_HW
            assert found.spread_HW is not None
            spread_N = (file_CHW[1][file_valid_HW] * SPREAD.scale).astype(np.float32)
            np.testing.assert_allclose(found.spread_HW[found.valid_HW], spread_N, rtol=1e-6)
        else:
            with pytest.raises(InputError, match=f"the map shows {found.label}, no heights"):
                _ = found.height_HW


@pytest.mark.parametrize("kind", ["array", "scene", "tiles"])
def test_an_array_is_checked_as_a_scene_is(kind: str, tmp_path: Path, capsys: Any) -> None:
    """Divided by ten: refused, noted or ignored; what is found goes with the result."""
    url = write_checkpoint(tmp_path / "run", small_regressor(statistics=honest_scenes.statistics()))
    model = treeline.load(url)
    honest_CHW = honest_scenes.stored(honest_scenes.plain_scene(3001))[:, :128, :128]
    tenth_CHW = honest_scenes.stored(honest_scenes.plain_scene(3001) / 10)[:, :128, :128]

    def result(image_CHW: NDArray[np.int16], **options: Any) -> Any:
        if kind == "tiles":
            tiles_BCHW = np.stack([image_CHW[:, :64, :64], image_CHW[:, 64:, 64:]])
            return model.embed(tiles_BCHW, **options)
        if kind == "array":
            return model.predict(image_CHW, **options)
        return model.predict(write_scene(tmp_path / "scene.tif", image_CHW), **options)

    with pytest.raises(InputError, match="all bands as if divided by 10; multiply the scene by 10"):
        result(tenth_CHW)
    for answer in ("note", "ignore"):
        capsys.readouterr()
        found = result(tenth_CHW, on_mismatch=answer).findings
        assert found.keys() == {"factor"}
        assert "all bands as if divided by 10" in found["factor"]
        assert ("as if divided by 10" in capsys.readouterr().err) == (answer == "note")
    assert result(honest_CHW).findings == {}
    zeros_CHW = np.where(np.indices((128, 128))[0] < 3, 0, honest_CHW).astype(np.int16)
    assert result(zeros_CHW).findings["filled"].endswith("% of pixels are 0 in all bands; is 0 nodata?")


def test_cures_name_arguments(tmp_path: Path, capsys: Any) -> None:
    """No option of a command stands in a line that Python raises, of arrays, scenes and maps."""
    url = write_checkpoint(tmp_path / "run", small_regressor(statistics=honest_scenes.statistics()))
    model = treeline.load(url)
    honest_CHW = honest_scenes.stored(honest_scenes.plain_scene(3001))[:, :128, :128]

    def refused(image_CHW: NDArray[Any]) -> list[str]:
        lines, nodata = [], NODATA if image_CHW.dtype == np.int16 else None
        for image in (image_CHW, write_scene(tmp_path / "scene.tif", image_CHW, nodata)):
            with pytest.raises(InputError) as error:
                model.predict(image)
            lines.append(str(error.value))
            assert "--" not in lines[-1]
        return lines

    for line in refused(honest_CHW // 10):
        assert line.endswith('multiply the scene by 10, or give on_mismatch="note"')
    for line in refused((honest_CHW // 25).clip(0, 255).astype(np.uint8)):
        assert "bytes have no unit" in line
    array, file = refused(honest_CHW[::-1].copy())
    assert 'if so, order its bands: image[..., [3, 2, 1, 0], :, :], or give on_mismatch="note"' in array
    assert 'if so, give bands=["nir", "red", "green", "blue"], or give on_mismatch="note"' in file
    assert np.array_equal(honest_CHW[::-1][..., [3, 2, 1, 0], :, :], honest_CHW)
    array, file = refused(0 * honest_CHW)
    for line in (array, file):
        assert "100 % of pixels are 0 in all bands; is the image empty? if so, " in line
    assert "if a part is measured, make the others NaN" in array
    assert "if a part of it is measured, give nodata=0, or" in file
    scene = write_scene(tmp_path / "scene.tif", np.where(np.indices((128, 128))[0] < 9, 0, honest_CHW))
    capsys.readouterr()
    for of_scene in (model.predict, model.embed):
        of_scene(scene)
        noted = capsys.readouterr().err
        assert "is 0 nodata? if so, give nodata=0\n" in noted
    scene = write_scene(tmp_path / "scene.tif", honest_CHW[:2])
    with pytest.raises(InputError, match=r"has 2 bands where 4 are asked for .*; name them with bands$"):
        model.predict(scene)
    write_scene(scene, np.where(honest_CHW == NODATA, 1e6, honest_CHW).astype(np.float32))
    with pytest.raises(InputError, match="if that means a missing pixel, give nodata, else clip"):
        model.predict(scene)
    write_scene(scene, honest_CHW)
    assert command("predict", str(scene), "--checkpoint", str(url), "--out", str(tmp_path)).returncode == 0
    surface = write_scene(tmp_path / "surface.tif", np.full((1, 128, 128), 2500, np.float32), nodata=None)
    with pytest.raises(InputError, match=r"the ground's elevations \(ground\), or give on_mismatch=.note.$"):
        treeline.evaluate(maps=[str(tmp_path / "scene.chm.tif")], heights=[str(surface)])


def test_missing_pixels_of_an_array_are_those_of_a_file(
    checkpoints: dict[str, Path], image_CHW: NDArray[np.int16]
) -> None:
    """The nodata value, NaN, infinity and a mask mean the same, whatever the type of the numbers."""
    model = treeline.load(checkpoints["heights"])
    expected_HW = model.predict(image_CHW).height_HW
    missing_CHW = image_CHW == NODATA
    for image in (
        image_CHW.astype(np.int64),
        np.where(missing_CHW, np.nan, image_CHW.astype(np.float64)),
        np.where(missing_CHW, np.inf, image_CHW.astype(np.float32)),
        np.ma.masked_array(np.where(missing_CHW, 7, image_CHW), missing_CHW),
    ):
        np.testing.assert_array_equal(model.predict(image).height_HW, expected_HW)


def test_an_array_without_a_valid_pixel_is_refused_as_its_file_is(
    checkpoints: dict[str, Path], image_CHW: NDArray[np.int16], tmp_path: Path
) -> None:
    """All missing, or a band of it; a pixel that has all bands is enough."""
    model, line = treeline.load(checkpoints["heights"]), "no pixel has all bands that the model reads"
    one_band_CHW = np.where(image_CHW == NODATA, 500, image_CHW).astype(np.int16)
    one_band_CHW[2] = NODATA
    for missing_CHW in (np.full((4, 64, 64), NODATA, np.int16), one_band_CHW):
        with pytest.raises(InputError, match=f"scene.tif: {line}"):
            model.predict(write_scene(tmp_path / "scene.tif", missing_CHW))
        with pytest.raises(
            InputError, match=f"the array: {line}; 100 % of band (blue|red) is NaN, infinite, -9999"
        ):
            model.predict(missing_CHW)
    one_band_CHW[2, :16, :16] = 500
    assert model.predict(one_band_CHW).valid_HW.any()


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (
            np.zeros((3, 64, 64), np.int16),
            {},
            "of int16 of shape .3, 64, 64.: give .bands, rows, columns. with",
        ),
        (np.zeros((64, 64), np.int16), {}, "with the bands blue green red nir"),
        (np.zeros((4, 0, 64), np.int16), {}, "of shape .4, 0, 64."),
        (np.zeros((4, 64, 64), np.complex64), {}, "an array of complex64 .*: give pixels as numbers, int16"),
        (
            np.zeros((4, 64, 64), np.int16),
            {"bands": ("red",)},
            "bands: is no option here; there are .*window",
        ),
        (np.zeros((4, 64, 64), np.int16), {"windows": 64}, "windows: is no option here"),
        (np.zeros((4, 64, 64), np.int16), {"window": 60}, "--window 60: must be a multiple"),
        (np.zeros((4, 64, 64), np.int16), {"batch_size": 3}, "--batch-size 3: give a power of 2"),
        (np.zeros((4, 64, 64), np.int16), {"block": 0}, "--block 0: give 1 or more"),
        ("no-such.tif", {}, "no-such.tif"),
        (str(ROOT / "README.md"), {}, "README.md"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_a_line(
    image: Any, options: dict[str, Any], said: str, checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(treeline.InputError, match=said) as error:
        treeline.load(checkpoints["heights"]).predict(image, **options)
    assert "\n" not in str(error.value)


def test_one_scene_at_a_time(checkpoints: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(scene.read_bytes())
    with pytest.raises(InputError, match=r"\*.tif: names 2 scenes; give one at a time"):
        treeline.load(checkpoints["heights"]).predict(str(tmp_path / "*.tif"))
    with pytest.raises(InputError, match="nowhere"):
        treeline.load(tmp_path / "nowhere")


# --- vectors ---


@pytest.mark.parametrize(
    ("tokens", "kind", "precision"),
    [
        ("class", "heights", "float32"),
        ("patches", "heights", "bf16"),
        ("mean", "tile values", "bf16"),
        ("patches", "pixel classes", "float32"),
    ],
)
def test_vectors_are_those_that_the_command_writes(
    tokens: Any,
    precision: Precision,
    kind: str,
    checkpoints: dict[str, Path],
    scene: Path,
    image_CHW: NDArray[np.int16],
    tmp_path: Path,
) -> None:
    checkpoint, out = str(checkpoints[kind]), str(tmp_path / "vectors")
    given = ("--checkpoint", checkpoint, "--tokens", tokens, "--tile-size", "32", "--batch-size", "4")
    done = command("embed", "--scenes", str(scene), *given, "--out", out, "--precision", precision)
    assert done.returncode == 0, done.stderr
    expected = read_embeddings(out)
    model = treeline.load(checkpoint, precision=precision)
    model.predict(
        500 + np.eye(64, dtype=np.int16) + np.zeros((4, 1, 1), np.int16)
    )  # the encoder shares the model's weights
    of_scene = model.embed(scene, tokens=tokens, tile_size=32, batch_size=4)
    of_array = model.embed(image_CHW, tokens=tokens, tile_size=32, batch_size=4)
    assert np.array_equal(of_scene.vectors_ND, expected.vectors_ND)
    assert of_scene.columns.equals(expected.columns)
    assert np.array_equal(of_array.vectors_ND, expected.vectors_ND)
    assert of_array.columns["row"].equals(expected.columns["row"])
    assert of_array.columns["column"].equals(expected.columns["column"])
    tiles_BCHW = np.stack([image_CHW[:, row : row + 32, 32:64] for row in (0, 64)])
    of_tiles = model.embed(tiles_BCHW, batch_size=4)
    assert of_tiles.columns["tile"].to_pylist() == [0, 1]
    with pytest.raises(InputError, match="holds no tile of 160 pixels"):
        model.embed(image_CHW, tile_size=160)
    with pytest.raises(InputError, match="tile_size: tiles of 40 pixels are no multiple"):
        model.embed(image_CHW, tile_size=40)


def test_a_pretrained_backbone_embeds_and_predicts_nothing(stored: Dataset, tmp_path: Path) -> None:
    run = write_untrained(tmp_path / "run", stored)
    teacher, student = (treeline.load(run, weights=name) for name in ("teacher", "student"))
    image = stored.gather(stored.chips("all")).image_BCHW
    assert np.array_equal(treeline.load(run).embed(image).vectors_ND, teacher.embed(image).vectors_ND)
    assert not np.array_equal(student.embed(image).vectors_ND, teacher.embed(image).vectors_ND)
    with pytest.raises(InputError, match="only its encoder is loaded, which predicts nothing"):
        teacher.predict(image[0])


# --- datasets ---


def test_chips_are_read_by_number_and_by_key(stored: Dataset) -> None:
    dataset = treeline.open(Path(stored.url))
    assert len(dataset) == dataset.index.num_rows == CHIPS
    keys = dataset.index["key"].to_pylist()
    for number, chip in enumerate(dataset):
        expected = stored.gather(np.array([number]))
        assert chip.key == keys[number]
        assert np.array_equal(chip.image_CHW, expected.image_BCHW[0])
        np.testing.assert_array_equal(chip.height_HW, expected.height_BHW[0])
    assert dataset[-1].key == keys[-1]
    assert np.array_equal(dataset.chip(keys[3]).image_CHW, dataset[3].image_CHW)
    assert dataset.schema == CHIP_SCHEMA
    for wrong in (CHIPS, -CHIPS - 1):
        with pytest.raises(IndexError, match=f"there is no chip {wrong}; it has 24"):
            dataset[wrong]
    with pytest.raises(InputError, match="no chip has the key 'nobody'"):
        dataset.chip("nobody")


def test_batches_have_each_chip_once_in_the_order_of_the_seed(stored: Dataset) -> None:
    dataset = treeline.open(stored.url)
    train = stored.chips("train")
    in_order = np.concatenate([batch.chips for batch in dataset.batches(5)])
    assert np.array_equal(in_order, train)
    shuffled = [batch.chips for batch in dataset.batches(5, seed=1, epoch=2)]
    assert np.array_equal(np.concatenate(shuffled), stored.epoch(train, 1, 2))
    of_ranks = [list(dataset.batches(5, seed=1, epoch=2, part=Part(rank, 2))) for rank in range(2)]
    for whole, *parts in zip(shuffled, *of_ranks, strict=True):
        assert sorted(whole) == sorted(np.concatenate([part.chips for part in parts]))
    few = np.concatenate([batch.chips for batch in dataset.batches(5, split="all", limit=3)])
    assert np.array_equal(few, dataset.chips("all", limit=3))
    with pytest.raises(InputError, match="no chip of the split 'test' is selected"):
        dataset.batches(5, split="test")
    with pytest.raises(InputError, match="shuffle: is no option here; there are epoch, limit"):
        dataset.batches(5, shuffle=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_has_the_same_batches_for_any_number_of_workers(workers: int, stored: Dataset) -> None:
    dataset = treeline.open(stored.url)
    given = {"split": "all", "seed": 3}
    loader = DataLoader(dataset.torch(5, **given), batch_size=None, num_workers=workers)  # type: ignore[arg-type]
    assert len(loader) == 5
    for batch, expected in zip(loader, dataset.batches(5, **given), strict=True):  # type: ignore[arg-type]
        assert np.array_equal(batch["chip"].numpy(), expected.chips)
        assert np.array_equal(batch["image"].numpy(), expected.image_BCHW)
        np.testing.assert_array_equal(batch["height"].numpy(), expected.height_BHW)


def test_a_dataset_that_was_replaced_is_not_read_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "chips", 8)
    batches = treeline.open(tmp_path / "chips").torch(4)
    (tmp_path / "chips").rename(tmp_path / "old")
    write_dataset(tmp_path / "chips", 12)
    with pytest.raises(InputError, match="has changed since it was opened; open it again"):
        next(iter(batches))


# --- scores ---


def test_scores_are_what_the_command_prints(
    checkpoints: dict[str, Path], scene: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = stored_of_64(tmp_path / "chips")
    of_chips = {"checkpoint": str(checkpoints["heights"]), "data": data, "split": "all"}
    maps = tmp_path / "maps"
    command("predict", str(scene), "--checkpoint", str(checkpoints["heights"]), "--out", str(maps))
    (path,) = map(str, maps.glob("*.tif"))
    for options in (of_chips, {"maps": [path], "heights": [path]}):
        values = {name: [value] if isinstance(value, str) else value for name, value in options.items()}
        flags = [word for name, value in values.items() for word in (f"--{name}", *value)]
        done = command("evaluate", *flags)
        assert done.returncode == 0, done.stderr
        table, *_ = re.split(r"\n(?:next: |before you map)", done.stdout.rstrip("\n"))
        assert treeline.evaluate(**options).table() == table  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give --checkpoint and --data to score a regressor"):
        treeline.evaluate(data=data)


def stored_of_64(folder: Path) -> str:
    """Chips of the size that the checkpoints were made for."""
    from shards import Chip, DatasetWriter

    heights = np.random.default_rng(0).gamma(2.0, 2.0, (6, 64, 64)).astype(np.float32)
    with DatasetWriter(str(folder), SCHEMA, {"command": "test"}, 10) as writer:
        for number, image_CHW in enumerate(stored_images(6)):
            writer.add(Chip(f"chip_{number}", image_CHW, heights[number]), "train")
        writer.finish()
    return str(folder)
