"""Tokens of a frozen backbone, computed once: training from them is training with the backbone.

- From float32 tokens a run is the same as without them, from bfloat16 within rounding; also with flips.
- A checkpoint that was trained from a store scores with its backbone what it scored with the store.
- A chip's tokens come back in any order, turned as asked, from any storage; a changed byte is never a token.
- Other weights, bands, layers, ... are refused by name, and the store stays as it is.
- What is missing is computed, what is there is kept, and the bytes are those of an undisturbed run.
- Ray workers write the bytes that one process writes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import small_config, write_dataset

from shards.errors import DatasetError, InputError
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips
from shards.storage.objects import find_files, join, publish, read_bytes
from trainer.commands.train import fit_of, planned_tokens, prepared
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig, TrainConfig
from trainer.data import token_store
from trainer.data.token_filling import begin, compute, finish, open_tokens
from trainer.data.token_store import TokenPlan, TokenReader, stored_objects
from trainer.decoders.features import Features
from trainer.devices.ranks import Ranks
from trainer.evaluate.heights import evaluate
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.make import new_regressor
from trainer.model.regressor import Regressor
from trainer.model.symmetries import SYMMETRIES, apply_symmetries
from trainer.run_folder.run_writer import config_yaml
from trainer.score.evaluation import REGRESSOR

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Chips to train on in three shards, the last one smaller, and some held out."""
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=30, val_share=0.2)


@pytest.fixture
def config(dataset: Dataset, backbone: Path, tmp_path: Path) -> TrainConfig:
    return frozen(dataset, backbone, token_store=str(tmp_path / "tokens"))


def frozen(dataset: Dataset, backbone: Path, **options: Any) -> TrainConfig:
    """So small a learning rate that rounding does not grow much."""
    defaults: dict[str, Any] = {"tune": "frozen", "flips": False, "learning_rate": 1e-4}
    return small_config(dataset, backbone, **{**defaults, **options})


class Losses:
    """A callback that remembers the loss of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.steps.append(loss)

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        pass

    def save(self, fit: Fit) -> None:
        pass


def trained(config: TrainConfig) -> tuple[list[float], list[dict[str, Any]], Regressor]:
    """The loss of each step, the record of each epoch, the regressor; from the store if there is one."""
    dataset, regressor = prepared(config)
    tokens = opened(config, dataset, regressor) if config.tokens.token_store else None
    learning = Learning(dataset, dataset.chips("train"), dataset.chips("val"), Ranks(), tokens=tokens)
    fit, losses = fit_of(regressor, learning, config), Losses()
    fit.run(losses)
    return losses.steps, fit.records, regressor


def filled(config: TrainConfig) -> tuple[TokenReader, Dataset, Regressor]:
    dataset, regressor = prepared(config)
    return opened(config, dataset, regressor), dataset, regressor


def opened(config: TrainConfig, dataset: Dataset, regressor: Regressor) -> TokenReader:
    return open_tokens(planned_tokens(config, dataset, regressor), regressor, dataset, Ranks())


def contents(url: str) -> dict[str, bytes]:
    return {name: read_bytes(join(url, name)) for name in find_files(url)}


@torch.inference_mode()
def features_of(
    regressor: Regressor, dataset: Dataset, chips: Chips, symmetries_B: NDArray[np.int64]
) -> Features:
    """What the backbone says of these chips now."""
    batch = dataset.gather(chips)
    (image_BCHW,) = apply_symmetries(symmetries_B, torch.from_numpy(batch.image_BCHW))
    return regressor.features(regressor.normalise(image_BCHW)[0])


def assert_close(ours: Features, theirs: Features, rel: float, classes: bool) -> None:
    assert len(ours.patches) == len(theirs.patches)
    for one, other in zip(ours.patches, theirs.patches, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=rel, atol=1e-5)
    if classes:
        for one, other in zip(ours.classes, theirs.classes, strict=True):
            torch.testing.assert_close(one, other, rtol=rel, atol=1e-5)


# --- training ---


@pytest.mark.parametrize("flips", [False, True], ids=["as-is", "flipped"])
def test_float32_tokens_give_the_same_run(config: TrainConfig, flips: bool) -> None:
    """Dropout draws the same numbers, too."""
    config = config.with_options(token_dtype="float32", flips=flips, dropout=0.2, epochs=1, batch_size=6)
    config = config.with_options(token_variants=8 if flips else 1)
    steps, records, regressor = trained(config)
    steps_without, records_without, without = trained(config.with_options(token_store=""))
    assert steps == pytest.approx(steps_without, rel=1e-6)
    for one, other in zip(records, records_without, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for name, tensor in regressor.state_dict().items():
        torch.testing.assert_close(tensor, without.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_fifty_steps_from_16_bits_have_the_losses_without_a_store(config: TrainConfig) -> None:
    config = config.with_options(batch_size=1, epochs=3, decoder="linear", learning_rate=1e-3)
    steps, records, _ = trained(config)
    steps_without, records_without, _ = trained(config.with_options(token_store=""))
    assert len(steps) >= 50
    assert steps[:50] == pytest.approx(steps_without[:50], rel=1e-3)
    assert records[-1]["val_loss"] == pytest.approx(records_without[-1]["val_loss"], rel=1e-3)


def test_a_checkpoint_trained_from_a_store_scores_with_its_backbone_what_it_scored_with_the_store(
    config: TrainConfig, tmp_path: Path
) -> None:
    config = config.with_options(out=str(tmp_path / "run"), token_variants=8, flips=True)
    launch(config)
    metrics = load_checkpoint(config.out).metrics
    scores = evaluate(EvaluateConfig(config.out, config.data)).scores[REGRESSOR].all
    assert scores.count == metrics["val_count"] > 0
    assert scores.rmse == pytest.approx(metrics["val_rmse"], rel=1e-3)


# --- reading ---


@pytest.mark.parametrize(
    ("options", "classes", "rel"),
    [
        ({"token_dtype": "float32"}, False, 1e-4),
        ({"token_dtype": "bfloat16"}, False, 2**-8),
        ({"token_dtype": "float16"}, False, 2**-11),
        ({"token_dtype": "float32", "decoder": "detail", "upsample": 2}, False, 1e-4),
        ({"token_dtype": "bfloat16", "decoder": "dpt"}, True, 2**-8),
    ],
    ids=["float32", "bfloat16", "float16", "upsampled", "dpt"],
)
def test_tokens_come_back_in_any_order_turned_as_asked(
    config: TrainConfig, options: dict[str, Any], classes: bool, rel: float
) -> None:
    """Within half a step of the type that they are kept in."""
    config = config.with_options(token_variants=8, flips=True, **options)
    reader, dataset, regressor = filled(config)
    generator = np.random.default_rng(0)
    chips = generator.choice(dataset.chips("train"), 20)
    symmetries_B = generator.integers(SYMMETRIES, size=20)
    expected = features_of(regressor, dataset, chips, symmetries_B)
    assert_close(reader.features(chips, symmetries_B), expected, rel, classes)
    other = reader.features(chips, (symmetries_B + 1) % SYMMETRIES)
    assert not torch.allclose(other.patches[0], expected.patches[0], rtol=1e-2)


def test_a_remote_store_is_read_as_a_local_one_whatever_it_may_hold(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there is room for the present batch alone: objects come and go."""
    local, dataset, _ = filled(config)
    remote, _, _ = filled(config.with_options(token_store="memory://tokens"))
    every = dataset.chips("all")
    expected = local.features(every)
    for held_bytes in (token_store.HELD_BYTES, 0):
        monkeypatch.setattr(token_store, "HELD_BYTES", held_bytes)
        for chips in (every, every[:3], every[-3:], every[:3], every[::-1].copy()):
            found = remote.features(chips).patches[0]
            assert torch.equal(found, expected.patches[0][chips])


def test_the_stand_in_of_no_chips_is_one_row(config: TrainConfig) -> None:
    reader, _, _ = filled(config)
    (patches_BDRC,) = reader.features(np.arange(0)).patches
    assert patches_BDRC.shape == (1, 32, 2, 2)
    assert patches_BDRC.isfinite().all()


def test_a_changed_byte_is_found_and_its_object_can_be_computed_again(config: TrainConfig) -> None:
    _, dataset, regressor = filled(config)
    before = contents(config.tokens.token_store)
    victim = max(name for name in before if name.endswith(".tokens"))
    url = join(config.tokens.token_store, victim)
    publish(url, before[victim][:-1] + bytes([before[victim][-1] ^ 1]))
    plan = planned_tokens(config, dataset, regressor)
    reader = TokenReader(plan, stored_objects(plan), dataset, CPU)
    with pytest.raises(DatasetError, match=victim) as said:
        reader.features(dataset.chips("all"))
    assert f"delete {url}" in str(said.value)
    Path(url).unlink()
    filled(config)
    assert contents(config.tokens.token_store) == before


# --- what a store is of ---


def test_the_size_is_said_before_the_work(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    filled(config)
    said = capsys.readouterr().err
    assert said.startswith(f"token store: 30 chips x 512 bytes = 0.0 MB at {config.tokens.token_store}\n")
    filled(config)
    assert "token store" not in capsys.readouterr().err, "there is nothing to do"


def other_weights(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    torch.manual_seed(1)
    backbone = new_regressor(open_dataset(config.data), config.model).backbone
    torch.nn.init.normal_(backbone.model.layer[1].mlp.up_proj.bias)
    backbone.save_pretrained(tmp_path / "other")
    return config.with_options(backbone=str(tmp_path / "other"), bands=("red", "green", "blue"))


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"token_dtype": "float16"}, "dtype"),
        ({"bands": ("red", "green", "blue")}, "bands"),
        ({"upsample": 2, "decoder": "detail"}, "upsample"),
        ({"decoder": "dpt"}, "layers, class tokens"),
        ({"precision": "bf16"}, "computed in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_store_is_refused_by_what_differs_and_stays(
    config: TrainConfig, options: dict[str, Any], differs: str
) -> None:
    filled(config)
    before = contents(config.tokens.token_store)
    with pytest.raises(InputError, match="another --token-store") as said:
        filled(config.with_options(**options))
    assert differs in str(said.value)
    assert "\n" not in str(said.value)
    assert contents(config.tokens.token_store) == before


def test_tokens_of_other_weights_or_chips_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    config = config.with_options(bands=("red", "green", "blue"))
    filled(config)
    with pytest.raises(InputError, match="holds the tokens of another backbone's weights;"):
        filled(other_weights(config, tmp_path))
    fewer = write_dataset(tmp_path / "fewer", chips=28, val_share=0.2)
    with pytest.raises(InputError, match="another dataset"):
        filled(config.with_options(data=fewer.url))


def test_the_same_weights_from_another_folder_with_another_decoder_are_the_same_store(
    config: TrainConfig, backbone: Path, tmp_path: Path
) -> None:
    reader, dataset, _ = filled(config)
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in backbone.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    other = config.with_options(
        backbone=str(copied), seed=5, decoder="linear", decoder_widths=(), batch_size=2
    )
    _, regressor = prepared(other)
    assert begin(planned_tokens(other, dataset, regressor)) == []
    assert reader.features(dataset.chips("val")).patches


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tune": "all"}, "--tune frozen"),
        ({"tune": "lora"}, "--tune frozen"),
        ({"flips": True}, "--no-flips, or --token-variants 8"),
        ({"brightness": 0.1}, "--brightness 0"),
        ({"band_dropout": 0.1, "token_variants": 8}, "--band-dropout 0"),
    ],
)
def test_options_under_which_tokens_change_are_refused_before_anything_is_written(
    config: TrainConfig, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        launch(config.with_options(out=str(tmp_path / "run"), **options))
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_16_bits_cannot_hold_is_refused(config: TrainConfig) -> None:
    dataset, regressor = prepared(config.with_options(token_dtype="float16"))
    torch.nn.init.constant_(regressor.backbone.norm.bias, 1e5)
    with pytest.raises(InputError, match="bfloat16"):
        opened(config.with_options(token_dtype="float16"), dataset, regressor)


# --- completion ---


def test_a_stopped_store_is_completed_with_the_bytes_of_an_undisturbed_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    undisturbed = config.with_options(token_store=str(tmp_path / "undisturbed"))
    filled(undisturbed)
    dataset, regressor = prepared(config)
    plan = planned_tokens(config, dataset, regressor)
    for done in range(len(plan.files)):
        pieces = begin(plan)
        assert len(pieces) == len(plan.files), "none is listed before all are there"
        kept = {piece: kept_at(plan, piece) for piece in pieces[:done]}
        list(compute(plan, [pieces[done]], regressor, dataset))  # and here it is killed
        assert {piece: kept_at(plan, piece) for piece in pieces[:done]} == kept
    filled(config)
    assert {piece: kept_at(plan, piece) for piece in kept} == kept, "nothing was written again"
    assert contents(config.tokens.token_store) == contents(undisturbed.tokens.token_store)


def test_a_shard_is_read_once_for_all_its_variants(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    batches = Dataset.batches

    def noting(dataset: Dataset, order: Chips, *arguments: Any, **options: Any) -> Any:
        read.extend(order.tolist())
        return batches(dataset, order, *arguments, **options)

    monkeypatch.setattr(Dataset, "batches", noting)
    _, dataset, _ = filled(config.with_options(token_variants=8, flips=True))
    assert read == dataset.chips("all").tolist()


def kept_at(plan: TokenPlan, piece: token_store.TokenFile) -> tuple[int, int]:
    found = Path(join(plan.url, plan.name_of(piece))).stat()
    return found.st_ino, found.st_mtime_ns


def test_a_store_of_one_variant_grows_to_eight(config: TrainConfig) -> None:
    filled(config)
    before = contents(config.tokens.token_store)
    filled(config.with_options(token_variants=8, flips=True))
    after = contents(config.tokens.token_store)
    manifest = json.loads(after.pop("tokens.json"))
    before.pop("tokens.json")
    assert before.items() < after.items()
    assert {stored["name"] for stored in manifest["objects"]} == after.keys()
    variants = [name.split(".")[-2] for name in after if "/train/" in name]
    assert sorted(set(variants)) == [str(variant) for variant in range(SYMMETRIES)]
    assert all(name.endswith(".0.tokens") for name in after if "/val/" in name)


def test_a_damaged_shard_stops_the_work_or_is_left_out(config: TrainConfig, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "chips", chips=20)
    damaged = dataset.manifest.shards[1].name
    data = bytearray(read_bytes(join(dataset.url, damaged)))
    data[5000] ^= 1
    publish(join(dataset.url, damaged), bytes(data))
    config = config.with_options(data=dataset.url)
    with pytest.raises(DatasetError, match=damaged):
        filled(config)
    reader, dataset, _ = filled(config.with_options(on_bad_shard="skip"))
    assert reader.features(np.arange(10)).patches[0].shape[0] == 10
    with pytest.raises(DatasetError, match="no tokens of chip 10"):
        reader.features(np.arange(12))
    steps, _, _ = trained(config.with_options(on_bad_shard="skip", epochs=1))
    assert np.isfinite(steps).all()


@pytest.mark.ray
@pytest.mark.slow
def test_workers_on_ray_write_the_bytes_that_one_process_writes(
    config: TrainConfig, ray_env: dict[str, str], ray_second: Any, tmp_path: Path
) -> None:
    here = config.with_options(token_store=str(tmp_path / "here"))
    _, records, _ = trained(here)
    on_ray = config.with_options(out=str(tmp_path / "run"), workers=2)
    done = train_in_a_process(on_ray, ray_env, tmp_path / "options.yaml")
    other = on_ray.with_options(out=str(tmp_path / "other"), token_dtype="float16")
    refused = train_in_a_process(other, ray_env, tmp_path / "options.yaml")
    assert done.returncode == 0, done.stderr
    assert "token store: 30 chips" in done.stderr
    assert contents(config.tokens.token_store) == contents(here.tokens.token_store)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for ours, theirs in zip(map(json.loads, lines), records, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(
        f"treeline: {config.tokens.token_store}: holds the tokens of another dtype;"
    )


def train_in_a_process(
    config: TrainConfig, env: dict[str, str], file: Path
) -> "subprocess.CompletedProcess[str]":
    """`treeline train`: what Ray warns of is none of these tests' errors."""
    file.write_text(config_yaml(config))
    command = [sys.executable, "-m", "cluster.cli", "train", "--config", str(file)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_finish_keeps_what_is_listed(config: TrainConfig) -> None:
    reader, dataset, regressor = filled(config)
    plan = planned_tokens(config, dataset, regressor)
    before = contents(config.tokens.token_store)
    finish(plan, [None])
    assert contents(config.tokens.token_store) == before
    assert reader.features(dataset.chips("train")).patches
