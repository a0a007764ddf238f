"""`--backbone none`: the pixels' U-Net alone is trained, scored and mapped with; it has no tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from in_process import treeline

from ingest.synthetic.landscape import write_scene

TRAIN = (
    "train --data chips --backbone none --decoder unet --decoder-widths 8 8 4 --norm batch --dropout 0 "
    "--epochs 2 --batch-size 8"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips, a scene and a run."""
    folder = tmp_path_factory.mktemp("none")
    write_scene(folder, 0, 5, (128, 96)).image.rename(folder / "scene.tif")
    for command in ("ingest synthetic --chips 24 --out chips", f"{TRAIN} --out run"):
        done = treeline(*command.split(), folder=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_its_checkpoint_has_no_weight_of_a_backbone(folder: Path) -> None:
    config = json.loads((folder / "run" / "epoch-0002" / "config.json").read_text())
    assert config["backbone"]["num_hidden_layers"] == 0
    assert config["backbone"]["patch_size"] == 4
    assert b"backbone" not in (folder / "run" / "epoch-0002" / "model.safetensors").read_bytes()
    assert not list((folder / "run").glob("backbone*"))


def test_it_is_evaluated_verified_exported_and_resumed(folder: Path) -> None:
    for command in (
        "evaluate --checkpoint run --data chips --limit 4",
        "verify run",
        "export run/epoch-0002 --out copy",
        f"{TRAIN} --out run --resume auto",
    ):
        done = treeline(*command.split(), folder=folder)
        assert done.returncode == 0, done.stderr


def test_its_map_is_the_same_in_any_blocks(folder: Path) -> None:
    for name, block in (("one", "128"), ("many", "32")):
        command = f"predict scene.tif --checkpoint run --out {name} --block {block} --on-mismatch ignore"
        done = treeline(*command.split(), folder=folder)
        assert done.returncode == 0, done.stderr
    one, many = (next((folder / name).glob("*.tif")) for name in ("one", "many"))
    with rasterio.open(one) as file, rasterio.open(many) as other:
        np.testing.assert_array_equal(file.read(1), other.read(1))
        assert file.shape == (128, 96)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "embed chips --checkpoint run --out tokens",
            "was trained with --backbone none, so it has no tokens",
        ),
        (
            "attention scene.tif --checkpoint run --out looks",
            "was trained with --backbone none, so it has no tokens",
        ),
        (f"{TRAIN} --out other --decoder detail", "--backbone none: the detail decoder needs tokens"),
        (f"{TRAIN} --out other --decoder-widths 8 8 8 8 8 8 --crop 48", "--crop 48: is no multiple of"),
        (f"{TRAIN} --out other --crop 128", "chips has chips of 64 pixels; give fewer"),
        (f"{TRAIN} --out other --tune frozen", "--tune: does nothing with --backbone none"),
        ("train --data chips --out other --backbone none --task tile-value --label row", "--task tile-value"),
    ],
)
def test_what_needs_tokens_is_refused_in_one_line(folder: Path, command: str, said: str) -> None:
    done = treeline(*command.split(), folder=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "other").exists()
