"""`treeline verify` names any damage to what Treeline leaves, and says what it cannot compare.

A run with its checkpoints, state and evaluation; a single checkpoint; a folder of maps; embeddings.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import treeline
from older_checkpoints import without_sums
from regressors import (
    BANDS,
    local_backbone,
    small_config,
    small_regressor,
    stored_images,
    write_checkpoint,
    write_dataset,
    write_scene,
)

from inference.embed.verify_embeddings import has_embeddings, verify_embeddings
from inference.predict.ledger import JOURNAL
from inference.predict.verify_maps import has_maps, is_whole_png, verify_maps
from trainer.commands.train import train
from trainer.commands.verify_run import is_run, verify_run
from trainer.devices.ranks import Ranks
from trainer.model.verify_checkpoint import is_checkpoint, verify_checkpoint

FLIPS = 4
"""Bits that are flipped in each file."""


def flip(file: Path, place: int) -> bytes:
    """Flip a bit; returns what was there before."""
    whole = file.read_bytes()
    data = bytearray(whole)
    data[place // 8] ^= 1 << place % 8
    times = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return whole


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that has ended, with its evaluation; all tests copy it."""
    folder = tmp_path_factory.mktemp("run")
    dataset = write_dataset(folder / "chips", 30, val_share=0.3)
    config = small_config(dataset, local_backbone(folder / "backbone"), str(folder / "run"), bands=BANDS)
    train(config, Ranks())
    scored = ("--checkpoint", str(folder / "run"), "--data", dataset.url, "--split", "val")
    done = treeline("evaluate", *scored, "--out", str(folder / "run" / "evaluation"))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_run_is_whole_and_any_flipped_bit_in_it_is_named(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert is_run(str(copy))
    problems, left = verify_run(str(copy))
    assert not problems
    assert not [line for line in left if "tensorboard" not in line], left
    generator = np.random.default_rng(3)
    files = [path for path in sorted(copy.rglob("*")) if path.is_file() and "tensorboard" not in path.parts]
    compared = [path for path in files if path.name not in ("config.yaml", "metrics.jsonl", "evaluation.png")]
    assert {"state.json", "checkpoints.json", "validation.json", "evaluation.json"} <= {
        p.name for p in compared
    }
    for file in compared:
        size = file.stat().st_size
        for place in generator.integers(8 * size, size=FLIPS):
            whole = flip(file, int(place))
            problems, left = verify_run(str(copy))
            # A bit in the name of the checksum itself turns the file into one of before.
            lines = [*problems, *(line for line in left if "without a checksum" in line)]
            assert all("\n" not in line for line in problems)
            assert any(str(file) in line for line in lines), (file, place, lines)
            file.write_bytes(whole)


def test_a_dataset_that_changed_since_is_named(run: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(run.parent, tmp_path / "all"))
    config = json.loads((whole / "run" / "epoch-0002" / "config.json").read_text())
    data = Path(config["trained_on"]["data"])
    assert verify_run(str(whole / "run"))[0] == []
    before = Path(shutil.move(data, tmp_path / "moved"))
    try:
        assert any("is not here" in line for line in verify_run(str(whole / "run"))[1])
        write_dataset(data, 29, val_share=0.3)
        (problem,) = verify_run(str(whole / "run"))[0]
        assert problem.startswith(f"{data}: has changed since ")
    finally:
        shutil.rmtree(data, ignore_errors=True)
        shutil.move(before, data)


def test_a_checkpoint_of_before_says_what_is_not_compared(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", small_regressor())
    assert is_checkpoint(str(folder))
    assert verify_checkpoint(str(folder)) == ([], [])
    (folder / "notes.txt").write_text("mine")
    assert "none of the checkpoint's files" in verify_checkpoint(str(folder))[1][0]
    without_sums(folder)
    problems, left = verify_checkpoint(str(folder))
    assert not problems
    assert "without checksums" in left[0]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of two scenes, with pictures and items; tests copy it."""
    folder = tmp_path_factory.mktemp("mapped")
    write_checkpoint(folder / "c", small_regressor())
    scenes = [
        str(write_scene(folder / f"scene_{seed}.tif", stored_images(1, 96, 80, seed)[0])) for seed in (1, 2)
    ]
    options = ("--quick-look", "--stac", "--checkpoint", str(folder / "c"), "--out", str(folder / "maps"))
    done = treeline("predict", *scenes, *options, "--window", "64")
    assert done.returncode == 0, done.stderr
    return folder


def test_maps_are_whole_and_any_flipped_bit_in_them_is_named(mapped: Path, tmp_path: Path) -> None:
    maps = Path(shutil.copytree(mapped / "maps", tmp_path / "maps"))
    assert has_maps(str(maps))
    assert verify_maps(str(maps)) == ([], [])
    generator = np.random.default_rng(5)
    files = [path for path in sorted(maps.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.suffix in (".tif", ".png", ".json")]
    assert len(files) == 2 * 4 + 1
    for file in files:
        for place in generator.integers(8 * file.stat().st_size, size=FLIPS):
            whole = flip(file, int(place))
            problems, left = verify_maps(str(maps))
            assert any(str(file) in line for line in [*problems, *left]), (file, place, problems)
            file.write_bytes(whole)


def test_a_scene_or_checkpoint_that_changed_since_is_named(mapped: Path) -> None:
    maps, scene, weights = mapped / "maps", mapped / "scene_1.tif", mapped / "c" / "model.safetensors"
    times = scene.stat()
    whole = flip(weights, 10_000)
    (problem,) = verify_maps(str(maps))[0]
    assert problem.startswith(f"{weights}: ")
    weights.write_bytes(whole)
    shutil.move(mapped / "c", mapped / "other")
    write_checkpoint(mapped / "c", small_regressor(1))
    (problem,) = verify_maps(str(maps))[0]
    assert problem.startswith(f"{mapped / 'c'}: has changed since the maps in {maps} were made")
    shutil.rmtree(mapped / "c")
    problems, left = verify_maps(str(maps))
    assert not problems
    assert left[0].startswith(f"{mapped / 'c'}: is not here")
    shutil.move(mapped / "other", mapped / "c")
    os.utime(scene, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    (problem,) = verify_maps(str(maps))[0]
    assert problem.startswith(f"{scene}: has changed since its map in {maps} was made")
    os.utime(scene, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify_maps(str(maps)) == ([], [])


def test_the_command_names_problems_with_code_1_and_what_is_not_compared(
    mapped: Path, tmp_path: Path
) -> None:
    maps = Path(shutil.copytree(mapped / "maps", tmp_path / "maps"))
    done = treeline("verify", str(maps))
    assert (done.returncode, done.stdout) == (0, f"{maps}: everything is as it was written\n")
    for file in (maps / JOURNAL).glob("scene_2*.json"):
        file.unlink()
    done = treeline("verify", str(maps))
    assert done.returncode == 0
    assert "not compared: " in done.stdout
    assert done.stdout.endswith(f"{maps}: everything that can be compared is as it was written\n")
    flip(maps / "scene_1.chm.tif", 4000)
    done = treeline("verify", str(maps))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{maps}/scene_1.chm.tif: its ")
    done = treeline("verify", str(tmp_path))
    assert done.returncode == 2


def test_embeddings_are_whole_and_any_flipped_bit_in_them_is_named(mapped: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    scene, checkpoint = str(mapped / "scene_1.tif"), str(mapped / "c")
    done = treeline("embed", "--scenes", scene, "--checkpoint", checkpoint, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert has_embeddings(str(out))
    assert verify_embeddings(str(out)) == ([], [])
    generator = np.random.default_rng(6)
    files = [path for path in sorted(out.iterdir()) if path.suffix in (".parquet", ".json")]
    assert len(files) >= 2
    for file in files:
        for place in generator.integers(8 * file.stat().st_size, size=FLIPS):
            whole = flip(file, int(place))
            problems, left = verify_embeddings(str(out))
            assert any(str(file) in line for line in [*problems, *left]), (file, place, problems)
            file.write_bytes(whole)


def test_a_picture_is_whole_up_to_its_end(mapped: Path) -> None:
    data = (mapped / "maps" / "scene_1.chm.png").read_bytes()
    assert is_whole_png(data)
    assert not is_whole_png(data[:-1])
    assert not is_whole_png(data + b"\0")
    assert not is_whole_png(b"")


# --- what can be made again ---


def test_statistics_and_items_are_made_again_only_when_asked_and_with_the_same_bytes(
    mapped: Path, tmp_path: Path
) -> None:
    chips = Path(write_dataset(tmp_path / "chips", 20).url)
    whole = {name: (chips / name).read_bytes() for name in ("statistics.json", "counts.npz")}
    for name in whole:
        flip(chips / name, 100)
    assert treeline("verify", str(chips)).returncode == 1
    done = treeline("verify", str(chips), "--repair")
    assert done.returncode == 0, done.stdout
    assert done.stderr.count("was made again from the pixels of the training split") == 2
    assert {name: (chips / name).read_bytes() for name in whole} == whole
    (shard,) = (chips / "train").glob("*000000.tar")
    flip(shard, 80_000)
    flip(chips / "counts.npz", 100)
    done = treeline("verify", str(chips), "--repair")
    assert done.returncode == 1
    assert "not repaired: counts.npz" in done.stderr
    assert (chips / "counts.npz").read_bytes() != whole["counts.npz"]

    maps = Path(shutil.copytree(mapped / "maps", tmp_path / "maps"))
    item = maps / "scene_1.chm.json"
    before = flip(item, 400)
    assert treeline("verify", str(maps)).returncode == 1
    done = treeline("verify", str(maps), "--repair")
    assert (done.returncode, item.read_bytes()) == (0, before), done.stdout + done.stderr


def test_an_index_is_made_again_from_tars(tmp_path: Path) -> None:
    """With the facts of each chip, its attributes and its twins; not where the splits are no longer those."""
    rows = [f"{number:06d}.npy,{number % 3}" for number in range(24)]
    (tmp_path / "places.csv").write_text("\n".join(["filename,cover", *rows]))
    for kind in ("images", "heights"):
        (tmp_path / kind).mkdir()
        for number in range(24):
            values = np.random.default_rng(number % 23).integers(1, 900, (4, 16, 16)).astype(np.int16)
            np.save(tmp_path / kind / f"{number:06d}.npy", values if kind == "images" else values[0] / 100)
    making = ["ingest", "pairs", "--images", "images", "--heights", "heights", "--table", "places.csv"]
    making += ["--out", "chips", "--shard-chips", "4", "--chip-size", "16", "--shares", "0.6", "0.4"]
    assert treeline(*making, folder=tmp_path).returncode == 0
    chips = tmp_path / "chips"
    whole = (chips / "index.parquet").read_bytes()
    table = pq.read_table(chips / "index.parquet")
    assert table["cover"].null_count == 0
    assert table["duplicate_of"].null_count == 23
    for damage in ("flipped", "missing"):
        flip(chips / "index.parquet", 60) if damage == "flipped" else (chips / "index.parquet").unlink()
        done = treeline("verify", str(chips), "--repair")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "index.parquet: was made again from the tar shards" in done.stderr
        assert (chips / "index.parquet").read_bytes() == whole
    flip(next((chips / "train").glob("*.tar")), 900)
    flip(chips / "index.parquet", 60)
    assert "tar shards cannot be read" in treeline("verify", str(chips), "--repair").stderr


def test_an_index_that_tars_do_not_hold_is_not_made_again(tmp_path: Path) -> None:
    chips = write_dataset(tmp_path / "chips", 20).url
    assert treeline("convert", chips, "--to", "zarr", "--out", f"{chips}-zarr").returncode == 0
    assert treeline("split", chips, "--split-by", "key", "--shares", "0.5", "0.5").returncode == 0
    for where, says in ((chips, "give another index"), (f"{chips}-zarr", "only tar shards hold")):
        damaged = {path: path.read_bytes()[:-9] for path in Path(where).glob("index*.parquet")}
        for path, data in damaged.items():
            path.unlink()  # two names may be links to the same bytes
            path.write_bytes(data)
        done = treeline("verify", where, "--repair")
        assert done.returncode == 1
        assert f"not repaired: {min(path.name for path in damaged)}: " in done.stderr, done.stderr
        assert says in done.stderr
        assert {path: path.read_bytes() for path in damaged} == damaged


def test_the_copy_of_the_index_is_made_again(tmp_path: Path) -> None:
    chips = Path(write_dataset(tmp_path / "chips", 20).url)
    done = treeline("split", str(chips), "--split-by", "key", "--shares", "0.5", "0.5")
    assert done.returncode == 0, done.stderr
    whole = (chips / "index.parquet").read_bytes()
    for name in ("index.parquet", next(path.name for path in chips.glob("index.*.parquet"))):
        data = bytearray(whole)
        data[60] ^= 1
        (chips / name).unlink()  # both names may be links to the same bytes
        (chips / name).write_bytes(data)
        assert treeline("verify", str(chips)).returncode == 1
        assert treeline("verify", str(chips), "--repair").returncode == 0
        assert (chips / name).read_bytes() == whole
