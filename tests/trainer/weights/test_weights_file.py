"""Weights are read without a second copy, and what comes of them has the same bits.

- Of a local file nothing is copied; predicting in 16 bits takes half of it. What is written stays here.
- Loaded weights compute what they did when read whole and copied, from the disk and from another store.
- Of a sharded backbone each rank copies its rows alone.
- Random numbers after a pre-trained backbone are those after a random one, so decoders start as they did.
- A description has no weights, and the same fingerprint.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import small_class_model, write_class_checkpoint
from encoders import write_untrained
from gloo_ranks import in_group, run_ranks
from memory import needs_peak, own_bytes, peak_bytes_of
from older_checkpoints import without_sums
from regressors import BANDS, SMALL_BACKBONE, small_regressor, stored_images, write_checkpoint, write_dataset
from safetensors.torch import load, load_file, save
from tile_models import small_tile_model, write_tile_checkpoint
from torch import nn

from shards.errors import InputError
from shards.storage.checksum import hexadecimal
from shards.storage.objects import find_files, join, publish, read_bytes, remove_folder
from shards.storage.ranges import Fetcher
from trainer.decoders.features import DecoderConfig
from trainer.devices.choice import Precision
from trainer.devices.precision import autocast
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import Blocks, shard
from trainer.model.backbone import TINY, build_backbone, new_backbone, read_weights
from trainer.model.checkpoint import refusing_other_weights
from trainer.model.empty_backbone import draw_as_built, empty_backbone
from trainer.model.frozen_backbone import placed_on
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.model.pretrained import load_pretrained
from trainer.model.regressor import Regressor
from trainer.model.tile_model import TileHead
from trainer.weights.weights_file import fill, read_tensors

CPU = torch.device("cpu")
WIDE = {**SMALL_BACKBONE, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
STORE = "memory://treeline-weights"
"""A store that is not this machine's disk."""


def wide_regressor() -> Regressor:
    small = small_regressor()
    backbone = build_backbone({**WIDE, "num_channels": len(BANDS)})
    return Regressor(small.schema, BANDS, small.statistics, backbone, DecoderConfig(kind="linear"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 150 MB."""
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "best", wide_regressor())


@pytest.fixture(autouse=True, scope="module")
def _other_store() -> Iterator[None]:
    yield
    remove_folder(STORE)


def size_of_weights(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def copied(url: str, name: str) -> str:
    """Copy a folder to the other store; the URL there."""
    for file in find_files(url):
        publish(join(STORE, name, file), read_bytes(join(url, file)))
    return join(STORE, name)


# --- memory ---


@needs_peak
@pytest.mark.parametrize(("precision", "most"), [("float32", 1.15), ("bf16", 0.95)])
def test_a_checkpoint_is_in_memory_once(wide: Path, precision: Precision, most: float) -> None:
    """Where it was read whole, it was there three times. Pages of the file, once read, count here."""
    image_BCHW = torch.from_numpy(stored_images(1))

    def predict() -> None:
        regressor = placed_on(load_checkpoint(str(wide)).regressor, precision, CPU)
        with autocast(precision, CPU):
            regressor.predict(image_BCHW)

    assert peak_bytes_of(predict) < most * size_of_weights(wide)


@needs_peak
def test_of_the_process_is_what_is_rounded_alone(wide: Path) -> None:
    for precision, most in (("float32", 0.1), ("bf16", 0.6)):
        before = own_bytes()
        kept = placed_on(load_checkpoint(str(wide)).regressor, precision, CPU)  # type: ignore[arg-type]
        assert own_bytes() - before < most * size_of_weights(wide)
        del kept


def sharded_here(ranks: Ranks, url: str) -> int:
    """Load a backbone, share it out, and tell the bytes that it took of this process."""
    before = own_bytes()
    backbone = load_checkpoint(url).regressor.backbone
    shard(backbone, Blocks(backbone.model.layer, backbone.norm), CPU)
    return own_bytes() - before


def as_rank(rank: int, folder: Path, url: str) -> None:
    taken = in_group(rank, 2, folder / "rendezvous", lambda ranks: sharded_here(ranks, url))
    (folder / f"rank-{rank}.json").write_text(json.dumps(taken))


@needs_peak
@pytest.mark.slow
def test_each_rank_copies_its_rows_alone(wide: Path, tmp_path: Path) -> None:
    run_ranks(as_rank, 2, (tmp_path, str(wide)))
    for rank in range(2):
        taken = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert 0.4 < taken / size_of_weights(wide) < 0.7


def test_what_is_written_to_weights_never_reaches_the_file(tmp_path: Path) -> None:
    saved = write_checkpoint(tmp_path / "best", small_regressor())
    before = read_bytes(f"{saved}/model.safetensors")
    regressor = load_checkpoint(str(saved)).regressor
    with torch.no_grad():
        for weight in regressor.parameters():
            weight.add_(1)
    placed_on(deepcopy(regressor), "bf16", CPU)
    assert read_bytes(f"{saved}/model.safetensors") == before
    written, again = regressor.state_dict(), load_checkpoint(str(saved)).regressor.state_dict()
    assert all(torch.equal(written[name], value + 1) for name, value in again.items())


# --- the same bits ---


def read_whole(folder: Path) -> Regressor:
    """The checkpoint's regressor as it was loaded before: built at random, each tensor copied into it."""
    loaded = load_checkpoint(str(folder)).regressor
    backbone = build_backbone(loaded.backbone.config.to_diff_dict())
    made = Regressor(loaded.schema, loaded.bands, loaded.statistics, backbone, loaded.decoder_config)
    made.load_state_dict(load(read_bytes(f"{folder}/model.safetensors")))
    return made.eval()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "decoder",
    [
        DecoderConfig((16, 8, 8, 8), "group"),
        DecoderConfig((16, 8, 8, 8), "batch", kind="detail"),
        DecoderConfig((8, 8, 8, 8), kind="dpt"),
        DecoderConfig(kind="linear"),
    ],
    ids=lambda decoder: decoder.kind,
)
def test_heights_are_those_of_weights_read_whole(
    precision: Precision, decoder: DecoderConfig, tmp_path: Path
) -> None:
    saved = write_checkpoint(tmp_path / "best", small_regressor(5, decoder=decoder))
    elsewhere = copied(str(saved), decoder.kind)
    image_BCHW = torch.from_numpy(stored_images(3, missing=0.01))
    found, layouts = [], []
    for regressor in (
        read_whole(saved),
        *(load_checkpoint(url).regressor for url in (str(saved), elsewhere)),
    ):
        layouts.append([one.stride() for one in regressor.decoder.state_dict().values()])
        with autocast(precision, CPU):
            found.append(placed_on(regressor, precision, CPU).predict(image_BCHW)[0])
    assert found[0].std() > 0
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert layouts[0] == layouts[1] == layouts[2]


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_pretrained_backbone_is_that_of_its_file(which: str, tmp_path: Path) -> None:
    run = write_untrained(tmp_path / "run", write_dataset(tmp_path / "chips", 8))
    stored = load_file(f"{run}/model.safetensors")
    for url in (run, copied(run, "run")):
        (backbone,) = load_pretrained(url, which).backbones.values()
        assert backbone.training
        assert all(weight.requires_grad for weight in backbone.parameters())
        values = backbone.state_dict()
        assert all(torch.equal(stored[f"{which}.{name}"], value) for name, value in values.items())
        theirs = build_backbone(backbone.config.to_diff_dict()).rope_embeddings.inv_freq
        assert torch.equal(backbone.rope_embeddings.inv_freq, theirs)


def test_weights_in_half_precision_fill_a_model_of_floats(tmp_path: Path) -> None:
    saved = without_sums(write_checkpoint(tmp_path / "best", small_regressor()))
    file = saved / "model.safetensors"
    halves = {name: value.half() for name, value in load_file(file).items()}
    file.write_bytes(save(halves))
    for name, value in load_checkpoint(str(saved)).regressor.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, halves[name].float())


def test_a_file_of_metas_names_is_read_alike_from_another_store(tmp_path: Path) -> None:
    values = {"model_state_dict": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(700_000)}, "epoch": 3}
    torch.save(values, tmp_path / "weights.pth")
    publish(f"{STORE}/weights.pth", (tmp_path / "weights.pth").read_bytes())
    for url in (str(tmp_path / "weights.pth"), f"{STORE}/weights.pth"):
        found = read_weights(url)
        assert found["epoch"] == 3
        for name, value in values["model_state_dict"].items():  # type: ignore[attr-defined]
            assert torch.equal(found["model_state_dict"][name], value)
    with pytest.raises(InputError, match=r"nowhere\.pth: no such file"):
        new_backbone(str(tmp_path / "nowhere.pth"), BANDS, "red")


# --- random numbers ---


@pytest.mark.parametrize(
    "shape",
    [{}, {"use_gated_mlp": True, "num_register_tokens": 0}, {"hidden_size": 72, "intermediate_size": 50}],
    ids=["plain", "gated", "odd"],
)
def test_drawing_alone_leaves_random_numbers_as_building_does(shape: dict[str, Any]) -> None:
    config = {**TINY, "num_channels": 3, **shape}
    states = []
    for make in (build_backbone, draw_as_built):
        torch.manual_seed(3)
        make(config)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_decoder_starts_as_beside_a_random_backbone(tmp_path: Path) -> None:
    run = write_untrained(tmp_path / "run", write_dataset(tmp_path / "chips", 8))
    drawn = []
    for weights in ("random", "teacher"):
        torch.manual_seed(4)
        load_pretrained(run, weights)
        drawn.append(torch.rand(8))
    assert torch.equal(*drawn)


# --- descriptions ---


def of_heights(folder: Path) -> str:
    return str(write_checkpoint(folder / "best", small_regressor()))


def of_classes(folder: Path) -> str:
    return str(write_class_checkpoint(folder / "best", small_class_model()))


def of_tiles(folder: Path) -> str:
    return str(write_tile_checkpoint(folder / "best", small_tile_model(TileHead("tree_percent"))))


def of_pretraining(folder: Path) -> str:
    return write_untrained(folder / "run", write_dataset(folder / "chips", 8))


@pytest.mark.parametrize("write", [of_heights, of_classes, of_tiles, of_pretraining])
def test_a_description_says_what_the_loaded_encoder_does(
    write: Callable[[Path], str], tmp_path: Path
) -> None:
    url = write(tmp_path)
    for where in (url, copied(url, write.__name__)):
        described, loaded = load_encoder(where, with_weights=False), load_encoder(where)
        assert all(weight.is_meta for weight in described.encoder.backbone.parameters())
        assert not any(weight.is_meta for weight in loaded.encoder.parameters())
        for name in ("name", "fingerprint", "trained_on"):
            assert getattr(described, name) == getattr(loaded, name)
        for name in ("schema", "bands", "patch_size", "width"):
            assert getattr(described.encoder, name) == getattr(loaded.encoder, name)


def test_the_fingerprint_of_a_pretraining_is_that_of_its_files(tmp_path: Path) -> None:
    """Earlier versions computed it in this way; both backbones count, whichever is loaded."""
    run = of_pretraining(tmp_path)
    fingerprint = load_encoder(run, "teacher").fingerprint
    without_sums(Path(run))
    files = (
        read_bytes(join(run, f"{name}")) for name in ("config.json", "statistics.json", "model.safetensors")
    )
    expected = hexadecimal("".join(map(hexadecimal, files)).encode())
    for where in (run, copied(run, "of-files")):
        for which in ("teacher", "student"):
            assert load_encoder(where, which).fingerprint == expected
    assert fingerprint == expected, "checksums are no part of it"


# --- refused ---


def file_of(described: dict[str, Any], numbers: bytes) -> bytes:
    """A file with this list of tensors."""
    listed = json.dumps(described).encode()
    return len(listed).to_bytes(8, "little") + listed + numbers


def entry(start: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        file_of({"a": entry(0, 8)}, bytes(7)),
        file_of({"a": entry(0, 8)}, bytes(9)),
        file_of({"a": entry(4, 12)}, bytes(12)),
        file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
        file_of({"a": entry(0, 8, (3,))}, bytes(8)),
        file_of({"a": entry(0, 8, (-1, -2))}, bytes(8)),
        file_of({"a": entry(0, 8, dtype="F7")}, bytes(8)),
        file_of({"a": entry(-8, 0)}, bytes(8)),
        file_of({"a": 3}, bytes(8)),
    ],
    ids=["empty", "short", "cut", "long", "gap", "overlap", "shape", "negative", "type", "before", "list"],
)
def test_a_damaged_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    publish(f"{STORE}/model.safetensors", data)
    for url in (str(tmp_path / "model.safetensors"), f"{STORE}/model.safetensors"):
        refused = pytest.raises(InputError, match=r"model\.safetensors: not this model's weights")
        with refused, refusing_other_weights(url):
            read_tensors(url)


def test_weights_that_are_written_anew_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = write_checkpoint(tmp_path / "best", small_regressor())
    url = copied(str(saved), "anew")
    read_pieces, file = Fetcher.read_pieces, join(url, "model.safetensors")

    def read_while_another_writes(*arguments: Any) -> None:
        read_pieces(*arguments)
        publish(file, read_bytes(file))

    monkeypatch.setattr(Fetcher, "read_pieces", read_while_another_writes)
    with pytest.raises(InputError, match=r"anew/model\.safetensors: was written anew while it was read"):
        load_checkpoint(url)


def test_nothing_stays_without_memory() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("constant", torch.ones(2), persistent=False)

    with torch.device("meta"):
        forgotten = Constant()
    with pytest.raises(RuntimeError, match="constant has no weights"):
        fill(forgotten, {})
    backbone = empty_backbone({**TINY, "num_channels": 3})
    with pytest.raises(RuntimeError, match=r"norm\.weight"):
        fill(backbone, {})
