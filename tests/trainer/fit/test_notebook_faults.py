"""`--faithful`: each of the notebook's faults does what is said of it, alone, and nothing else.

- Without a fault the training is the ordinary one, bit for bit; another way to score changes no weight.
- What a fault does is compared with numbers worked out here from its description.
- All together go through `launch` and leave checkpoints of ordinary regressors.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from regressors import BANDS, NODATA, small_config, write_dataset

from cluster.options import parse
from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.commands.train import new_fit, variant_of
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.decoders.chip_dropout import ChannelDropout
from trainer.devices.ranks import Ranks
from trainer.fit.heights import HeightObjective
from trainer.fit.loop import Fit
from trainer.fit.notebook_faults import ALL, Faults, NotebookLoss, NotebookObjective, notebook_variant
from trainer.fit.variant import ordinary
from trainer.losses.loss import parse_loss
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.make import new_regressor
from trainer.model.regressor import Regressor
from trainer.run_folder.state_callback import StateCallback

ASYMMETRIC = ("asymmetric(factor=3)",)
SINGLE = {fault.name: Faults(**{fault.name: True}) for fault in fields(Faults)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("faults"), chips=20, val_share=0.3)


@pytest.fixture
def config(dataset: Dataset, backbone: Path) -> TrainConfig:
    """The recipe notebook, small."""
    return small_config(
        dataset,
        backbone,
        decoder_widths=(16, 8, 8, 8),
        recipe="notebook",
        tune="frozen",
        norm="batch",
        dropout=0.2,
        flips=False,
        loss=ASYMMETRIC,
        schedule="plateau",
        learning_rate=1e-2,
    )


def trained(config: TrainConfig, faults: Faults | None = None) -> Fit:
    fit = new_fit(config, Ranks(), None if faults is None else notebook_variant(config, faults))
    # Not above all heights as usual, so that some predictions are below 0 from the beginning.
    torch.nn.init.zeros_(fit.model.decoder.output.bias)
    fit.run(StateCallback())
    return fit


def weights_of(fit: Fit) -> dict[str, torch.Tensor]:
    return fit.model.state_dict()


def are_equal(one: Fit, other: Fit) -> bool:
    pairs = zip(weights_of(one).values(), weights_of(other).values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# --- each alone ---


def test_faithful_has_all_faults_and_nothing_else_has_one(config: TrainConfig) -> None:
    assert Faults(**dict.fromkeys(SINGLE, True)) == ALL
    faithful = new_fit(config.with_options(faithful=True), Ranks()).objective
    assert isinstance(faithful, NotebookObjective)
    assert faithful.faults == ALL
    assert type(new_fit(config, Ranks()).objective) is HeightObjective


@pytest.mark.slow
def test_each_fault_alone_changes_what_is_learnt_but_for_the_scores(config: TrainConfig) -> None:
    """And a training that may have faults, but has none, is the ordinary one."""
    config = config.with_options(epochs=1)
    plain = trained(config)
    for name, faults in SINGLE.items():
        fit = trained(config, faults)
        assert isinstance(fit.objective, NotebookObjective)
        assert are_equal(fit, plain) == (name == "own_scores"), name


def test_near_infrared_and_red_start_from_blue(dataset: Dataset, config: TrainConfig) -> None:
    def patches(bands: tuple[str, ...], faults: Faults | None) -> torch.Tensor:
        banded = config.with_options(bands=bands)
        variant = ordinary(banded) if faults is None else notebook_variant(banded, faults)
        regressor = new_regressor(dataset, variant.model, variant.pretrained_bands)
        return regressor.backbone.embeddings.patch_embeddings.weight

    rgb_DCPP = patches(("red", "green", "blue"), None)
    assert patches(BANDS, SINGLE["blue_patches"]).equal(rgb_DCPP[:, [2, 2, 1]])
    assert patches(BANDS, None).equal(rgb_DCPP[:, [0, 0, 1]])


def test_dropout_is_a_tenth_whatever_is_configured(dataset: Dataset, config: TrainConfig) -> None:
    regressor = new_regressor(dataset, notebook_variant(config, SINGLE["low_dropout"]).model)
    assert {layer.share for layer in regressor.modules() if isinstance(layer, ChannelDropout)} == {0.1}
    assert config.model.dropout == 0.2


def test_chips_are_dealt_one_by_one(dataset: Dataset, config: TrainConfig) -> None:
    def dealt(config: TrainConfig) -> tuple[Chips, Chips]:
        return notebook_variant(config, SINGLE["dealt_by_chip"]).choose_chips(dataset)

    splits = dataset.chips("train"), dataset.chips("val")
    train, val = dealt(config)
    assert sorted([*train, *val]) == sorted([*splits[0], *splits[1]])
    assert len(train) == 16
    assert all((np.diff(chips) > 0).all() for chips in (train, val))
    assert set(train) & set(splits[1])
    assert set(val) & set(splits[0])
    assert not np.array_equal(dealt(config.with_options(seed=1))[0], train)
    fewer, same_val = dealt(config.with_options(limit=5))
    assert len(fewer) == 5
    assert set(fewer) < set(train)
    assert np.array_equal(same_val, val)
    chosen = np.concatenate(dealt(config.with_options(where="key != 'chip_3'")))
    keys = dataset.index["key"].take(chosen).to_pylist()
    assert len(keys) == 19
    assert "chip_3" not in keys
    assert all(map(np.array_equal, variant_of(config).choose_chips(dataset), splits))


def test_a_prediction_below_0_has_no_gradient() -> None:
    height_BHW, measured_BHW = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.ones(1, 1, 3, dtype=torch.bool)

    def gradient(faults: Faults) -> list[float]:
        predicted_BHW = torch.tensor([[[-1.0, -3.0, 2.0]]], requires_grad=True)
        loss = NotebookLoss(parse_loss(("squared",)).terms, faults)
        loss.value(loss.sums(predicted_BHW, height_BHW, measured_BHW), 0.0).backward()
        assert predicted_BHW.grad is not None
        return (3 * predicted_BHW.grad).flatten().tolist()

    assert gradient(SINGLE["clamped_loss"]) == pytest.approx([0, 0, 2])
    assert gradient(Faults()) == pytest.approx([-2, -10, 2])


def test_what_is_missing_counts_as_0_metres() -> None:
    """All pixels: 0.5 too high without an image, 2 too high without a height; the second chip stands in."""
    height_BHW = torch.tensor([[[1.0, float("nan")]], [[float("nan"), float("nan")]]])
    predicted_BHW, valid_BHW = torch.tensor([[[1.5, 2.0]], [[7.0, 7.0]]]), torch.zeros(2, 1, 2).bool()
    loss = NotebookLoss(parse_loss(("squared",)).terms, SINGLE["unmasked"])
    sums_K = loss.sums(predicted_BHW, height_BHW, valid_BHW)
    assert float(loss.value(sums_K, 0.0)) == pytest.approx((0.5**2 + 2**2) / 2)
    assert sums_K[:2].tolist() == [4.25, 2]


def test_the_notebooks_scores_stand_beside_the_right_ones(dataset: Dataset, config: TrainConfig) -> None:
    """Worked out from the predictions: the root of the asymmetric loss, and numpy's correlation."""
    fit = trained(config, SINGLE["own_scores"])
    batch = dataset.gather(dataset.chips("val"))
    predicted_BHW, valid_BHW = fit.model.predict(torch.from_numpy(batch.image_BCHW))
    known_BHW = valid_BHW.numpy() & np.isfinite(batch.height_BHW)
    predicted_N, height_N = predicted_BHW.numpy()[known_BHW].astype(float), batch.height_BHW[known_BHW]
    record, error_N = fit.records[-1], predicted_N - height_N
    assert record["val_rmse"] == pytest.approx(np.sqrt((error_N**2).mean()), rel=1e-5)
    assert record["val_r2"] == pytest.approx(1 - (error_N**2).mean() / height_N.var(), abs=1e-4)
    assert record["val_notebook_rmse"] == pytest.approx(record["val_loss"] ** 0.5)
    assert record["val_notebook_rmse"] > record["val_rmse"]
    correlation = np.corrcoef(predicted_N, height_N)[0, 1]
    assert record["val_notebook_r2"] == pytest.approx(correlation**2, rel=1e-5)
    assert record["val_notebook_r2"] > record["val_r2"]


def test_a_constant_prediction_has_no_notebook_r2() -> None:
    loss = NotebookLoss(parse_loss(("squared",)).terms, SINGLE["own_scores"])
    sums_K = loss.sums(torch.zeros(1, 1, 4), torch.arange(4.0)[None, None], torch.ones(1, 1, 4).bool())
    assert np.isnan(loss.scores(sums_K, 0.0)["notebook_r2"])


def test_positions_are_jittered_while_training_and_not_while_scoring(
    dataset: Dataset, config: TrainConfig
) -> None:
    image_BCHW = torch.from_numpy(dataset.gather(np.arange(2)).image_BCHW)
    assert (image_BCHW != NODATA).any()
    seen: dict[str, list[torch.Tensor]] = {}

    class Look(StateCallback):
        def _tokens(self, fit: Fit) -> torch.Tensor:
            with torch.no_grad():
                return fit.model.tokens(fit.model.normalise(image_BCHW)[0])

        def after_step(self, fit: Fit, chips: int, loss: float) -> None:
            seen.setdefault("step", []).append(self._tokens(fit))

        def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
            seen.setdefault("epoch", []).append(self._tokens(fit))

    for faults, are_same in ((SINGLE["jittered"], False), (Faults(), True)):
        seen.clear()
        new_fit(config, Ranks(), notebook_variant(config, faults)).run(Look())
        first, *others = seen["step"]
        assert len(others) >= 2
        assert all(first.equal(other) == are_same for other in others)
        assert seen["epoch"][0].equal(seen["epoch"][1])


# --- all together ---


def test_a_faithful_run_leaves_an_ordinary_regressor(
    dataset: Dataset, config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    launch(config.with_options(out=str(out), faithful=True))
    options = yaml.safe_load((out / "config.yaml").read_text())
    assert (options["faithful"], options["dropout"]) == (True, 0.2)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == config.fit.epochs
    for record in records:
        assert record["val_notebook_rmse"] == pytest.approx(record["val_loss"] ** 0.5)
        assert 0 <= record["val_notebook_r2"] <= 1
    checkpoint = load_checkpoint(f"{out}/last")
    assert type(checkpoint.regressor) is Regressor
    assert checkpoint.regressor.decoder_config.dropout == 0.1
    assert not checkpoint.regressor.backbone.training
    again = new_fit(config.with_options(faithful=True), Ranks())
    again.run(StateCallback())
    assert again.records == records
    image_BCHW = torch.from_numpy(dataset.gather(np.arange(4)).image_BCHW)
    ours, theirs = (of.predict(image_BCHW)[0] for of in (again.model, checkpoint.regressor))
    assert ours.equal(theirs)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "tiny"], "belong to --recipe notebook"),
        (["--recipe", "notebook", "--resume", "auto"], "did not have --resume"),
        (["--recipe", "notebook", "--flips"], "did not have --flips"),
        (["--recipe", "notebook", "--bf16"], "did not have --precision"),
        (["--recipe", "notebook", "--token-store", "tokens"], "did not have --token-store"),
    ],
    ids=["recipe", "resume", "flips", "bf16", "tokens"],
)
def test_faithful_is_refused_with_what_the_notebook_had_not(
    dataset: Dataset, tmp_path: Path, flags: list[str], said: str
) -> None:
    arguments = ["--data", dataset.url, "--out", str(tmp_path / "run"), "--faithful", *flags]
    with pytest.raises(InputError, match=said):
        launch(parse(TrainConfig, arguments, "treeline train"))
    assert not (tmp_path / "run").exists()
