"""The training loop, without Ray and without files: one step after another, from any step on.

fit = Fit(model, learning, objective, optimiser, options, global_batch)
restore(fit, state)                     # trainer.run_folder.state: resume a run that another process began
fit.run(callback)                       # every rank runs it; sums over ranks make them agree
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from shards.errors import DatasetError, InputError
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Batch
from shards.read.order import Chips
from trainer.data.feed import Fed, feed
from trainer.data.step_inputs import StepKey, never_empty
from trainer.devices.clock import COMMUNICATION, STEPPING, WAITING, TimeSpent
from trainer.devices.learner import Learner
from trainer.devices.precision import computing, in_precision
from trainer.devices.repeatable import check_compiler, repeatable
from trainer.devices.sharding import whole
from trainer.fit.learning import Learning
from trainer.fit.objective import Numbers, Objective, surrogate
from trainer.fit.optimiser import Schedule, new_optimiser
from trainer.fit.scoring import add_up
from trainer.fit.weight_average import Average
from trainer.options import FitOptions, OptimiserOptions

IN_STEP = "in epoch "
"""Beginning of the note that says where a training failed."""
TELLING = (FloatingPointError, DatasetError, InputError)
"""Errors that say so themselves."""


class Callback(Protocol):
    """Callback of the training loop, invoked on every rank."""

    def after_step(self, fit: "Fit", chips: int, loss: float) -> None:
        """React to a step over `chips` chips (of all ranks) with this loss."""

    def after_epoch(self, fit: "Fit", record: dict[str, Any], is_best: bool) -> None:
        """React to an epoch that is done and scored, while the model still has the scored weights."""

    def save(self, fit: "Fit") -> None:
        """Save the state; the loop calls this at the end of an epoch."""


@dataclass
class Position:
    """Position of a training."""

    epoch: int = 0
    """Number of the epoch, from 0."""
    seen: int = 0
    """Chips of the epoch seen so far, over all ranks."""
    step: int = 0
    """Steps of the optimiser since the beginning."""
    chips: int = 0
    """Chips seen since the beginning, over all ranks."""
    skipped: int = 0
    """Steps left out because their loss or gradient was not a number."""
    best: float = inf
    """Lowest value so far of the score that decides."""
    epochs_since_best: int = 0
    """Epochs since that value was reached."""


class Fit:
    """A model in training, as one rank sees it."""

    def __init__(
        self,
        model: Learner,
        learning: Learning,
        objective: Objective[Any],
        optimiser: OptimiserOptions,
        options: FitOptions,
        global_batch: int,
        flops_per_chip: float = 0.0,
    ) -> None:
        """Args:
        model: a model on its device; on the CPU if it is to be sharded.
        learning: the chips to learn from, and the ranks.
        objective: the objective, made for this model.
        optimiser: options of the optimiser.
        options: options of the loop.
        global_batch: chips per step, over all ranks.
        flops_per_chip: operations of one chip's forward and backward pass; 0: not counted.
        """
        self.model, self.learning, self.objective, self.options = model, learning, objective, options
        self.global_batch, self.flops_per_chip = global_batch, flops_per_chip
        ranks = learning.ranks
        if ranks.world_size == 1 or not options.shard_model:
            model.hold_frozen(options.precision)
        # First of all, since sharding replaces the model's parameters.
        self._wrapped = ranks.wrap(model, model.blocks() if options.shard_model else None, options.precision)
        self._forward = in_precision(self._wrapped, ranks.device, options.precision)
        self._forward_alone = in_precision(model, ranks.device, options.precision)
        self.optimiser = new_optimiser(objective.groups(optimiser), optimiser, ranks.device)
        self._learning = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        self.schedule = Schedule(self.optimiser, optimiser, options.epochs * self.steps_per_epoch)
        self.average = Average(model, options.average) if options.average else None
        self.position = Position()
        self.records: list[dict[str, Any]] = []
        """Records of the epochs so far."""
        self.spent = TimeSpent()
        """Time that the steps of the last finished epoch took in this process."""
        self.sums_K: Tensor | None = None
        """Sums of the loss over the chips of the epoch seen so far."""
        self.reader = ChipReader(
            learning.dataset,
            learning.train_chips,
            global_batch,
            options.seed,
            learning.part,
            learning.frequencies,
        )
        if options.compile:
            check_compiler(ranks.device)
            for part in model.compiled():
                part.compile()

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch; the last one may have fewer chips."""
        return -(-self.learning.train_chips.size // self.global_batch)

    @property
    def epoch_loss(self) -> float:
        """Loss over the chips of the epoch seen so far."""
        return (
            float("nan") if self.sums_K is None else float(self.objective.value(self.sums_K, self.share_done))
        )

    @property
    def share_done(self) -> float:
        """Share (0..1) of all steps that are done."""
        return min(1.0, self.position.step / max(1, self.options.epochs * self.steps_per_epoch))

    def run(self, callback: Callback) -> None:
        """Train to the end: all epochs, or until there was no improvement for `stop_patience` epochs.

        Without validation chips the training loss decides which epoch is best.

        Raises:
            FloatingPointError: a loss is not a number.
            DatasetError: a shard is damaged.
        """
        options, position = self.options, self.position
        try:
            with repeatable(options.deterministic), computing(options.precision):
                while position.epoch < options.epochs:
                    if options.stop_patience and position.epochs_since_best >= options.stop_patience:
                        return
                    self._train_epoch(callback)
                    self._end_epoch(callback)
                    callback.save(self)
        except Exception as error:
            if not isinstance(error, TELLING):
                error.add_note(f"{IN_STEP}{position.epoch + 1}, step {position.step + 1}")
            raise

    def _train_epoch(self, callback: Callback) -> None:
        """Train on the rest of the epoch's chips."""
        position, learning = self.position, self.learning
        self._wrapped.train()
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
            callback.after_step(self, fed.batch.size, value)
            clock.start(WAITING)
        self.spent = clock.spent(position.chips - chips_before)

    def _step(self, fed: Fed) -> float:
        """Take one step of the optimiser; return the loss over the whole batch, of all ranks.

        The host waits for the device once, when loss and gradient are known.

        With several pieces the first pass computes the loss's sums over the batch, without gradients, because
        the gradient of a single chip may depend on them. Where the inputs tell what it depends on, there is
        only one pass.
        """
        position, ranks, objective, share_done = (
            self.position,
            self.learning.ranks,
            self.objective,
            self.share_done,
        )
        count = self.options.accumulate
        if count > 1:  # ranks meet in every forward and backward pass, so all need the same number of pieces
            count = ranks.least(min(count, len(fed.image_BCHW)))
        key = StepKey(self.options.seed, position.epoch, position.seen)
        inputs = objective.inputs(fed, key)
        known_K, pieces = objective.known_sums(inputs), inputs.pieces(count)
        if known_K is None:
            with nullcontext() if len(pieces) == 1 else torch.no_grad():
                piece_sums = [objective.sums(self._forward, piece) for piece in pieces]
        else:
            piece_sums = self._backward(pieces, known_K)
        sums_all_K = ranks.sum(torch.stack([sums_K.detach() for sums_K in piece_sums]).sum(0))
        loss = objective.value(sums_all_K, share_done)
        if known_K is None:
            self._backward(pieces, sums_all_K, piece_sums if len(pieces) == 1 else None)
        length = whole(torch.nn.utils.clip_grad_norm_(self._learning, self.options.gradient_norm))
        # The only wait for the device in a step: both numbers in one copy.
        value, norm = map(float, torch.stack([loss.detach().double(), length.double()]).tolist())
        if not isfinite(value) or not isfinite(norm):
            self.optimiser.zero_grad(set_to_none=True)
            what = f"the gradient's norm is {norm}" if isfinite(value) else f"the loss is {value}"
            self._not_a_number(fed.batch, what)
            return value
        objective.before_step(self.optimiser, share_done)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.after_step()
        if self.average:
            self.average.update()
        objective.after_step(sums_all_K, share_done)
        self.sums_K = sums_all_K if self.sums_K is None else self.sums_K + sums_all_K
        position.step += 1
        return value

    def _backward(
        self, pieces: Sequence[Any], sums_all_K: Tensor, made: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Pass the pieces forward and backward in turn, so that memory holds one; return their sums.

        Args:
            pieces: pieces of this rank's part of the batch.
            sums_all_K: sums over all ranks, at which the loss has its slope.
            made: sums of the pieces, if their forward pass is done.
        """
        ranks, objective, piece_sums = self.learning.ranks, self.objective, []
        for number, piece in enumerate(pieces):
            with nullcontext() if number + 1 == len(pieces) else ranks.apart(self._wrapped):
                sums_K = made[number] if made else objective.sums(self._forward, piece)
                # Ranks average gradients; times the number of ranks, that is the sum over ranks.
                (surrogate(objective, sums_K, sums_all_K, self.share_done) * ranks.world_size).backward()
                piece_sums.append(sums_K.detach())
        ranks.clock.stop(COMMUNICATION)
        return piece_sums

    def _not_a_number(self, batch: Batch, what: str) -> None:
        """Leave the step out, or stop; all ranks do the same, since loss and gradient are the same on all."""
        position = self.position
        if self.options.on_nonfinite == "skip":
            position.skipped += 1
            return
        keys = self.learning.dataset.index["key"].take(batch.chips[:3]).to_pylist()
        raise FloatingPointError(
            f"{what} in epoch {position.epoch + 1}, step {position.step + 1} (rank "
            f"{self.learning.ranks.rank} has {', '.join(keys)}, ...); lower --learning-rate, or leave such "
            "steps out with --on-nonfinite skip"
        )

    def _end_epoch(self, callback: Callback) -> None:
        """Score the model, and go to the next epoch."""
        position, learning = self.position, self.learning
        if self.sums_K is None:
            if position.skipped:
                raise FloatingPointError(
                    f"all steps of epoch {position.epoch + 1} were left out; lower --learning-rate"
                )
            raise DatasetError(
                f"{learning.dataset.url}: epoch {position.epoch + 1} has no step; see its shards"
            )
        loss = self.epoch_loss
        record: dict[str, Any] = {
            "epoch": position.epoch,
            "loss": loss,
            "learning_rate": self.schedule.learning_rate,
            "chips": position.chips,
            **self.objective.trained(self.sums_K),
        }
        if position.skipped:
            record["skipped_steps"] = position.skipped
        with self.average.swapped() if self.average else nullcontext():
            if learning.val_chips.size and self.objective.scores_after(position.epoch):
                numbers = self.score(learning.val_chips)
                record |= {f"val_{name}": number for name, number in numbers.items()}
            value = self.objective.standing(record)
            is_best = value < position.best
            position.best = min(position.best, value)
            position.epochs_since_best = 0 if is_best else position.epochs_since_best + 1
            position.epoch, position.seen, self.sums_K = position.epoch + 1, 0, None
            self.schedule.after_epoch(value)
            self.records.append(record)
            callback.after_epoch(self, record, is_best)

    def score(self, chips: Chips) -> Numbers:
        """Score the model on `chips`, summed over all ranks; the result is the same on every rank."""
        self.model.eval()
        learning, schema = self.learning, self.learning.dataset.schema
        # In an epoch's order only one rank fetches each byte; the order does not change a score.
        order = learning.dataset.epoch(chips, self.options.seed, 0)
        batches = learning.dataset.batches(order, self.global_batch, learning.part)
        sums = add_up(
            lambda fed: self.objective.score_sums(self._forward_alone, fed),
            never_empty(batches, schema, chips),
            schema,
            learning.ranks.device,
        )
        return self.objective.scored(tuple(map(learning.ranks.sum, sums)), self.share_done)
