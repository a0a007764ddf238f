"""The training loop, without Ray and without files: one step after the other, from any step on.

fit = Fit(regressor, learning, config)
restore(fit, state)                     # of trainer.state: to go on where another process stopped
fit.run(watch)                          # every rank runs it; sums make them agree
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.errors import DatasetError
from shards.order import Chips, rank_part
from shards.reader import Batch, ChipReader, Dataset, Part
from trainer.arithmetic import check_compiler, repeatable
from trainer.augment import band_changes, symmetries_of
from trainer.average import Average
from trainer.baselines import Baselines
from trainer.clock import COMMUNICATION, STEPPING, WAITING, Spent
from trainer.config import TrainConfig
from trainer.decoder import Features
from trainer.dropout import chip_numbers, use_numbers
from trainer.feed import Fed, feed
from trainer.inputs import Inputs, never_empty
from trainer.losses import parse_loss, surrogate
from trainer.metrics import Score
from trainer.model import Regressor
from trainer.optimiser import Schedule, new_optimiser, parameter_groups
from trainer.ranks import Ranks
from trainer.sharding import whole
from trainer.symmetries import apply_symmetries
from trainer.token_store import TokenReader


@dataclass(frozen=True)
class Learning:
    """What is learnt from, by which processes."""

    dataset: Dataset
    train_chips: Chips
    val_chips: Chips
    ranks: Ranks
    weights: NDArray[np.float64] | None = None
    """How often each training chip is met, relatively; default: each once an epoch."""
    tokens: TokenReader | None = None
    """Where a frozen backbone's tokens of these chips are; default: it computes them each time."""


class Watch(Protocol):
    """Who looks on; called on every rank."""

    def after_step(self, fit: "Fit", chips: int, loss: float) -> None:
        """A step over `chips` chips (of all ranks) with this loss is done."""

    def after_epoch(self, fit: "Fit", record: dict[str, Any], is_best: bool) -> None:
        """An epoch is done and scored; the regressor's weights are those that were scored."""

    def save(self, fit: "Fit") -> None:
        """It is a good moment to save the state: an epoch's end."""


@dataclass
class Position:
    """Where training is."""

    epoch: int = 0
    seen: int = 0
    """Chips of the epoch that were met, over all ranks."""
    step: int = 0
    """Steps of the optimiser, since the beginning."""
    chips: int = 0
    """Chips met since the beginning, over all ranks."""
    skipped: int = 0
    """Steps that were left out since their loss was not a number."""
    best: float = inf
    """The best epoch's loss on what decides."""
    epochs_since_best: int = 0


class Fit:
    """A regressor in training, as one rank sees it."""

    def __init__(self, regressor: Regressor, learning: Learning, config: TrainConfig) -> None:
        self.regressor, self.learning, self.config = regressor, learning, config
        ranks = learning.ranks
        self.steps_per_epoch = -(-learning.train_chips.size // config.global_batch)
        # First of all: where it is sharded, it has other parameters afterwards.
        self._model = ranks.wrap(regressor, regressor.blocks() if config.shard_model else None)
        options = config.optimiser_options(self.steps_per_epoch)
        self.optimiser = new_optimiser(parameter_groups(regressor, options), options, ranks.device)
        self.schedule = Schedule(self.optimiser, options)
        self.average = Average(regressor, config.average) if config.average else None
        self.loss = parse_loss(config.loss)
        self.position = Position()
        self.records: list[dict[str, Any]] = []
        """What was said after each epoch."""
        self.spent = Spent()
        """By this process on the steps of the epoch that it finished last."""
        self.flops_per_chip = 0.0
        """Operations of one chip's forward and backward pass, where they were counted."""
        self.baselines: Baselines | None = None
        """Fitted once, by the first rank; they travel with the state."""
        self.sums_K: Tensor | None = None
        """The loss's sums over what was met of the epoch."""
        part = Part(ranks.rank, ranks.world_size)
        self.reader = ChipReader(
            learning.dataset, learning.train_chips, config.global_batch, config.seed, part, learning.weights
        )
        if config.compile:
            check_compiler(ranks.device)
            regressor.backbone.compile()
            regressor.decoder.compile()

    @property
    def epoch_loss(self) -> float:
        """Over all that was met of the epoch so far."""
        return float("nan") if self.sums_K is None else float(self.loss.value(self.sums_K, self.progress))

    def run(self, watch: Watch) -> None:
        """Go on to the end: all epochs, or no improvement for long.

        Without validation chips the training loss decides what is best.

        Raises:
            FloatingPointError: a loss that is not a number.
            DatasetError: a damaged shard.
        """
        config, position = self.config, self.position
        with repeatable(config.deterministic):
            while position.epoch < config.epochs:
                if config.stop_patience and position.epochs_since_best >= config.stop_patience:
                    return
                self._train_epoch(watch)
                self._end_epoch(watch)
                watch.save(self)

    def _train_epoch(self, watch: Watch) -> None:
        """Train on the chips that are left of the epoch."""
        position, learning = self.position, self.learning
        self._model.train()
        self.reader.state = replace(self.reader.state, epoch=position.epoch, seen=position.seen)
        batches = never_empty(self.reader.epoch(), learning.dataset.schema, learning.train_chips)
        clock, chips_before = learning.ranks.clock, position.chips
        clock.restart()
        clock.start(WAITING)
        for fed in feed(batches, learning.dataset.schema, learning.ranks.device):
            clock.stop(WAITING)
            clock.start(STEPPING)
            value = self._step(fed)
            clock.stop(STEPPING)
            position.seen = fed.batch.start + fed.batch.size
            position.chips += fed.batch.size
            watch.after_step(self, fed.batch.size, value)
            clock.start(WAITING)
        self.spent = clock.spent(position.chips - chips_before)

    def _step(self, fed: Fed) -> float:
        """One step of the optimiser; returns the loss over the whole batch, of all ranks.

        In several pieces the loss's sums over the batch are found first, without gradients: what a pixel
        pulls at the weights may depend on them.
        """
        config, position, ranks = self.config, self.position, self.learning.ranks
        count = config.accumulate
        if count > 1:  # ranks meet in every forward and backward pass: all have as many pieces
            count = ranks.least(min(count, len(fed.image_BCHW)))
        pieces, progress = self._inputs(fed).pieces(count), self.progress
        with nullcontext() if len(pieces) == 1 else torch.no_grad():
            of_pieces = [self._sums(piece) for piece in pieces]
        sums_all_K = ranks.sum(torch.stack([sums_K.detach() for sums_K in of_pieces]).sum(0))
        value = float(self.loss.value(sums_all_K, progress))
        if not isfinite(value):
            self._not_a_number(fed.batch, f"the loss is {value}")
            return value
        for number, piece in enumerate(pieces):
            with nullcontext() if number + 1 == len(pieces) else ranks.apart(self._model):
                sums_K = of_pieces[0] if len(pieces) == 1 else self._sums(piece)
                # Ranks average gradients; with their number as a factor that is the sum over all.
                (surrogate(self.loss, sums_K, sums_all_K, progress) * ranks.world_size).backward()
        ranks.clock.stop(COMMUNICATION)
        learning = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        norm = float(whole(torch.nn.utils.clip_grad_norm_(learning, config.gradient_norm)))
        if not isfinite(norm):
            self.optimiser.zero_grad(set_to_none=True)
            self._not_a_number(fed.batch, f"the gradient's norm is {norm}")
            return value
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.after_step()
        if self.average:
            self.average.update()
        self.sums_K = sums_all_K if self.sums_K is None else self.sums_K + sums_all_K
        position.step += 1
        return value

    def _inputs(self, fed: Fed) -> Inputs:
        """The batch, augmented: by seed, epoch and chips met alone, whatever the number of ranks."""
        config, ranks = self.config, self.learning.ranks
        at = (config.seed, self.position.epoch, self.position.seen)
        image_BCHW, height_BHW, symmetries, changes_BCK = fed.image_BCHW, fed.height_BHW, None, None
        if config.flips:
            symmetries = self._mine(symmetries_of(fed.batch.size, *at), fed)
            image_BCHW, height_BHW = apply_symmetries(image_BCHW, height_BHW, symmetries)
        shape = fed.batch.size, len(config.bands)
        changes = band_changes(shape, at, config.brightness, config.band_dropout)
        if changes is not None:
            changes_BCK = torch.from_numpy(self._mine(changes, fed)).to(ranks.device)
        numbers = torch.from_numpy(self._mine(chip_numbers(fed.batch.size, *at), fed))
        features = self._features(fed, symmetries)
        return Inputs(image_BCHW, height_BHW, features, changes_BCK, numbers.to(ranks.device))

    def _sums(self, inputs: Inputs) -> Tensor:
        """The loss's sums over these chips."""
        use_numbers(self.regressor, inputs.numbers_B)
        with self._precision():
            predicted_BHW, valid_BHW = self._model(inputs.image_BCHW, inputs.features, inputs.changes_BCK)
        measured_BHW = valid_BHW & inputs.height_BHW.isfinite()
        return self.loss.sums(predicted_BHW.float(), inputs.height_BHW, measured_BHW)

    def _features(self, fed: Fed, symmetries_B: NDArray[np.int64] | None = None) -> Features | None:
        """What the token store knows of the batch's chips, turned like them; None without a store."""
        tokens = self.learning.tokens
        return tokens.features(fed.batch.chips, symmetries_B) if tokens else None

    def _mine(self, of_batch: NDArray[Any], fed: Fed) -> NDArray[Any]:
        """This rank's part of an array with a row for each chip of a global batch."""
        ranks = self.learning.ranks
        part = rank_part(of_batch, fed.batch.start, ranks.rank, ranks.world_size)
        # A chip that stands in for none has a row too; chips that were left out have none.
        return part[: len(fed.image_BCHW)] if len(part) else of_batch[:1]

    @property
    def progress(self) -> float:
        """Share (0..1) of all steps that are done."""
        return min(1.0, self.position.step / max(1, self.config.epochs * self.steps_per_epoch))

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.config.bf16:
            return nullcontext()
        return torch.autocast(self.learning.ranks.device.type, torch.bfloat16)

    def _not_a_number(self, batch: Batch, what: str) -> None:
        """Loss and gradient are the same on all ranks, so all leave the step out, or all stop."""
        position = self.position
        if self.config.on_nonfinite == "skip":
            position.skipped += 1
            return
        keys = self.learning.dataset.index["key"].take(batch.chips[:3]).to_pylist()
        raise FloatingPointError(
            f"{what} in epoch {position.epoch + 1}, step {position.step + 1} (rank "
            f"{self.learning.ranks.rank} has {', '.join(keys)}, ...); lower --learning-rate, or leave such "
            "steps out with --on-nonfinite skip"
        )

    def _end_epoch(self, watch: Watch) -> None:
        """Score what was learnt, and go to the next epoch."""
        position, learning = self.position, self.learning
        if self.sums_K is None:
            raise DatasetError(
                f"{learning.dataset.url}: epoch {position.epoch + 1} has no step; "
                + ("all were left out: lower --learning-rate" if position.skipped else "see its shards")
            )
        loss = self.epoch_loss
        record: dict[str, Any] = {
            "epoch": position.epoch,
            "loss": loss,
            "learning_rate": self.schedule.learning_rate,
            "chips": position.chips,
        }
        if position.skipped:
            record["skipped_steps"] = position.skipped
        value = loss
        with self.average.swapped() if self.average else nullcontext():
            if learning.val_chips.size:
                scored = self.score(learning.val_chips)
                if not scored.score.all.count:
                    raise DatasetError(
                        f"{learning.dataset.url}: no pixel of the chips held out has a height; hold out "
                        "others, or none (treeline split)"
                    )
                value = scored.loss
                record |= {f"val_{name}": number for name, number in self.numbers(scored).items()}
            is_best = value < position.best
            position.best = min(position.best, value)
            position.epochs_since_best = 0 if is_best else position.epochs_since_best + 1
            position.epoch, position.seen, self.sums_K = position.epoch + 1, 0, None
            self.schedule.after_epoch(value)
            self.records.append(record)
            watch.after_epoch(self, record, is_best)

    def score(self, chips: Chips) -> "Scored":
        """How good the regressor is on `chips`: the same on every rank, summed over all."""
        self.regressor.eval()
        learning = self.learning
        score, sums_K = Score.empty(), torch.zeros(0)
        # In an epoch's order each byte is fetched by one rank; a score is a sum, whatever the order.
        order = learning.dataset.epoch(chips, self.config.seed, 0)
        part = Part(learning.ranks.rank, learning.ranks.world_size)
        batches = learning.dataset.batches(order, self.config.global_batch, part)
        schema = learning.dataset.schema
        for fed in feed(never_empty(batches, schema, chips), schema, learning.ranks.device):
            height_BHW = fed.height_BHW
            # No inference mode: where weights are sharded, what it gathers could not be trained on.
            with torch.no_grad():
                with self._precision():
                    predicted_BHW, valid_BHW = self.regressor(fed.image_BCHW, self._features(fed))
                predicted_BHW = predicted_BHW.float()
                of_batch_K = self.loss.sums(predicted_BHW, height_BHW, valid_BHW & height_BHW.isfinite())
            sums_K = of_batch_K.cpu() + (sums_K if sums_K.numel() else 0)
            measured_BHW = height_BHW.masked_fill(~valid_BHW, float("nan"))
            score.add(predicted_BHW.clamp(min=0).cpu().numpy(), measured_BHW.cpu().numpy())
        sums_K = learning.ranks.sum(sums_K)
        sums_KS = learning.ranks.sum(torch.from_numpy(score.sums_KS)).numpy()
        density_PM = learning.ranks.sum(torch.from_numpy(score.density_PM)).numpy()
        return Scored(Score(sums_KS, density_PM), float(self.loss.value(sums_K, self.progress)), sums_K)

    def numbers(self, scored: "Scored") -> dict[str, float | int | None]:
        """What is recorded of a score, by name."""
        return {"loss": scored.loss, **scored.score.all.to_json()}


@dataclass(frozen=True)
class Scored:
    """A score, and the loss that goes with it."""

    score: Score
    loss: float
    sums_K: Tensor
    """Behind the loss."""
