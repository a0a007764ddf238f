"""`treeline train --task pixel-class`: classes are learnt, scored against what numpy counts, and resumed.

- The model starts at the shares of the classes, and beats both baselines where no regression tells two apart.
- The report's confusions, IoU, F1 and baselines are those worked out here, pixel by pixel.
- A step in pieces or on two ranks is a step; pixels without label or image count nowhere; a stopped run goes
  on bit for bit.
- Every mistake is one line with exit code 2.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import (
    CLASS_SCHEMA,
    NAMES,
    class_chip,
    small_class_model,
    write_class_checkpoint,
    write_class_dataset,
)
from gloo_ranks import in_group, run_ranks
from in_process import treeline
from regressors import NODATA, small_config, stored_images, write_dataset
from stopped_runs import Stopped, Stopper, assert_equal_states
from torch.nn.functional import cross_entropy

from shards.errors import InputError
from shards.format.schema import Chip, Schema
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.commands.train import new_fit
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig, TrainConfig
from trainer.data.feed import feed
from trainer.decoders.features import DecoderConfig
from trainer.devices.ranks import Ranks
from trainer.evaluate.classes import evaluate_classes
from trainer.fit.loop import Fit
from trainer.fit.scoring import rounded_totals
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.class_model import ClassModel
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_parts import StoredState
from trainer.score.class_baselines import COMMONEST
from trainer.score.evaluation import LINEAR
from trainer.score.tile_baselines import MODEL

LEARNING: dict[str, Any] = {
    "task": "pixel-class",
    "loss": ("asymmetric(factor=1.3)",),
    "decoder": "detail",
    "decoder_widths": (16, 16, 16, 16),
    "bands": ("blue", "red", "nir"),
    "learning_rate": 1e-2,
}
TRUE_OF = {number: place for place, (number, _) in enumerate(NAMES)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_class_dataset(tmp_path_factory.mktemp("chips"), chips=26, val_share=0.3)


def config_of(dataset: Dataset, backbone: Path, out: Path | str = "", **options: Any) -> TrainConfig:
    return small_config(dataset, backbone, str(out), **{**LEARNING, **options})


@pytest.fixture(scope="module")
def run(dataset: Dataset, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    launch(config_of(dataset, backbone, out, epochs=8))
    return out


def labelled(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, bands) as stored, and (pixels,) places of classes, of all labelled pixels with an image."""
    batch = dataset.gather(dataset.chips(split))
    image_NC = np.moveaxis(batch.image_BCHW, 1, -1).reshape(-1, 4)
    label_N = batch.height_BHW.ravel()
    known_N = np.isfinite(label_N) & (image_NC != NODATA).all(1)
    return image_NC[known_N], np.array([TRUE_OF[int(label)] for label in label_N[known_N]])


def confusion_of(predicted_N: np.ndarray, true_N: np.ndarray) -> list[list[int]]:
    return [[int(((true_N == t) & (predicted_N == p)).sum()) for p in range(3)] for t in range(3)]


def test_classes_are_learnt_beyond_both_baselines(run: Path, dataset: Dataset) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["val_loss"] < 0.7 * records[0]["val_loss"]
    evaluation = evaluate_classes(EvaluateConfig(str(run), dataset.url))
    errors = {name: score.error for name, score in evaluation.scores.items()}
    assert errors[MODEL] < errors[LINEAR] < errors[COMMONEST]
    first, head, *_ = evaluation.table().splitlines()
    assert first.startswith("better than both: share of wrong classes ")
    assert head.split() == ["cover", "pixels", "accuracy", "macro", "F1"]


def test_the_report_is_what_numpy_counts(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    done = treeline(
        "evaluate", "--checkpoint", str(run), "--data", dataset.url, "--out", "e", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (tmp_path / "e" / "evaluation.png").stat().st_size > 1000
    assert done.stdout.splitlines()[0] == found["verdict"]
    image_NC, true_N = labelled(dataset, "val")
    train_NC, train_true_N = labelled(dataset, "train")
    positions = [0, 2, 3]

    def design(image_NC: np.ndarray) -> np.ndarray:
        return np.column_stack([image_NC[:, positions].astype(float), np.ones(len(image_NC))])

    indicators_NK = (train_true_N[:, None] == np.arange(3)).astype(float)
    weights_FK, *_ = np.linalg.lstsq(design(train_NC), indicators_NK, rcond=None)
    linear_N = (design(image_NC) @ weights_FK).argmax(1)
    commonest_N = np.full(len(true_N), np.bincount(train_true_N).argmax())
    batch = dataset.gather(dataset.chips("val"))
    place_BHW, valid_BHW = load_class_checkpoint(str(run)).model.predict(torch.from_numpy(batch.image_BCHW))
    known_BHW = valid_BHW.numpy() & np.isfinite(batch.height_BHW)
    expected = {
        MODEL: confusion_of(place_BHW.numpy()[known_BHW], true_N),
        LINEAR: confusion_of(linear_N, true_N),
        COMMONEST: confusion_of(commonest_N, true_N),
    }
    for name, confusion in expected.items():
        score, table = found["scores"][name], np.array(confusion)
        assert score["confusion"] == confusion, name
        hits, true, predicted = np.diag(table), table.sum(1), table.sum(0)
        assert score["accuracy"] == pytest.approx(hits.sum() / table.sum())
        np.testing.assert_allclose(score["f1"], 2 * hits / (true + predicted))
        np.testing.assert_allclose(score["iou"], hits / (true + predicted - hits))
        assert score["macro_f1"] == pytest.approx(np.mean(score["f1"]))


@pytest.mark.parametrize("kind", ["detail", "residual", "linear"])
def test_a_model_starts_at_the_shares_of_the_classes(dataset: Dataset, backbone: Path, kind: str) -> None:
    widths: tuple[int, ...] = () if kind == "linear" else (16, 8, 8, 8)
    fit = new_fit(config_of(dataset, backbone, decoder=kind, decoder_widths=widths), Ranks())
    model = fit.model.eval()
    assert isinstance(model, ClassModel)
    with torch.no_grad():
        logits_BKHW, _ = model(torch.from_numpy(stored_images(2, 32, 64)))
    assert logits_BKHW.shape == (2, 3, 32, 64)
    summary = dataset.statistics.height
    assert summary
    shares_K = torch.tensor([summary.classes[name] for _, name in NAMES])
    assert (logits_BKHW.softmax(1).mean((0, 2, 3)) - shares_K).abs().max() < 0.05
    assert logits_BKHW.std((0, 2, 3)).max() < 0.3


def test_decoders_of_heights_say_nothing_of_outputs() -> None:
    assert "outputs" not in DecoderConfig().to_json()
    several = DecoderConfig(outputs=3)
    assert DecoderConfig.from_json(several.to_json()) == several


def test_the_loss_is_the_mean_cross_entropy_of_known_pixels(dataset: Dataset, backbone: Path) -> None:
    fit = new_fit(config_of(dataset, backbone), Ranks())
    model, objective = fit.model.eval(), fit.objective
    chips = dataset.chips("val")
    (fed,) = feed(dataset.batches(chips, chips.size), dataset.schema, torch.device("cpu"))
    with torch.no_grad():
        logits_BKHW, valid_BHW = model(fed.image_BCHW)
        loss_K = rounded_totals(objective.score_sums(model, fed)[0])
    known_BHW = valid_BHW & fed.height_BHW.isfinite()
    assert 0 < known_BHW.sum() < known_BHW.numel()
    true_N = torch.tensor([TRUE_OF[int(label)] for label in fed.height_BHW[known_BHW]])
    expected = cross_entropy(logits_BKHW.movedim(1, -1)[known_BHW], true_N)
    assert float(objective.value(loss_K, 0.0)) == pytest.approx(float(expected), rel=1e-5)
    assert int(loss_K[1]) == int(known_BHW.sum())


def losses(config: TrainConfig) -> list[float]:
    noted = Stopper()
    new_fit(config, Ranks()).run(noted)
    return noted.losses


def test_a_step_in_pieces_is_the_same_step(dataset: Dataset, backbone: Path) -> None:
    config = config_of(dataset, backbone, epochs=1, dropout=0.2, brightness=0.1)
    np.testing.assert_allclose(losses(config), losses(config.with_options(accumulate=4)), rtol=1e-5)


@pytest.mark.parametrize("at", [2, 4])
def test_a_stopped_run_goes_on_bit_for_bit(dataset: Dataset, backbone: Path, tmp_path: Path, at: int) -> None:
    config = config_of(dataset, backbone, tmp_path, dropout=0.2, brightness=0.1, average=0.9)

    def fit_of(state: Path | None = None) -> Fit:
        fit = new_fit(config, Ranks())
        if state:
            with StoredState(str(state)) as stored:
                restore(fit, stored)
        fit.objective.prepare()
        return fit

    whole, whole_noted = fit_of(), Stopper()
    whole.run(whole_noted)
    noted = Stopper(at, tmp_path)
    with pytest.raises(Stopped):
        fit_of().run(noted)
    resumed, rest = fit_of(tmp_path), Stopper()
    resumed.run(rest)
    assert noted.losses + rest.losses == whole_noted.losses
    assert_equal_states(state_of(resumed), state_of(whole))


def learnt(config: TrainConfig, ranks: Ranks) -> list[dict[str, Any]]:
    fit = new_fit(config, ranks)
    fit.run(Stopper())
    return fit.records


def learn_as_rank(rank: int, config: TrainConfig, folder: Path) -> None:
    """In a process of its own: the first rank writes its records."""
    records = in_group(rank, 2, folder / "rendezvous", lambda ranks: learnt(config, ranks))
    if rank == 0:
        (folder / "records.json").write_text(json.dumps(records))


@pytest.mark.slow
def test_two_ranks_learn_as_one(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    config = config_of(dataset, backbone, batch_size=4, learning_rate=1e-4, dropout=0.2)
    run_ranks(learn_as_rank, 2, (config, tmp_path))
    two = json.loads((tmp_path / "records.json").read_text())
    for one, other in zip(learnt(config, Ranks()), two, strict=True):
        assert one["val_count"] == other["val_count"] > 0
        for name in ("loss", "val_loss"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name


def test_choice_and_tuning_are_those_of_heights(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    """A share of the chips, and a frozen backbone: only the decoder changes."""
    options = {"tune": "frozen", "limit": "50%", "label_seed": 3, "where": "key != 'chip_1'", "epochs": 1}
    fit = new_fit(config_of(dataset, backbone, tmp_path, **options), Ranks())
    there = dataset.chips("train", where="key != 'chip_1'")
    assert fit.learning.train_chips.size == round(there.size / 2)
    assert set(fit.learning.train_chips) < set(there)
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    fit.run(Stopper())
    after = fit.model.state_dict().items()
    changed = {name.split(".")[0] for name, value in after if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


def test_other_readers_refuse_it_and_its_encoder_is_read(tmp_path: Path) -> None:
    model = small_class_model()
    folder = str(write_class_checkpoint(tmp_path / "checkpoint", model))
    with pytest.raises(InputError, match="predicts classes of cover, no heights"):
        load_checkpoint(folder)
    loaded = load_class_checkpoint(folder)
    image_BCHW = torch.from_numpy(stored_images(2))
    assert torch.equal(loaded.model(image_BCHW)[0], model(image_BCHW)[0])
    encoder = load_encoder(folder)
    assert encoder.fingerprint == loaded.fingerprint
    pixels_BCHW, _ = model.normalise(image_BCHW)
    torch.testing.assert_close(encoder.encoder(pixels_BCHW), model.tokens(pixels_BCHW))


# --- bad input ---


def heights(folder: Path) -> Dataset:
    return write_dataset(folder, chips=8)


def written(folder: Path, change: Callable[[Chip], Chip], schema: Schema = CLASS_SCHEMA) -> Dataset:
    """A dataset of four training chips that are not as ingest would let them be."""
    with DatasetWriter(str(folder), schema, {"command": "test"}, 10) as writer:
        for number in range(4):
            writer.add(change(class_chip(number)), "train")
        writer.finish()
    return open_dataset(str(folder))


def one_class(folder: Path) -> Dataset:
    return written(folder, lambda chip: replace(chip, height_HW=chip.height_HW * 0 + 5))


def unknown_class(folder: Path) -> Dataset:
    def with_seven(chip: Chip) -> Chip:
        chip.height_HW[0, 0] = 7 if chip.key == "chip_2" else 5
        return chip

    return written(folder, with_seven)


def odd_chips(folder: Path) -> Dataset:
    def cut(chip: Chip) -> Chip:
        return replace(chip, image_CHW=chip.image_CHW[:, :24, :24], height_HW=chip.height_HW[:24, :24])

    return written(folder, cut, replace(CLASS_SCHEMA, chip_size=24))


def classes_of_chips(folder: Path) -> Dataset:
    return write_class_dataset(folder, chips=6)


@pytest.mark.parametrize(
    ("write", "flags", "message"),
    [
        (
            classes_of_chips,
            ("--decoder", "dpt"),
            "--decoder dpt: computes heights, no classes; choose detail, ",
        ),
        (classes_of_chips, ("--label", "height"), "--label height: the pixels of .* labelled with cover"),
        (classes_of_chips, ("--loss", "squared"), "--loss: does nothing without --task height"),
        (classes_of_chips, ("--balance-heights", "0", "9"), "--balance-heights: does nothing without --task"),
        (classes_of_chips, ("--token-store", "t"), "--token-store: does nothing without --task height"),
        (classes_of_chips, ("--head", "class"), "--head: does nothing without --task tile-value"),
        (classes_of_chips, ("--recipe", "notebook", "--faithful"), "--faithful: does nothing without --task"),
        (classes_of_chips, ("--limit", "0"), "--limit 0 leaves no training chip"),
        (heights, (), "has 0 classes of pixels; ingest it with two or more"),
        (one_class, (), "only one class occurs in the training split \\(trees\\)"),
        (
            unknown_class,
            (),
            "cover of chip chip_2 is 7 at a pixel, none of the classes 2 water, 5 trees, 90 moss",
        ),
        (odd_chips, (), "chips of 24 pixels are no multiple of the backbone's patch, 16 pixels"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, backbone: Path, write: Callable[[Path], Dataset], flags: tuple[str, ...], message: str
) -> None:
    write(tmp_path / "chips")
    done = treeline(
        *("train", "--data", "chips", "--out", "run", "--task", "pixel-class", "--epochs", "1"),
        *("--backbone", str(backbone), *flags),
        folder=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    *_, line = (line for line in done.stderr.splitlines() if line.startswith("treeline: "))
    assert re.search(message, line), line
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_classes_are_not_learnt_as_heights(dataset: Dataset, tmp_path: Path) -> None:
    done = treeline("train", "--data", dataset.url, "--out", "run", folder=tmp_path)
    assert done.returncode == 2
    assert "its pixels have classes (cover), not heights; give --task pixel-class" in done.stderr


def test_evaluate_refuses_other_labels_classes_and_empty_splits(tmp_path: Path, run: Path) -> None:
    other_name = replace(CLASS_SCHEMA, class_names=((2, "water"), (5, "forest"), (90, "moss")))
    write_class_dataset(tmp_path / "named", chips=4, schema=other_name)
    heights(tmp_path / "heights")
    unknown_class(tmp_path / "unknown")
    for data, message in (
        (
            "named",
            "has the class 5 forest, which the model does not know; it knows 2 water, 5 trees, 90 moss",
        ),
        ("heights", "chips have height, but the checkpoint was trained on cover"),
        ("unknown", "cover of chip chip_2 is 7 at a pixel"),
    ):
        options = ("--checkpoint", str(run), "--data", data, "--split", "train")
        done = treeline("evaluate", *options, folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr.splitlines()[-1]
    done = treeline("evaluate", "--checkpoint", str(run), "--data", "unknown", folder=tmp_path)
    assert (done.returncode, "no chip is in the split 'val'" in done.stderr) == (2, True)


def test_a_sweep_of_classes_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "options.yaml").write_text("task: pixel-class\n")
    done = treeline(
        *("sweep", "--data", dataset.url, "--out", "s", "--train-config", "options.yaml"), folder=tmp_path
    )
    assert done.returncode == 2
    assert "task is pixel-class; a sweep compares heights alone" in done.stderr
    assert not (tmp_path / "s").exists()
