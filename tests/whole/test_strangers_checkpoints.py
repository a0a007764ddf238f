"""A checkpoint of strangers, or one that rots: any damage to any of its files is refused by the file's name.

- One bit, anywhere in any file, of every kind of checkpoint; a file cut, emptied, or swapped for another's.
- The same says every command that reads a checkpoint, in one line and with exit code 2.
- What a config.json asks for is compared with the weights' header before memory is taken.
- Checkpoints of before are read, with a line; the fingerprint is the same with and without checksums.
- Weights with code, and places that are no files, are refused without being opened.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import small_class_model, write_class_checkpoint
from frozen_runs import config_of, unfinished
from in_process import treeline
from memory import needs_peak, peak_bytes_of
from older_checkpoints import without_sums
from regressors import (
    BANDS,
    SCHEMA,
    SMALL_BACKBONE,
    local_backbone,
    small_regressor,
    stored_images,
    write_checkpoint,
    write_dataset,
    write_scene,
)
from tile_models import small_tile_model, write_tile_checkpoint

from shards.errors import InputError
from shards.format.sealed import sealed
from trainer.model.backbone import build_backbone, new_backbone
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint, read_checkpoint_header
from trainer.model.load_encoder import load_encoder
from trainer.model.pretrained import Pretrained, load_pretrained
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.tile_model import TileHead
from trainer.weights.checkpoint_sums import described, read_config
from trainer.weights.weights_apart import make_whole

Load = Callable[[str], object]
FILES = ("config.json", "metrics.json", "model.safetensors", "statistics.json")
FLIPS = 6
"""Bits that are flipped in each file of each kind."""
LOAD: dict[str, tuple[Load, ...]] = {
    "heights": (load_checkpoint, read_checkpoint_header),
    "classes": (load_class_checkpoint, lambda url: load_class_checkpoint(url, with_weights=False)),
    "tiles": (load_tile_checkpoint, lambda url: load_tile_checkpoint(url, with_weights=False)),
    "pretrained": (load_pretrained, load_encoder),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "heights", small_regressor())
    write_class_checkpoint(folder / "classes", small_class_model())
    write_tile_checkpoint(folder / "tiles", small_tile_model(TileHead("brightness", "linear")))
    torch.manual_seed(0)
    shape, statistics = {**SMALL_BACKBONE, "num_channels": len(BANDS)}, small_regressor().statistics
    pretrained = Pretrained(
        "mae", SCHEMA, BANDS, statistics, {"student": build_backbone(shape)}, {}, {"epoch": 0}
    )
    (folder / "pretrained").mkdir()
    for name, data in pretrained.files().items():
        (folder / "pretrained" / name).write_bytes(data)
    return {kind: folder / kind for kind in LOAD}


@pytest.fixture(params=LOAD)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def folder(kind: str, checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoints[kind], tmp_path / "damaged"))


def refused_by_name(kind: str, folder: Path, file: str) -> str:
    """What all readers of the kind say, in one line that names the file; returns the last."""
    for load in LOAD[kind]:
        with pytest.raises(InputError) as refused:
            load(str(folder))
        said = str(refused.value)
        assert str(folder / file) in said
        assert "; " in said
        assert "\n" not in said
    return said


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_bit_is_refused_by_the_files_name(kind: str, folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    generator = np.random.default_rng(17)
    for place in generator.integers(8 * len(whole), size=FLIPS):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << int(place % 8)
        (folder / file).write_bytes(flipped)
        refused_by_name(kind, folder, file)
    (folder / file).write_bytes(whole)
    for load in LOAD[kind]:
        load(str(folder))


def test_every_bit_of_the_names_of_the_checksums_counts(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Otherwise one bit would turn a checkpoint into one of before, which has none."""
    folder = Path(shutil.copytree(checkpoints["heights"], tmp_path / "damaged"))
    whole = (folder / "config.json").read_bytes()
    for name in (b'"files"', b'  "xxh3"', b'"format"'):
        start = whole.rindex(name)
        for place in range(8 * start, 8 * (start + len(name))):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            (folder / "config.json").write_bytes(flipped)
            refused_by_name("heights", folder, "config.json")


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_emptied_or_longer_is_refused(kind: str, folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    for other in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\n", whole[8:]):
        (folder / file).write_bytes(other)
        refused_by_name(kind, folder, file)


@pytest.mark.parametrize("file", FILES[1:])
def test_the_file_of_another_checkpoint_is_refused(
    checkpoints: dict[str, Path], file: str, tmp_path: Path
) -> None:
    """One file of a copy may come from another epoch. All kinds share the reader."""
    folder = Path(shutil.copytree(checkpoints["heights"], tmp_path / "damaged"))
    other = write_checkpoint(tmp_path / "other", small_regressor(1))
    if (other / file).read_bytes() == (folder / file).read_bytes():
        values = json.loads((other / file).read_text())
        values[next(iter(values))] = None
        (other / file).write_text(json.dumps(values))
    shutil.copy(other / file, folder / file)
    refused_by_name("heights", folder, file)


def test_a_checkpoint_of_before_is_read_with_one_line_and_the_same_fingerprint(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = LOAD["heights"][0] if kind == "heights" else LOAD[kind][-1]
    ours: Any = load(str(folder))
    assert not capsys.readouterr().err
    without_sums(folder)
    for _ in range(2):
        theirs: Any = load(str(folder))
        assert theirs.fingerprint == ours.fingerprint != ""
    assert capsys.readouterr().err.count(f"{folder}: an earlier version wrote it without checksums") == 1


def test_any_flipped_bit_of_a_checkpoint_with_its_backbone_apart_is_refused(
    tmp_path: Path, backbone: Path
) -> None:
    """A run keeps it so while it lasts. Once it has ended, config.json lists the whole weights."""
    datasets = {"heights": write_dataset(tmp_path / "chips", 22, val_share=0.2)}
    config = config_of("heights", datasets, backbone, tmp_path / "run")
    unfinished(config)
    folder = tmp_path / "run" / "epoch-0002"
    fingerprint = load_checkpoint(str(folder)).fingerprint
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["backbone.json", "config.json", "metrics.json", "rest.safetensors", "statistics.json"]
    (apart,) = (tmp_path / "run").glob("backbone-*")
    generator = np.random.default_rng(1)
    for file in (*(folder / name for name in files), apart):
        whole = file.read_bytes()
        for place in generator.integers(8 * len(whole), size=FLIPS):
            data = bytearray(whole)
            data[place // 8] ^= 1 << int(place % 8)
            file.write_bytes(data)
            refused_by_name("heights", folder, str(file))
        file.write_bytes(whole)
    with_whole_weights = read_config(str(make_whole_copy(folder)))[1]
    assert sorted(with_whole_weights.files) == list(FILES[1:])
    assert load_checkpoint(str(folder)).fingerprint == fingerprint


def make_whole_copy(folder: Path) -> Path:
    """Do what a run does at its end, with one checkpoint."""
    make_whole(str(folder / "model.safetensors"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return folder


# --- commands ---


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("chips") / "chips", 6).url


def flipped(folder: Path, file: str, place: int = -3) -> None:
    data = bytearray((folder / file).read_bytes())
    data[place] ^= 1
    (folder / file).write_bytes(data)


@pytest.mark.parametrize("file", FILES)
def test_commands_end_with_one_line_and_code_2(
    file: str, checkpoints: dict[str, Path], dataset: str, tmp_path: Path
) -> None:
    heights = Path(shutil.copytree(checkpoints["heights"], tmp_path / "damaged"))
    backbone = Path(shutil.copytree(checkpoints["pretrained"], tmp_path / "backbone"))
    scene = str(write_scene(tmp_path / "scene.tif", stored_images(1)[0]))
    flipped(heights, file)
    flipped(backbone, file)
    out = tmp_path / "out"
    for folder, words in (
        (heights, ("predict", scene, "--checkpoint", str(heights), "--out", str(out))),
        (heights, ("evaluate", "--checkpoint", str(heights), "--data", dataset, "--split", "train")),
        (heights, ("embed", "--scenes", scene, "--checkpoint", str(heights), "--out", str(out))),
        (heights, ("export", str(heights), "--out", str(out))),
        (
            backbone,
            ("train", "--data", dataset, "--out", str(out), "--backbone", str(backbone), "--workers", "0"),
        ),
    ):
        done = treeline(*words)
        assert done.returncode == 2, (words, done.stderr)
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"treeline: {folder / file}: "), words
        assert not out.exists(), words


# --- a config.json that asks for more than there is ---


def redescribed(folder: Path, **changes: Any) -> None:
    """Change config.json and give it the checksums of somebody who knows how."""
    config = json.loads((folder / "config.json").read_text())
    for part, values in changes.items():
        config[part] = {**config[part], **values} if isinstance(config[part], dict) else values
    (folder / "config.json").write_bytes(sealed(config))


HUGE: list[dict[str, dict[str, Any]]] = [
    {"backbone": {"hidden_size": 10**9}},
    {"backbone": {"hidden_size": 2**17, "intermediate_size": 2**17}},
    {"backbone": {"num_hidden_layers": 10**9}},
    {"backbone": {"num_hidden_layers": 500}},
    {"backbone": {"num_attention_heads": 0}},
    {"backbone": {"num_attention_heads": 3}},
    {"backbone": {"patch_size": 10**6}},
    {"backbone": {"num_register_tokens": 10**9}},
    {"backbone": {"num_channels": 10**9}},
    {"backbone": {"hidden_act": "__import__"}},
    {"backbone": {"layer_norm_eps": "1"}},
    {"backbone": {"_attn_implementation": "someone/kernels"}},
    {"backbone": {"auto_map": {"AutoModel": "code.Model"}}},
]
HUGE_DECODERS: list[dict[str, dict[str, Any]]] = [
    {"decoder": {"widths": [10**9] * 4}},
    {"decoder": {"widths": [2**17] * 4}},
    {"decoder": {"widths": [16] * 100}},
    {"decoder": {"outputs": 10**9}},
    {"decoder": {"upsample": 0}},
    {"decoder": {"norm": "other"}},
    {"decoder": {"dropout": 7}},
]


@needs_peak
@pytest.mark.parametrize("change", [*HUGE, *HUGE_DECODERS], ids=str)
def test_what_a_config_asks_for_is_refused_before_memory_is_taken(
    change: dict[str, dict[str, Any]], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    for kind in ("heights", "pretrained") if "backbone" in change else ("heights",):
        folder = Path(shutil.copytree(checkpoints[kind], tmp_path / kind))
        redescribed(folder, **change)

        def refusals(kind: str = kind, folder: Path = folder) -> None:
            for load in LOAD[kind]:
                with pytest.raises(InputError, match=f"{folder}.*; "):
                    load(str(folder))

        assert peak_bytes_of(refusals) < 100e6


@pytest.mark.timeout(20)
@pytest.mark.parametrize("file", FILES)
def test_a_pipe_in_place_of_a_file_is_refused(kind: str, folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    for load in LOAD[kind]:
        with pytest.raises(InputError, match=f"{folder / file}: .*(regular|cut off|empty|bytes instead)"):
            load(str(folder))


# --- weights of others ---


def test_pickled_weights_of_a_folder_are_refused_in_our_words(tmp_path: Path) -> None:
    folder = local_backbone(tmp_path / "backbone")
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*holds code; never loaded") as refused:
        new_backbone(str(folder), BANDS, "red")
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"_attn_implementation": "someone/kernels"},
        {"quantization_config": {"quant_method": "someone"}},
        {"hidden_size": 10**9},
        {"num_hidden_layers": 500},
    ],
    ids=str,
)
def test_a_folder_that_names_code_or_other_shapes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = local_backbone(tmp_path / "backbone")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match="backbone") as refused:
        new_backbone(str(folder), BANDS, "red")
    assert "trust_remote_code" not in str(refused.value)


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    """transformers would fetch the model that it names, from the hub."""
    folder = local_backbone(tmp_path / "backbone")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        new_backbone(str(folder), BANDS, "red")


def test_checksums_can_be_written_again(checkpoints: dict[str, Path]) -> None:
    """A run adds such a file to those of a checkpoint."""
    files = {path.name: path.read_bytes() for path in checkpoints["heights"].iterdir()}
    assert described(files) == described(described(files)) == files
