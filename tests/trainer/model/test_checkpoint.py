"""A checkpoint is a folder from which the same regressor is built again, anywhere.

- Saved and loaded it predicts the same, bit for bit, with the same normalisation, baselines and metrics.
- It holds JSON and safetensors, nothing pickled, and nothing that unpickles is called to read it.
- A damaged or missing one is refused with one line that names the path.
- So is a damaged pretrained backbone: nothing is filled up with random numbers unseen.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from memory import needs_peak, peak_bytes_of
from older_checkpoints import without_sums
from regressors import (
    BANDS,
    SMALL_BACKBONE,
    exact_statistics,
    local_backbone,
    small_regressor,
    stored_images,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file

from shards.errors import InputError
from trainer.decoders.features import DecoderConfig
from trainer.model.backbone import build_backbone, new_backbone
from trainer.model.checkpoint import checkpoint_url
from trainer.model.height_checkpoint import load_checkpoint, read_checkpoint_header
from trainer.model.regressor import Regressor
from trainer.score.baselines import Baselines
from trainer.weights.run_checkpoints import CHECKPOINTS

FILES = {"config.json", "metrics.json", "model.safetensors", "statistics.json"}


def learnt_regressor(norm: str = "group") -> Regressor:
    """Exact statistics, and running means (of batch norm) that are no longer those of a new one."""
    image_BCHW, height_BHW = stored_images(4, missing=0.01), np.full((4, 64, 64), 1.25, np.float32)
    decoder = DecoderConfig((16, 16, 8, 8), norm, dropout=0.1)
    regressor = small_regressor(5, exact_statistics(image_BCHW, height_BHW), decoder)
    with torch.no_grad():
        for _ in range(30):
            regressor.train()(torch.from_numpy(image_BCHW))
    return regressor.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best", learnt_regressor())


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage, without the checksums that would find any damage first."""
    return without_sums(Path(shutil.copytree(saved, tmp_path / "damaged")))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_loaded_checkpoint_predicts_the_same_bits(tmp_path: Path, norm: str) -> None:
    regressor = learnt_regressor(norm)
    loaded = load_checkpoint(str(write_checkpoint(tmp_path / "saved", regressor))).regressor
    image_BCHW = torch.from_numpy(stored_images(3, 64, 96, seed=9, missing=0.01))
    for ours, theirs in zip(regressor.predict(image_BCHW), loaded.predict(image_BCHW), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.predict(image_BCHW)[0].std() > 0.01, "heights that do not vary prove nothing"
    assert not loaded.training
    assert (loaded.schema, loaded.bands) == (regressor.schema, regressor.bands)
    assert (loaded.statistics, loaded.decoder_config) == (regressor.statistics, regressor.decoder_config)


def test_saving_what_was_loaded_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    load_checkpoint(str(saved)).save(str(tmp_path / "again"))
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_metrics_origin_and_baselines_come_back(saved: Path) -> None:
    checkpoint = load_checkpoint(str(saved))
    assert checkpoint.metrics == {"epoch": 3, "loss": 0.5}
    assert checkpoint.baselines == Baselines(1.5, (0.001, 0.0, -0.001, 0.0005, 0.25), chips=8)
    assert checkpoint.trained_on["fingerprint"] == "0123456789abcdef"


def test_the_best_and_the_last_checkpoint_of_a_run_are_found(saved: Path, tmp_path: Path) -> None:
    for name in ("epoch-0002", "epoch-0007"):
        shutil.copytree(saved, tmp_path / name)
    (tmp_path / CHECKPOINTS).write_text('{"last": "epoch-0007", "best": ["epoch-0002"]}')
    run = str(tmp_path)
    for url in (run, f"{run}/", f"{run}/best", f"{run}/best/"):
        assert checkpoint_url(url) == f"{run}/epoch-0002"
    assert checkpoint_url(f"{run}/last") == f"{run}/epoch-0007"
    assert checkpoint_url(f"{run}/epoch-0007") == f"{run}/epoch-0007"
    assert checkpoint_url(str(saved)) == str(saved)
    assert load_checkpoint(f"{run}/last").metrics == load_checkpoint(str(saved)).metrics


def test_the_folder_holds_json_and_safetensors_and_nothing_else(saved: Path) -> None:
    assert {path.name for path in saved.rglob("*")} == FILES
    for path in saved.glob("*.json"):
        json.loads(path.read_text())
    assert load_file(saved / "model.safetensors").keys() == learnt_regressor().state_dict().keys()


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load_checkpoint(str(saved))


# --- without its weights in memory ---


@pytest.mark.parametrize("kind", ["residual", "detail", "dpt", "linear"])
def test_the_header_says_what_the_loaded_checkpoint_does(tmp_path: Path, kind: str) -> None:
    saved = str(write_checkpoint(tmp_path / kind, small_regressor(5, decoder=DecoderConfig(kind=kind))))
    header, checkpoint = read_checkpoint_header(saved), load_checkpoint(saved)
    assert header.fingerprint == checkpoint.fingerprint
    assert header.schema == checkpoint.regressor.schema
    assert header.patch_size == checkpoint.regressor.patch_size
    assert header.decoder == checkpoint.regressor.decoder_config
    assert header.trained_on == checkpoint.trained_on
    assert header.metrics["epoch"] == checkpoint.metrics["epoch"]


@needs_peak
def test_the_header_is_read_in_little_memory(tmp_path: Path) -> None:
    wide = {**SMALL_BACKBONE, "hidden_size": 1024, "intermediate_size": 4096, "num_channels": len(BANDS)}
    small = small_regressor()
    statistics, decoder = small.statistics, DecoderConfig(kind="linear")
    regressor = Regressor(small.schema, BANDS, statistics, build_backbone(wide), decoder)
    saved = write_checkpoint(tmp_path / "wide", regressor)
    del regressor
    read_checkpoint_header(str(saved))
    size = (saved / "model.safetensors").stat().st_size
    assert size > 50e6
    assert peak_bytes_of(lambda: read_checkpoint_header(str(saved))) < 0.8 * size


# --- refused ---


Read = Callable[[str], object]


@pytest.fixture(params=[load_checkpoint, read_checkpoint_header])
def read(request: pytest.FixtureRequest) -> Read:
    """Both ways to read a checkpoint refuse the same."""
    chosen: Read = request.param
    return chosen


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(damaged: Path, name: str, read: Read) -> None:
    (damaged / name).unlink()
    with pytest.raises(InputError, match=f"damaged.*{name}"):
        read(str(damaged))


def test_a_missing_folder_is_named(tmp_path: Path, read: Read) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_truncated_weights_are_refused(damaged: Path, kept: int, read: Read) -> None:
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"damaged/model\.safetensors"):
        read(str(damaged))


def test_weights_that_lack_a_tensor_are_refused(damaged: Path, read: Read) -> None:
    path = damaged / "model.safetensors"
    weights = load_file(path)
    del weights["decoder.8.12.bias"]
    save_file(weights, path)
    with pytest.raises(InputError, match=r"damaged/model\.safetensors.*decoder\.8\.12\.bias"):
        read(str(damaged))


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "statistics.json"])
def test_truncated_json_is_refused(damaged: Path, name: str, read: Read) -> None:
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"damaged/{name}"):
        read(str(damaged))


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": 2}])
def test_another_format_is_refused(damaged: Path, change: dict[str, object], read: Read) -> None:
    path = damaged / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="damaged"):
        read(str(damaged))


def test_the_weights_of_another_decoder_are_refused(damaged: Path, read: Read) -> None:
    path = damaged / "config.json"
    config = json.loads(path.read_text())
    config["decoder"]["widths"] = [32, 16, 8, 8]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"damaged/model\.safetensors"):
        read(str(damaged))


# --- a pretrained backbone's folder ---


def test_a_truncated_backbone_is_refused_by_name(tmp_path: Path) -> None:
    weights = local_backbone(tmp_path / "backbone") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="backbone"):
        new_backbone(str(tmp_path / "backbone"), BANDS, "red")


def test_a_backbone_that_lacks_a_tensor_is_not_filled_up_with_random_numbers(tmp_path: Path) -> None:
    weights = local_backbone(tmp_path / "backbone") / "model.safetensors"
    stored = load_file(weights)
    del stored[next(name for name in stored if name.endswith("up_proj.weight"))]
    save_file(stored, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="backbone"):
        new_backbone(str(tmp_path / "backbone"), BANDS, "red")


def test_a_backbone_stored_in_half_precision_computes_in_float32(tmp_path: Path) -> None:
    backbone = new_backbone(str(local_backbone(tmp_path / "full")), BANDS, "red")
    folder, bands = tmp_path / "half", ("red", "green", "blue")
    new_backbone(str(tmp_path / "full"), bands, "red").to(torch.bfloat16).save_pretrained(folder)
    half = new_backbone(str(folder), BANDS, "red")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert {name: p.shape for name, p in half.named_parameters()} == {
        name: p.shape for name, p in backbone.named_parameters()
    }
