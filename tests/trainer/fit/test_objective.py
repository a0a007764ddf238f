"""The loop trains whatever an objective says: here the mean of a chip, which has nothing of a height.

- Its own score decides which epoch is best, and is what is recorded.
- What it remembers travels with the state, and what follows a stop is the same bit for bit.
- Where it knows its number of terms before a pass, pieces of a batch pass once, and it learns the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regressors import local_backbone, small_config, write_dataset
from torch import Tensor
from torch.optim import Optimizer

from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.config import TrainConfig
from trainer.data.feed import Fed
from trainer.devices.ranks import PendingSum, Ranks
from trainer.fit.heights import HeightObjective
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.fit.objective import Forward, Numbers, Objective, Panel
from trainer.fit.pixel_inputs import PixelInputs
from trainer.fit.scoring import Sums
from trainer.model.make import new_regressor
from trainer.run_folder.run_writer import best_epochs
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter, StoredState


class MeanOfChip:
    """Bright chips are to have large means: squared errors of a chip's mean, in hundreds of stored units."""

    learns_from, settles_at_once = "chips", False

    def __init__(self, heights: HeightObjective) -> None:
        self.inputs, self.groups, self.met, self.steps = heights.inputs, heights.groups, 0, 0

    def prepare(self) -> None:
        pass

    def row_reader(self, of_epoch: tuple[int, int] | None) -> None:
        pass

    def _errors(self, forward: Forward, image_BCHW: Tensor) -> Tensor:
        predicted_BHW, _ = forward(image_BCHW)
        errors_B: Tensor = predicted_BHW.mean((1, 2)) - image_BCHW.float().mean((1, 2, 3)) / 100
        return errors_B.double()

    def known_sums(self, inputs: PixelInputs) -> PendingSum | None:
        return None

    def sums(self, forward: Forward, inputs: PixelInputs) -> Tensor:
        self.met += len(inputs.image_BCHW)
        squares_B = self._errors(forward, inputs.image_BCHW).square()
        return torch.stack([squares_B.sum(), torch.ones_like(squares_B).sum()])

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        return sums_K[0] / sums_K[1]

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        error_B = self._errors(forward, fed.image_BCHW).abs()
        return error_B.sum(), torch.tensor(len(error_B))

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        pass

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        self.steps += 1

    def scores_after(self, epoch: int) -> bool:
        return True

    def standing(self, record: dict[str, Any]) -> float:
        return float(record["val_worst"])

    def gather(self) -> None:
        pass

    def trained(self, sums_K: Tensor) -> Numbers:
        return {"met": int(sums_K[1])}

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        return {"chips": int(sums[1]), "worst": float(sums[0] / sums[1])}

    def summary(self, record: dict[str, Any]) -> str:
        return f"{record['val_worst']:.2f}"

    def panel(self, chips: Chips) -> Panel | None:
        return None

    def state(self) -> dict[str, Any]:
        return {"met": self.met}

    def restore(self, values: dict[str, Any]) -> None:
        self.met = values["met"]

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        return {}


class KnownMeanOfChip(MeanOfChip):
    """The same, and it tells the number of chips before any pass."""

    def known_sums(self, inputs: PixelInputs) -> PendingSum:
        return lambda: torch.tensor([0.0, len(inputs.image_BCHW)], dtype=torch.float64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=14, val_share=0.3)


@pytest.fixture(scope="module")
def config(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    backbone = local_backbone(tmp_path_factory.mktemp("backbone"))
    return small_config(dataset, backbone, batch_size=4, epochs=3, learning_rate=1e-2)


def new_fit(
    dataset: Dataset, config: TrainConfig, kind: type[MeanOfChip] = MeanOfChip
) -> tuple[Fit, MeanOfChip]:
    torch.manual_seed(config.fit.seed)
    regressor = new_regressor(dataset, config.model)
    learning = Learning(dataset, dataset.chips("train"), dataset.chips("val"), Ranks())
    objective = kind(HeightObjective(regressor, learning, config.objective, config.augment))
    checked: Objective[PixelInputs] = objective
    return Fit(regressor, learning, checked, config.optimiser, config.fit, config.global_batch), objective


class Stopper(StateCallback):
    """Saves the state after the fourth step, and stops there."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        if fit.position.step == 4:
            StateWriter(str(self.out)).write(state_of(fit))
            raise KeyboardInterrupt

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """Nothing is written here."""


def test_another_objective_is_learnt_scored_and_resumed(
    dataset: Dataset, config: TrainConfig, tmp_path: Path
) -> None:
    fit, objective = new_fit(dataset, config)
    fit.run(StateCallback())
    names = ["epoch", "epochs_from", "loss", "learning_rate", "chips", "met", "val_chips", "val_worst"]
    assert [list(record) for record in fit.records] == [names] * config.fit.epochs
    worst = [record["val_worst"] for record in fit.records]
    assert worst[-1] < worst[0]
    assert fit.position.best == min(worst)
    assert best_epochs(fit.records, config.fit.epochs, objective.standing) == list(np.argsort(worst) + 1)
    assert objective.met == config.fit.epochs * dataset.chips("train").size
    assert objective.steps == fit.position.step > 0

    with pytest.raises(KeyboardInterrupt):
        new_fit(dataset, config)[0].run(Stopper(tmp_path))
    again, resumed = new_fit(dataset, config)
    with StoredState(str(tmp_path)) as state:
        restore(again, state)
    again.run(StateCallback())
    assert again.records == fit.records
    assert resumed.met == objective.met
    for one, other in zip(again.model.state_dict().values(), fit.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_is_known_before_a_pass_spares_the_second_one(dataset: Dataset, config: TrainConfig) -> None:
    """Each chip is met once instead of twice, with the same losses, scores and weights."""
    pieces = config.with_options(accumulate=2)
    (twice, met_twice), (once, met_once) = (
        new_fit(dataset, pieces, kind) for kind in (MeanOfChip, KnownMeanOfChip)
    )
    for fit in (twice, once):
        fit.run(StateCallback())
    chips = config.fit.epochs * dataset.chips("train").size
    assert (met_once.met, met_twice.met) == (chips, 2 * chips)
    assert once.records == twice.records
    for name, tensor in once.model.state_dict().items():
        assert torch.equal(tensor, twice.model.state_dict()[name]), name
