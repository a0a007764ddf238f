"""Training on a tiny dataset whose heights can be seen: what is promised of the loop and of a run's folder.

- The loss goes down; the same seed gives the same losses bit for bit.
- Two processes and one give the same losses, scores and weights' effect, also with a ragged last batch.
- What is frozen stays as it is; early stopping stops; the plateau schedule lowers the rate.
- A pixel without a height or without a valid image counts nowhere: not in losses, scores or baselines.
- A run leaves its options, metrics, checkpoints, state and TensorBoard's log, and is never overwritten.
- Every recipe builds and trains.
"""

import json
from itertools import pairwise
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gloo_ranks import in_group, run_ranks
from regressors import CHIP_SCHEMA, fitted, small_config, visible_chip, write_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster import cli, commands
from cluster.cli import parse
from shards.errors import DatasetError, InputError
from shards.format.manifest import SPLITS
from shards.read.balance import height_weights
from shards.read.dataset import Dataset, open_dataset
from shards.write.writer import DatasetWriter
from trainer.commands.train import as_it_began, fit_of, new_fit, prepared
from trainer.commands.train_check import check
from trainer.commands.train_on_ray import launch
from trainer.config import RECIPES, EvaluateConfig, TrainConfig
from trainer.devices.ranks import Ranks
from trainer.evaluate.heights import evaluate
from trainer.fit.learning import Learning
from trainer.fit.sample_panel import draw_panel
from trainer.model.checkpoint import checkpoint_url
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.make import new_regressor
from trainer.model.regressor import Regressor
from trainer.run_folder.run_writer import config_yaml
from trainer.run_folder.state_callback import StateCallback
from trainer.score.baselines import MEAN
from trainer.score.evaluation import LINEAR, REGRESSOR

MEASURED_PIXELS = 28 * 32
"""Of a chip: two of its rows have no height, two others no image."""

QUICK: dict[str, Any] = {"decoder": "linear", "decoder_widths": ()}
"""For what is the same with any decoder."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """18 chips to train on, in two shards: with batches of 8 the last one has 2 chips."""
    return write_dataset(tmp_path_factory.mktemp("all_train"), chips=18)


@pytest.fixture(scope="module")
def split_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Chips to train on and chips held out."""
    return write_dataset(tmp_path_factory.mktemp("split"), chips=20, val_share=0.3)


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records]


# --- the loop ---


def test_the_loss_goes_down(dataset: Dataset, backbone: Path) -> None:
    _, records = fitted(dataset, small_config(dataset, backbone, epochs=8, learning_rate=1e-2, flips=False))
    first, *_, last = losses(records)
    assert last < 0.5 * first


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "dropout": 0.3}], ids=["group", "batch-dropout"])
def test_the_same_seed_gives_the_same_losses_bit_for_bit(
    dataset: Dataset, backbone: Path, options: dict[str, Any]
) -> None:
    config = small_config(dataset, backbone, **options)
    (one, records), (again, records_again) = fitted(dataset, config), fitted(dataset, config)
    assert records == records_again
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert losses(fitted(dataset, config.with_options(seed=1))[1]) != losses(records)


def train_all(rank: int, configs: list[TrainConfig], folder: Path) -> None:
    """In a process of its own: train by each of `configs`; the first rank writes the records of all."""

    def records_of_all(ranks: Ranks) -> list[list[dict[str, Any]]]:
        datasets = [open_dataset(config.data) for config in configs]
        return [
            fitted(dataset, config, dataset.chips("train"), ranks)[1]
            for dataset, config in zip(datasets, configs, strict=True)
        ]

    records = in_group(rank, 2, folder / "rendezvous", records_of_all)
    if rank == 0:
        (folder / "records.json").write_text(json.dumps(records))


U_NET: dict[str, Any] = {
    "decoder": "unet",
    "decoder_widths": (16, 16, 8, 8),
    "norm": "batch",
    "crop": 32,
    "jitter": 0.1,
}
"""Options of a U-Net that learns from crops."""


@pytest.mark.slow
def test_two_ranks_and_one_give_the_same_losses_and_scores(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    """Also where the last batch is smaller than the ranks (18 chips: 17 + 1), and one has none to read."""
    # Adam amplifies rounding: at 1e-3 one thread and two differ by 2e-4 (in float64 two ranks by 2e-16).
    base = small_config(dataset, backbone, learning_rate=1e-4, dropout=0.3, brightness=0.1)
    configs = [
        base.with_options(batch_size=6),
        base.with_options(batch_size=5, loss=("asymmetric(factor=3)",)),
        base.with_options(batch_size=17),
        base.with_options(batch_size=17, tune="frozen", flips=False),
        base.with_options(batch_size=15, accumulate=2),
        base.with_options(batch_size=5, **U_NET),
    ]
    run_ranks(train_all, 2, (configs, tmp_path))
    all_of_two = json.loads((tmp_path / "records.json").read_text())
    for config, of_two in zip(configs, all_of_two, strict=True):
        _, of_one = fitted(dataset, config, val_chips=dataset.chips("train"))
        assert len(of_one) == len(of_two) == config.fit.epochs
        for one, two in zip(of_one, of_two, strict=True):
            assert one["val_count"] == two["val_count"]
            for name in ("loss", "val_loss"):
                assert two[name] == pytest.approx(one[name], rel=1e-4), (name, config)
            # R2 is a small difference of large sums.
            assert two == pytest.approx(one, rel=1e-3, abs=1e-3), config


def test_a_frozen_backbone_does_not_change_and_the_decoder_does(dataset: Dataset, backbone: Path) -> None:
    config = small_config(dataset, backbone, tune="frozen", epochs=1)
    torch.manual_seed(config.fit.seed)
    before = new_regressor(dataset, config.model).state_dict()
    after = fitted(dataset, config)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in before if name.startswith("decoder.")}
    # Where a ReLU of one channel is off for all chips, its bias has no gradient.
    assert decoder - {name for name in decoder if name.endswith("attention.1.bias")} <= changed <= decoder


def test_a_backbone_that_learns_changes_throughout(dataset: Dataset, backbone: Path) -> None:
    config = small_config(dataset, backbone, epochs=1)
    torch.manual_seed(config.fit.seed)
    before = new_regressor(dataset, config.model).state_dict()
    after = fitted(dataset, config)[0].state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    # Where a ReLU of one channel is off for all chips, its bias has no gradient.
    same -= {name for name in same if name.endswith("attention.1.bias")}
    assert same == {"backbone.embeddings.mask_token"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", [("squared",), ("silog:1:0", "gradient:0.5")], ids=["squared", "silog"])
def test_a_batch_in_pieces_is_the_batch(dataset: Dataset, backbone: Path, loss: tuple[str, ...]) -> None:
    """Also where the last batch has fewer chips than there are pieces."""
    config = small_config(dataset, backbone, learning_rate=1e-4, loss=loss, brightness=0.1, dropout=0.3)
    _, whole = fitted(dataset, config)
    for accumulate in (2, 3):
        _, pieces = fitted(dataset, config.with_options(accumulate=accumulate))
        assert losses(pieces) == pytest.approx(losses(whole), rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(dataset: Dataset, backbone: Path) -> None:
    config = small_config(dataset, backbone, learning_rate=1e30, gradient_norm=1e30, epochs=3)
    with pytest.raises(FloatingPointError, match="learning-rate"):
        fitted(dataset, config)


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_gradient_that_is_no_number_changes_nothing(
    dataset: Dataset, backbone: Path, on_nonfinite: str
) -> None:
    """The loss is one; one NaN would go into every weight."""
    config = small_config(dataset, backbone, epochs=1, on_nonfinite=on_nonfinite)
    torch.manual_seed(config.fit.seed)
    regressor = new_regressor(dataset, config.model)
    before = {name: value.clone() for name, value in regressor.state_dict().items()}
    weight = next(parameter for parameter in regressor.decoder.parameters() if parameter.requires_grad)
    weight.register_hook(lambda gradient: gradient * float("nan"))
    fit = fit_of(regressor, Learning(dataset, dataset.chips("train"), np.arange(0), Ranks()), config)
    expected = (
        pytest.raises(FloatingPointError, match="the gradient's norm is nan in epoch 1, step 1")
        if on_nonfinite == "stop"
        else pytest.raises(FloatingPointError, match="all steps of epoch 1 were left out; lower --learning-")
    )
    with expected:
        fit.run(StateCallback())
    for name, value in regressor.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_chips_held_out_that_cannot_be_read_are_no_perfect_score(backbone: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", chips=12, val_share=0.4)
    (shard,) = (tmp_path / "data" / "val").glob("*.tar")
    shard.write_bytes(bytes([byte ^ 1 for byte in shard.read_bytes()]))
    config = small_config(dataset, backbone, str(tmp_path / "run"), epochs=1, on_bad_shard="skip")
    dataset, regressor = prepared(config)
    assert draw_panel(regressor, dataset, dataset.chips("val")[:2], torch.device("cpu")) is None
    with pytest.raises(DatasetError, match="no validation chip can be read: left out 1 damaged shard "):
        launch(config)
    # A shard that is damaged after it was looked at.
    with pytest.raises(DatasetError, match="validation chips has a height: left out 1 damaged shard "):
        new_fit(config, Ranks()).run(StateCallback())


def test_workers_that_would_change_the_batch_are_refused(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    config = small_config(dataset, backbone, str(tmp_path / "run"), batch_per_worker=4, workers=2, epochs=1)
    launch(config.with_options(workers=0, batch_per_worker=0, batch_size=8))
    (tmp_path / "run" / "config.yaml").write_text(config_yaml(config))
    check(config.with_options(workers=2, resume="auto"))
    with pytest.raises(InputError, match="batches of 8 chips, not 16; choose --batch-per-worker"):
        check(config.with_options(workers=4, resume="auto"))


# --- schedules and stopping ---


def test_early_stopping_stops_after_so_many_epochs_without_improvement(
    dataset: Dataset, backbone: Path
) -> None:
    """With a rate of nearly 0 nothing improves after the first epoch."""
    stalled = small_config(dataset, backbone, learning_rate=1e-30, weight_decay=0.0, flips=False, epochs=6)
    stalled = stalled.with_options(batch_size=18, stop_patience=2, **QUICK)
    values = [record["val_loss"] for record in fitted(dataset, stalled, val_chips=dataset.chips("train"))[1]]
    assert values == [values[0]] * 3, "the first, and two that are not better"
    patient = stalled.with_options(stop_patience=0)
    assert len(fitted(dataset, patient)[1]) == 6


def test_a_plateau_halves_the_rate_down_to_the_lowest(dataset: Dataset, backbone: Path) -> None:
    config = small_config(
        dataset,
        backbone,
        learning_rate=8e-7,
        lowest_learning_rate=2e-7,
        weight_decay=0.0,
        schedule="plateau",
        plateau_patience=1,
        epochs=8,
    )
    records = fitted(dataset, config, val_chips=dataset.chips("train"))[1]
    rates = [record["learning_rate"] for record in records]
    assert rates[0] == 8e-7
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert rates[-1] < rates[0]
    assert set(rates) <= {8e-7, 4e-7, 2e-7}


def test_the_cosine_rises_then_falls_to_0(dataset: Dataset, backbone: Path) -> None:
    config = small_config(dataset, backbone, batch_size=18, epochs=10, **QUICK)
    rates = [record["learning_rate"] for record in fitted(dataset, config)[1]]
    # Ten steps, of which one warms up; the rate that is recorded is the next step's.
    expected = [config.optimiser.learning_rate * 0.5 * (1 + cos(pi * step / 9)) for step in range(10)]
    assert rates == pytest.approx(expected, abs=1e-12)


# --- what counts ---


def test_losses_and_scores_are_over_the_pixels_with_a_height_and_an_image(
    dataset: Dataset, backbone: Path
) -> None:
    """A map has nodata where a band is missing: what stands there is no prediction to be scored."""
    config = small_config(dataset, backbone, epochs=1)
    record = fitted(dataset, config, val_chips=dataset.chips("train"))[1][0]
    assert record["val_count"] == 18 * MEASURED_PIXELS
    assert record["val_rmse"] ** 2 == pytest.approx(record["val_loss"], rel=1e-3)


def test_the_baselines_are_fitted_to_the_pixels_with_a_height_and_an_image(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    """-9999 is no reflectance: a baseline fitted to it would be too easily beaten. Blue is not used."""
    launch(small_config(dataset, backbone, out=str(tmp_path / "run"), epochs=1))
    batch = dataset.gather(dataset.chips("train"))
    image_NC = np.moveaxis(batch.image_BCHW[:, 1:], 1, -1).reshape(-1, 3)
    height_N = batch.height_BHW.reshape(-1).astype(np.float64)
    known = np.isfinite(height_N) & (image_NC != dataset.schema.nodata).all(1)
    design = np.c_[image_NC, np.ones(len(image_NC))][known].astype(np.float64)
    expected = np.linalg.lstsq(design, height_N[known], rcond=None)[0]
    baselines = load_checkpoint(str(tmp_path / "run")).baselines
    np.testing.assert_allclose(baselines.coefficients, expected, rtol=1e-5)
    assert baselines.positions == (1, 2, 3)
    assert baselines.mean_height == pytest.approx(height_N[known].mean(), rel=1e-6)


# --- the run's folder ---


@pytest.fixture(scope="module")
def run(split_dataset: Dataset, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    launch(small_config(split_dataset, backbone, out=str(out), epochs=3))
    return out


def test_first_and_last_line_say_that_nothing_is_held_out(
    dataset: Dataset,
    split_dataset: Dataset,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, trained_on in enumerate((dataset, split_dataset)):
        config = small_config(trained_on, backbone, out=str(tmp_path / f"run-{number}"), epochs=1, **QUICK)
        commands.train(config, set())
        out, said = capsys.readouterr()
        first = next(line for line in said.splitlines() if "trains on" in line)
        assert ("validates on none: no chips are held out" in first) == (trained_on is dataset)
        (result, *_) = (line for line in out.splitlines() if line)
        assert result.startswith("not scored: no chip of") == (trained_on is dataset)
        assert ("treeline: distances: unknown, since no chip has a position; scenes: " in said) == (
            trained_on is split_dataset
        )
    evaluate(EvaluateConfig(str(tmp_path / "run-1"), split_dataset.url))
    assert (
        f"treeline: {split_dataset.url}: distances: unknown, since no chip has a position"
        in capsys.readouterr().err
    )


def test_a_run_leaves_its_options_metrics_and_checkpoints(run: Path) -> None:
    kept = json.loads((run / "checkpoints.json").read_text())
    assert {path.name for path in run.iterdir()} == {
        kept["last"],
        *kept["best"],
        "checkpoints.json",
        "config.yaml",
        "metrics.jsonl",
        "state",
        "state.json",
        "tensorboard",
        "validation.json",
    }
    assert list((run / "tensorboard").iterdir())
    assert not list(run.rglob(".*")), "nothing half written"


def test_tensorboard_shows_numbers_pictures_and_where_the_time_went(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([record["loss"] for record in records], rel=1e-6)
    shares = [event.value for event in events.Scalars("time/waiting_for_data")]
    assert len(shares) == len(records)
    assert all(0 <= share <= 1 for share in shares)
    (image, *_) = events.Images("image, measured, predicted")
    assert (image.width, image.height) == (3 * 32, 4 * 32)
    assert {"height/measured", "height/predicted"} <= set(events.Tags()["histograms"])


def test_a_line_an_epoch_and_the_best_is_the_best_of_them(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    best = min(records, key=lambda record: float(record["val_loss"]))
    assert load_checkpoint(str(run)).metrics == best
    assert load_checkpoint(str(run / "last")).metrics == records[-1]


def test_the_options_can_be_fed_back_and_give_the_same_run(
    run: Path, split_dataset: Dataset, tmp_path: Path
) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["data"] == split_dataset.url
    out = str(tmp_path / "again")
    config = parse("train", ["--config", str(run / "config.yaml"), "--out", out])
    assert config.model.decoder_widths == tuple(written["decoder_widths"])
    launch(config)
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    weights = [
        Path(checkpoint_url(str(folder))) / "model.safetensors" for folder in (run, tmp_path / "again")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_checkpoint_says_what_it_was_trained_on(run: Path, split_dataset: Dataset) -> None:
    checkpoint = load_checkpoint(str(run))
    assert checkpoint.trained_on["data"] == split_dataset.url
    assert checkpoint.trained_on["fingerprint"] == split_dataset.manifest.fingerprint
    assert checkpoint.regressor.statistics == split_dataset.statistics


def test_evaluation_gives_the_scores_of_training_beside_the_baselines(
    run: Path, split_dataset: Dataset
) -> None:
    evaluation = evaluate(EvaluateConfig(str(run), split_dataset.url, batch_size=3))
    scores, metrics = evaluation.scores, load_checkpoint(str(run)).metrics
    assert evaluation.chips == split_dataset.manifest.samples("val") > 0
    assert scores[REGRESSOR].all.rmse == pytest.approx(metrics["val_rmse"], rel=1e-5)
    assert scores[REGRESSOR].all.count == metrics["val_count"]
    assert scores[REGRESSOR].all.count == scores[LINEAR].all.count == scores[MEAN].all.count
    assert scores[MEAN].all.r2 < 0.01
    assert "R2" in evaluation.table().splitlines()[1]


def without_surroundings(regressor: Regressor) -> None:
    """Make it predict one height everywhere: other batches round a backbone's last bits otherwise."""
    torch.nn.init.zeros_(regressor.decoder.output.weight)


def test_any_batch_size_gives_the_same_bytes_of_an_evaluation(
    run: Path, split_dataset: Dataset, tmp_path: Path
) -> None:
    constant = load_checkpoint(str(run))
    without_surroundings(constant.regressor)
    constant.save(str(tmp_path / "constant"))
    for checkpoint in (str(run), str(tmp_path / "constant")):
        folders = [tmp_path / f"{Path(checkpoint).name}-{size}" for size in (1, 3, 64)]
        for folder in folders:
            size = folder.name.split("-")[-1]
            given = ["--checkpoint", checkpoint, "--data", split_dataset.url, "--out", str(folder)]
            assert cli.run(["evaluate", *given, "--batch-size", size]) == 0
        first, *others = (json.loads((folder / "evaluation.json").read_text()) for folder in folders)
        for other in others:
            assert {name: other["scores"][name] for name in (LINEAR, MEAN)} == {
                name: first["scores"][name] for name in (LINEAR, MEAN)
            }
            assert other["scores"][REGRESSOR]["all"] == pytest.approx(first["scores"][REGRESSOR]["all"], 1e-4)
        if checkpoint != str(run):
            for name in ("evaluation.json", "evaluation.png"):
                assert len({(folder / name).read_bytes() for folder in folders}) == 1, name


def test_any_batch_size_gives_the_same_validation(split_dataset: Dataset, backbone: Path) -> None:
    scores = []
    for batch_size in (1, 7, 64):
        config = small_config(
            split_dataset, backbone, batch_size=batch_size, loss=("squared", "silog"), **QUICK
        )
        torch.manual_seed(0)
        regressor = new_regressor(split_dataset, config.model)
        without_surroundings(regressor)
        chips = split_dataset.chips("val")
        fit = fit_of(regressor, Learning(split_dataset, split_dataset.chips("train"), chips, Ranks()), config)
        scores.append(fit.score(chips))
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["count"] == MEASURED_PIXELS * chips.size


@pytest.mark.slow
def test_every_split_that_a_dataset_has_can_be_evaluated(run: Path, tmp_path: Path) -> None:
    counts = {split: 2 + number for number, split in enumerate(SPLITS)}
    with DatasetWriter(str(tmp_path / "data"), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        splits = [split for split, count in counts.items() for _ in range(count)]
        for number, split in enumerate(splits):
            writer.add(visible_chip(number), split)
        writer.finish()
    for split, count in {**counts, "all": len(splits)}.items():
        out = tmp_path / split
        given = ["--checkpoint", str(run), "--data", str(tmp_path / "data"), "--out", str(out)]
        assert cli.run(["evaluate", *given, "--split", split]) == 0
        found = json.loads((out / "evaluation.json").read_text())
        assert (found["split"], found["chips"]) == (split, count)


def test_an_existing_run_is_refused_and_stays_as_it_is(
    run: Path, split_dataset: Dataset, backbone: Path
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a training run"):
        launch(small_config(split_dataset, backbone, out=str(run), seed=1))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_dataset_without_training_chips_is_refused(backbone: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", chips=2, val_share=1.0)
    with pytest.raises(InputError, match="training split"):
        launch(small_config(dataset, backbone, out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [({"bands": ("nir", "swir")}, "swir"), ({"backbone": "nowhere/at_all/model"}, "nowhere/at_all/model")],
)
def test_a_mistake_is_found_before_anything_is_written(
    dataset: Dataset, backbone: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    config = small_config(dataset, backbone, out=str(tmp_path / "run")).with_options(**options)
    with pytest.raises(InputError, match=named):
        launch(config)
    assert not (tmp_path / "run").exists()


def test_a_limit_trains_on_so_many_chips(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    config = small_config(dataset, backbone, out=str(tmp_path / "run"), epochs=1, limit=5, baseline_chips=3)
    launch(config)
    assert load_checkpoint(config.out).baselines.chips == 3


TALL = "height_max > 7.8"
SHORT = "height_max <= 7.8"


@pytest.mark.parametrize(
    ("flags", "scored"),
    [
        (["--limit", "3"], ""),
        (["--where", TALL], TALL),
        (["--where", TALL, "--limit", "3"], TALL),
        (["--where", TALL, "--val-where", ""], ""),
        (["--where", TALL, "--val-where", SHORT], SHORT),
        (["--val-where", SHORT], SHORT),
    ],
)
def test_the_chips_that_are_asked_for_score_a_run(
    split_dataset: Dataset, backbone: Path, tmp_path: Path, capsys: Any, flags: list[str], scored: str
) -> None:
    out = tmp_path / "run"
    given = ["--data", split_dataset.url, "--backbone", str(backbone), "--recipe", "tiny", "--epochs", "1"]
    assert cli.run(["train", *given, "--out", str(out), *flags]) == 0
    counts = [split_dataset.chips("val", where=where).size for where in ("", TALL, SHORT)]
    assert min(counts) > 0
    expected = split_dataset.chips("val", where=scored).size
    record = json.loads((out / "metrics.jsonl").read_text())
    assert record["val_count"] == expected * MEASURED_PIXELS
    assert f"validates on {expected} ({f'where {scored}' if scored else 'all there are'})" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "options", [{"where": TALL}, {"val_where": TALL}, {"where": TALL, "val_where": TALL}]
)
def test_without_a_validation_chip_the_choice_is_refused(
    backbone: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    with DatasetWriter(str(tmp_path / "data"), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        chips = sorted(map(visible_chip, range(20)), key=lambda chip: np.nanmax(chip.height_HW))
        for number, chip in enumerate(chips):
            writer.add(chip, "val" if number < 3 else "train")
        writer.finish()
    dataset, out = open_dataset(str(tmp_path / "data")), str(tmp_path / "run")
    assert np.nanmax(chips[2].height_HW) < 7.8 < np.nanmax(chips[-1].height_HW)
    with pytest.raises(InputError, match="leaves no validation chip; choose others with --val-where"):
        launch(small_config(dataset, backbone, out=out, **options))
    assert not (tmp_path / "run").exists()
    launch(small_config(dataset, backbone, out=out, epochs=1, where=TALL, val_where=""))


# --- recipes ---


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_builds_and_trains(
    recipe: str, dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    """One epoch of two steps, with a small backbone in the place of the large one."""
    options = {**RECIPES[recipe], "backbone": str(backbone), "epochs": 1, "limit": 4}
    options["batch_per_worker"] = 2
    config = TrainConfig.of(dataset.url, str(tmp_path / "run"), recipe=recipe, **options)
    assert config.global_batch == 2
    launch(config)
    checkpoint = load_checkpoint(config.out)
    assert np.isfinite(checkpoint.metrics["loss"])
    assert checkpoint.regressor.decoder_config.widths == config.model.decoder_widths
    assert checkpoint.regressor.decoder_config.norm == config.model.norm


def test_chmv2_asks_for_a_backbone(dataset: Dataset, tmp_path: Path) -> None:
    options = ["--data", dataset.url, "--out", str(tmp_path / "run"), "--recipe", "chmv2"]
    with pytest.raises(InputError, match="--backbone: --recipe chmv2 needs a pretrained one") as refused:
        check(cli.parse("train", options))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    check(cli.parse("train", [*options, "--backbone", "tiny"]))


def test_chmv2_learns_on_a_frozen_backbone(dataset: Dataset, backbone: Path) -> None:
    options = ["--data", dataset.url, "--out", "run", "--recipe", "chmv2", "--backbone", str(backbone)]
    regressor = new_regressor(dataset, cli.parse("train", options).model)
    assert not any(weight.requires_grad for weight in regressor.backbone.parameters())
    assert all(weight.requires_grad for weight in regressor.decoder.parameters())


def test_chmv2_meets_bare_and_tall_chips_as_often_as_its_paper_says() -> None:
    """10 % below 1 m, 20 % above 35 m (arXiv:2603.06382, section 2.6), however rare they are."""
    heights_N = np.random.default_rng(0).gamma(2, 8, 100_000)
    weights_N = height_weights(heights_N, RECIPES["chmv2"]["balance_heights"])
    assert weights_N[heights_N < 1].sum() == pytest.approx(0.1)
    assert weights_N[heights_N >= 35].sum() == pytest.approx(0.2)


def test_a_run_of_chmv2_as_it_was_goes_on_as_it_began(tmp_path: Path) -> None:
    """The same command has other options now, for new runs only; options that are given are compared."""
    out = ["--out", str(tmp_path), "--data", "chips", "--recipe", "chmv2"]
    new = cli.parse("train", [*out, "--resume", "auto"])
    assert as_it_began(new) == new
    began = new.with_options(
        resume="no", tune="all", backbone="tiny", balance_heights=(), weight_decay=1e-2, warm_up=0.05
    )
    (tmp_path / "config.yaml").write_text(config_yaml(began))
    assert as_it_began(new) == began.with_options(resume="auto")
    # The recipe's own value counts as well, where the user names it: check() then refuses it.
    for tune in ("last", "frozen"):
        given, named = cli.parsed("train", [*out, "--resume", "auto", "--tune", tune])
        assert as_it_began(given, named.keys()).model.tune == tune


def test_an_option_without_effect_that_a_run_has_recorded_is_taken_over(tmp_path: Path) -> None:
    """Older versions took it, and the recipe has another value than the class."""
    command = ["--out", str(tmp_path), "--data", "chips", "--recipe", "tiny", "--decoder", "linear"]
    now, named = cli.parsed("train", [*command, "--resume", "auto"])
    assert now.model.dropout == 0.0
    began = now.with_options(dropout=0.1)
    (tmp_path / "config.yaml").write_text(config_yaml(began))
    assert as_it_began(now, named.keys()) == began
