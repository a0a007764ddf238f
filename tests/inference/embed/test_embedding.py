"""Embeddings are the encoder's tokens, of any batch, however often the run was stopped.

- The vectors are those of the encoder on one tile alone, to 1e-5 before they are rounded to float16.
- What was killed goes on, and ends in the same bytes; what is done is not done again.
- Windows of scenes are the tiles of a dataset of the same pixels.
- Another checkpoint, dataset or option in the same folder, and other bands, are refused.
"""

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import torch
from encoders import sar_tiles, write_untrained
from in_process import treeline
from older_checkpoints import without_checksum
from regressors import (
    CHIP_SCHEMA,
    small_regressor,
    stored_images,
    visible_chip,
    write_checkpoint,
    write_scene,
)
from servers import S3Server, environment_of

from inference.config import EmbedConfig
from inference.embed.embedder import EmbedJob, vectors_of
from inference.embed.embeddings import Part, read_embeddings
from inference.embed.in_process import InProcess
from inference.embed.run import embed
from shards.errors import DatasetError, InputError
from shards.format.index import INDEX_SCHEMA
from shards.format.key import split_of
from shards.format.schema import Chip, with_values
from shards.format.sealed import json_bytes
from shards.read.dataset import Dataset, open_dataset
from shards.storage.checksum import hexadecimal
from shards.storage.objects import find_files, join, read_bytes
from shards.write.writer import DatasetWriter
from trainer.devices.choice import Precision
from trainer.model.encoder import patches_valid
from trainer.model.load_encoder import load_encoder

TILES = 44
SMALL = {"batch_size": 4, "tiles_per_part": 8}


def write_tiles(folder: Path, holes: bool = True) -> Dataset:
    """Tiles of 32 pixels; of some a part is missing, of one everything."""
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        for number in range(TILES):
            chip = visible_chip(number)
            image_CHW = chip.image_CHW.copy()
            if holes and number % 5 == 0:
                image_CHW[:, :20, :20] = CHIP_SCHEMA.nodata
            if holes and number == 7:
                image_CHW[:] = CHIP_SCHEMA.nodata
            writer.add(Chip(chip.key, image_CHW, chip.height_HW), split_of(chip.key, 0.3))
        writer.finish()
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_tiles(tmp_path_factory.mktemp("embed") / "tiles")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_untrained(tmp_path_factory.mktemp("embed") / "run", dataset)


@pytest.fixture
def config(dataset: Dataset, run: str, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(data=dataset.url, checkpoint=run, out=str(tmp_path / "out"), **SMALL)


def contents(url: str) -> dict[str, bytes]:
    return {name: read_bytes(join(url, name)) for name in find_files(url)}


def alone(dataset: Dataset, run: str, tokens: str, weights: str | None = None) -> Iterator[tuple[str, Any]]:
    """Key and token or tokens of each tile, embedded by itself; None where no patch is valid."""
    encoder = load_encoder(run, weights).encoder
    for chip, key in enumerate(dataset.index["key"].to_pylist()):
        image_BCHW = torch.from_numpy(dataset.gather(np.array([chip])).image_BCHW)
        with torch.inference_mode():
            pixels_BCHW, valid_BHW = encoder.normalise(image_BCHW)
            valid_N = patches_valid(valid_BHW, encoder.patch_size)[0]
            tokens_ND = encoder(pixels_BCHW, attended_BN=valid_N[None])[0]
        patches_ND = tokens_ND[-len(valid_N) :][valid_N]
        if not len(patches_ND):
            yield key, None
        else:
            chosen = {"class": tokens_ND[0], "mean": patches_ND.mean(0), "patches": patches_ND}
            yield key, chosen[tokens].numpy()


@pytest.mark.parametrize("tokens", ["class", "mean", "patches"])
def test_the_vectors_are_the_encoders_tokens(
    tokens: Any, dataset: Dataset, run: str, config: EmbedConfig
) -> None:
    embed(replace(config, tokens=tokens, weights="student"), InProcess())
    found = read_embeddings(config.out)
    keys = found.columns["key"].to_pylist()
    assert list(dict.fromkeys(keys)) == [k for k in dataset.index["key"].to_pylist() if k != "chip_7"]
    expected = {key: one for key, one in alone(dataset, run, tokens, "student") if one is not None}
    vectors_ND = np.vstack([expected[key] for key in dict.fromkeys(keys)])
    # float16 has 11 significant bits; 1e-5 for another batch.
    np.testing.assert_allclose(found.vectors_ND, vectors_ND, rtol=2**-11 + 1e-5, atol=2e-5)
    assert found.about["without_pixels"] == 1
    assert found.about["tiles"] == TILES


def test_a_vector_does_not_depend_on_the_batch(dataset: Dataset, run: str, config: EmbedConfig) -> None:
    """To 1e-5 of its length, before it is rounded."""
    encoder = load_encoder(run).encoder
    found = []
    for batch_size in (1, 4, 16):
        images = (batch.image_BCHW for batch in dataset.batches(dataset.chips("all"), batch_size))
        embedded = vectors_of(encoder, images, replace(config, batch_size=batch_size))
        found.append(np.concatenate([one.vectors_BRD for one in embedded])[:, 0])
    length_N = np.linalg.norm(found[0], axis=1)
    for other in found[1:]:
        assert (np.linalg.norm(other - found[0], axis=1) < 1e-5 * length_N).all()
    assert not np.allclose(found[0][1:], found[0][:-1], rtol=1e-3), "tiles have other vectors"


def test_threads_change_no_bit(config: EmbedConfig, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    every = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            out = str(tmp_path / f"out-{count}")
            embed(replace(config, out=out), InProcess())
            every.append(contents(out))
    finally:
        torch.set_num_threads(threads)
    assert every[0] == every[1]


def test_columns_are_those_of_the_index(dataset: Dataset, config: EmbedConfig) -> None:
    embed(replace(config, tokens="patches", split="val"), InProcess())
    found = read_embeddings(config.out)
    kept = set(INDEX_SCHEMA.names) - {"shard", "row", "xxh3", "image_at", "height_at"}
    assert set(found.columns.column_names) == {*kept, "patch_row", "patch_column"}
    rows = {row["key"]: row for row in dataset.index.to_pylist()}
    for row in found.columns.to_pylist():
        assert row["split"] == "val"
        assert {name: row[name] for name in kept} == {name: rows[row["key"]][name] for name in kept}
    first = [row for row in found.columns.to_pylist() if row["key"] == found.columns["key"][0].as_py()]
    places = [(row["patch_row"], row["patch_column"]) for row in first]
    assert places == sorted(set(places))
    assert {r for r, _ in places} <= set(range(4))


class Stopping(InProcess):
    """Stops after some parts, as if it were killed, and notes what it was asked for."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.asked = after, list[int]()

    def parts(self, numbers: Sequence[int], job: EmbedJob) -> Iterator[tuple[int, Part]]:
        self.asked += numbers
        for done, part in enumerate(super().parts(numbers, job)):
            if done == self.after:
                raise KeyboardInterrupt
            yield part


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(config: EmbedConfig, tmp_path: Path) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    embed(whole, InProcess())
    first = Stopping(2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        embed(config, first)
    assert "the same command resumes" in stopped.value.__notes__[0]
    assert "embeddings.json" not in contents(config.out)
    with pytest.raises(InputError, match="its embeddings are unfinished"):
        read_embeddings(config.out)
    # A part that was being written, and one that was damaged since, are made again.
    (Path(config.out) / ".treeline-0123456789abcdef-part-000003.parquet").write_bytes(b"half")
    part = Path(config.out) / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    second = Stopping(99)
    embed(config, second)
    assert first.asked == [0, 1, 2, 3, 4, 5]
    # The third was written before the kill, though nobody was told.
    assert second.asked == [1, 3, 4, 5]
    assert contents(config.out) == contents(whole.out)
    assert embed(config, Stopping(0)).endswith("(was there before)")


@pytest.mark.parametrize(("older", "precision"), [(True, "bf16"), (False, "float32")])
def test_embeddings_begun_with_or_without_bfloat16_go_on(
    older: bool, precision: Precision, config: EmbedConfig, tmp_path: Path
) -> None:
    """Their plan.json names the older option, a yes or no, and so do the digits in each part."""
    config = replace(config, precision=precision)
    whole = replace(config, out=str(tmp_path / "whole"))
    embed(whole, InProcess())
    with pytest.raises(KeyboardInterrupt):
        embed(config, Stopping(2))
    plan = Path(config.out) / "plan.json"
    text = without_checksum(plan).replace(f'"precision": "{precision}"', f'"bf16": {str(older).lower()}')
    plan.write_text(text)
    stored = {name: v for name, v in json.loads(text).items() if name not in ("treeline", "commit")}
    assert stored["bf16"] is older
    part = pq.read_schema(Path(config.out) / "part-000000.parquet")
    assert part.metadata[b"treeline.made_with"].decode() == hexadecimal(json_bytes(stored))
    with pytest.raises(InputError, match=rf"another precision \({precision} there, fp16 now\)"):
        embed(replace(config, precision="fp16"), Stopping(0))
    second = Stopping(99)
    embed(config, second)
    assert second.asked == [3, 4, 5]
    assert contents(config.out) == contents(whole.out)


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": "mean"}, r"another tokens \(class there, mean now\)"),
        ({"weights": "student"}, r"another weights \(teacher there, student now\)"),
        ({"split": "val"}, "another split"),
        ({"limit": 30}, r"another limit \(None there, 30 now\)"),
        ({"batch_size": 8}, "another batch_size"),
        ({"checkpoint": "other"}, "another checkpoint"),
        ({"data": "other"}, "another data"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_folder_holds_one_kind_of_embeddings(
    change: dict[str, Any], says: str, stopped: bool, config: EmbedConfig, dataset: Dataset, tmp_path: Path
) -> None:
    if "checkpoint" in change:
        change = {"checkpoint": write_untrained(tmp_path / "other", dataset, seed=1)}
    if "data" in change:
        change = {"data": write_tiles(tmp_path / "tiles", holes=False).url}
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            embed(config, Stopping(1))
    else:
        embed(config, InProcess())
    before = contents(config.out)
    with pytest.raises(InputError, match=f"holds {'unfinished ' * stopped}embeddings made with {says}"):
        embed(replace(config, **change), InProcess())
    assert contents(config.out) == before


def test_a_damaged_part_is_no_wrong_vector(config: EmbedConfig) -> None:
    embed(config, InProcess())
    part = Path(config.out) / "part-000002.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DatasetError, match=r"part-000002\.parquet: its .* bytes are not those"):
        read_embeddings(config.out)


def test_a_truncated_shard_is_one_line_that_says_how_to_go_on(run: str, tmp_path: Path) -> None:
    tiles, out = write_tiles(tmp_path / "tiles"), tmp_path / "out"
    shard = Path(tiles.url, tiles.manifest.shards[-1].name)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1000])
    command = ("embed", tiles.url, "--checkpoint", run, "--tiles-per-part", "4", "--out", str(out))
    done = treeline(*command)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"treeline: failed: DatasetError: {shard}: ")
    assert f"; treeline verify {tiles.url} names every damaged shard; finished parts are kept" in last
    shard.write_bytes(whole)
    assert treeline(*command).returncode == 0
    read_embeddings(str(out))


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_embeddings_on_s3(
    server: str, config: EmbedConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stopped there and resumed: the same parts, and nothing else is left."""
    embed(config, InProcess())
    s3: S3Server = request.getfixturevalue(server)
    with environment_of(s3):
        there = replace(config, out=f"s3://bucket/embed-{server}")
        with pytest.raises(KeyboardInterrupt):
            embed(there, Stopping(2))
        embed(there, InProcess())
        assert contents(there.out) == contents(config.out)
        assert np.array_equal(read_embeddings(there.out).vectors_ND, read_embeddings(config.out).vectors_ND)


def test_windows_of_a_scene_are_tiles(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row by row, whole ones only; with their places on the ground. A map beside the scene is left out."""
    image_CHW = stored_images(1, 70, 101, missing=0.01)[0]
    scene = write_scene(tmp_path / "scene_1.tif", image_CHW)
    out = str(tmp_path / "out")
    (tmp_path / "scene_1.chm.tif").write_bytes(scene.read_bytes())
    pattern = str(tmp_path / "scene_*.tif")
    config = EmbedConfig(scenes=(pattern,), tile_size=32, checkpoint=run, out=out, **SMALL)
    said = embed(config, InProcess())
    assert capsys.readouterr().err.count("treeline: left out as maps: 1 of 2 rasters (scene_1.chm.tif)") == 1
    assert said == f"{out}: 6 of 6 tiles, each as 32 numbers (class token)"
    found = read_embeddings(out)
    places = [(row, column) for row in (0, 32) for column in (0, 32, 64)]
    assert found.columns["key"].to_pylist() == [f"scene_1:{row}:{column}" for row, column in places]
    windows = [image_CHW[:, row : row + 32, column : column + 32] for row, column in places]
    (embedded,) = vectors_of(load_encoder(run).encoder, [np.stack(windows)], replace(config, batch_size=6))
    np.testing.assert_allclose(found.vectors_ND, embedded.vectors_BRD[:, 0], rtol=1e-3, atol=1e-3)
    with rasterio.open(scene) as raster:
        for (row, column), footprint in zip(places, found.columns["geometry"].to_pylist(), strict=True):
            left, top = raster.transform @ (column, row)
            assert shapely.from_wkb(footprint).bounds == (left, top - 64, left + 64, top)
    assert set(found.columns["crs"].to_pylist()) == {"EPSG:3338"}


def test_a_trained_regressor_has_an_encoder_too(dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", small_regressor())
    done = treeline("embed", dataset.url, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "embeddings.json").read_text())
    assert about["weights"] == "trained"
    assert pq.read_schema(tmp_path / "out" / "part-000000.parquet").field("vector").type.list_size == 32


def test_labels_of_sar_tiles_stand_beside_their_vectors(tmp_path: Path) -> None:
    tiles = sar_tiles(tmp_path / "tiles", 80, regions=2)
    run = write_untrained(tmp_path / "run", tiles)
    options = ["--where", "region == 'conus'", "--limit", "5", "--out", str(tmp_path / "out")]
    done = treeline("embed", tiles.url, "--checkpoint", run, *options)
    assert done.returncode == 0, done.stderr
    found = read_embeddings(str(tmp_path / "out")).columns.to_pylist()
    rows = {row["key"]: row for row in tiles.index.to_pylist()}
    assert len(found) == 5
    for row in found:
        assert row["region"] == "conus"
        assert row["tree_percent"] == rows[row["key"]]["tree_percent"]


@pytest.fixture(scope="module")
def bad(dataset: Dataset, run: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs, some of which cannot be used, by name."""
    folder = tmp_path_factory.mktemp("bad")
    places = {"tiles": dataset.url, "run": run, "nothing": str(folder / "nothing")}
    for name, schema in {
        "scaled": with_values(CHIP_SCHEMA, (), ("nir=0.5",), ()),
        "three": replace(CHIP_SCHEMA, bands=("blue", "green", "red")),
        "odd": replace(CHIP_SCHEMA, chip_size=20),
    }.items():
        places[name] = str(folder / name)
        with DatasetWriter(places[name], schema, {"command": "test"}, 10) as writer:
            height_HW = np.ones(schema.label_shape, np.float32)
            writer.add(Chip("chip", np.ones(schema.image_shape, np.int16), height_HW), "train")
            writer.finish()
    places["scene"] = str(write_scene(folder / "scene.tif", stored_images(1, 40, 40)[0]))
    places["damaged"] = str(folder / "damaged")
    shutil.copytree(run, places["damaged"])
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights")
    return places


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--checkpoint {run}", "give DATASET to embed its tiles, or --scenes"),
        ("{tiles} --scenes {scene} --checkpoint {run}", "give DATASET to embed its tiles, or --scenes"),
        ("{nothing} --checkpoint {run}", "no dataset here"),
        ("{tiles} --checkpoint {nothing}", "{nothing}"),
        ("{tiles} --checkpoint {damaged}", "not this backbone's weights"),
        ("{tiles} --checkpoint {run} --weights best", "invalid choice"),
        ("{scaled} --checkpoint {run}", "chips have band nir with scale 0.5"),
        ("{three} --checkpoint {run}", "chips lack band nir"),
        ("{odd} --checkpoint {run}", "tiles of 20 pixels are no multiple of the backbone's patches of 8"),
        ("{tiles} --checkpoint {run} --split test", "no chip is in the split 'test'"),
        ("{tiles} --checkpoint {run} --where 'hieght_max > 2'", "hieght_max"),
        ("{tiles} --checkpoint {run} --limit 0", "--limit 0: give 1 or more"),
        ("{tiles} --checkpoint {run} --batch-size 0", "--batch-size 0: give 1 or more"),
        ("{tiles} --checkpoint {run} --workers -1", "--workers -1: give 0 or more"),
        ("{tiles} --checkpoint {run} --tile-size 64", "--tile-size: does nothing without --scenes"),
        ("--scenes {scene} --checkpoint {run} --split val", "--split: does nothing with --scenes"),
        ("--scenes {scene} --checkpoint {run} --tile-size 64", "no scene is that large"),
        ("--scenes {scene} --checkpoint {run} --tile-size 20", "tiles of 20 pixels are no multiple"),
        ("--scenes {nothing}/*.tif --checkpoint {run}", "no file matches"),
    ],
)
def test_a_mistake_is_one_line(arguments: str, says: str, bad: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = treeline("embed", *shlex.split(arguments.format(**bad)), "--out", str(out))
    assert done.returncode == 2, done.stderr
    if "invalid choice" not in says:
        lines = [line for line in done.stderr.splitlines() if line.startswith("treeline: ")]
        assert len(lines) == 1, done.stderr
        assert says.format(**bad) in lines[0]
    assert not out.exists()


def test_a_folder_of_something_else_is_left_alone(dataset: Dataset, run: str, tmp_path: Path) -> None:
    (tmp_path / "part-000000.parquet").write_bytes(b"mine")
    command = ["embed", dataset.url, "--checkpoint", run, "--out"]
    done = treeline(*command, str(tmp_path))
    assert done.returncode == 2
    assert "holds part-000000.parquet, but no plan.json says what it is made with" in done.stderr
    assert contents(str(tmp_path)) == {"part-000000.parquet": b"mine"}
    done = treeline(*command, dataset.url)
    assert done.returncode == 2
    assert "already holds a dataset" in done.stderr
