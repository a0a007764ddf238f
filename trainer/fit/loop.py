"""The training loop, without Ray and without files: one step after another, from any step on.

fit = Fit(model, learning, objective, optimiser, options, global_batch)
restore(fit, state)                     # trainer.run_folder.state: resume a run that another process began
fit.run(callback)                       # every rank runs it; sums over ranks make them agree
"""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from shards.errors import DatasetError, InputError
from shards.read.chip_reader import ChipReader
from shards.read.order import Chips
from trainer.data.feed import Fed, feed, memory_of
from trainer.data.step_inputs import Places, StepKey, never_empty
from trainer.data.transfers import buffers_for
from trainer.decoders.batch_norm import BatchNorms
from trainer.devices.clock import COMMUNICATION, STEPPING, WAITING, TimeSpent
from trainer.devices.learner import Learner
from trainer.devices.precision import computing, in_precision
from trainer.devices.ranks import PendingSum
from trainer.devices.repeatable import check_compiler, repeatable
from trainer.devices.sharding import is_sharded, whole
from trainer.devices.transfer import FromDevice
from trainer.fit.callback import Callback
from trainer.fit.failures import no_step, not_a_number, nothing_measured
from trainer.fit.learning import Learning
from trainer.fit.loss_scale import LEAST, LossScale
from trainer.fit.objective import Numbers, Objective, surrogate
from trainer.fit.optimiser import Schedule, by_place, new_optimiser, not_finite, step_unless
from trainer.fit.position import Position
from trainer.fit.scoring import add_up
from trainer.fit.taken import Outcome, Taken
from trainer.fit.weight_average import Average
from trainer.options import FitOptions, OptimiserOptions
from trainer.score.epochs import FIRST, numbered

IN_STEP = "in epoch "
"""Beginning of the note that says where a training failed."""
TELLING = (FloatingPointError, DatasetError, InputError)
"""Errors whose message already says where."""


class Fit:
    """A model in training, as one rank sees it.

    If `late` is true, the host learns the outcome of a step only after it has queued the next step's forward
    pass, so that a GPU always has work. The optimiser itself leaves out a step whose loss or gradient is not
    a number (step_unless). Schedule, average, sums, position and callback wait for the outcome; the forward
    pass needs none of them. Weights, losses and states are the same either way.
    """

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
            model.set_precision(options.computed_in, options.compile)
        self.norms = BatchNorms(model, ranks.sum if ranks.world_size > 1 else None)
        """Batch norms of the model."""
        # Before anything takes parameters, since sharding replaces them.
        self._wrapped = ranks.wrap(
            model, model.blocks() if options.shard_model else None, options.computed_in
        )
        self._forward = in_precision(self._wrapped, ranks.device, options.computed_in)
        self._forward_alone = in_precision(model, ranks.device, options.computed_in)
        groups = objective.groups(optimiser)
        self.optimiser = new_optimiser(groups, optimiser, ranks.device, options.computed_in)
        self._learning = list(by_place(self.optimiser).values())
        self.schedule = Schedule(self.optimiser, optimiser, self.total_steps)
        self.average = Average(model, options.average) if options.average else None
        # A sharded model settles at once: its moments are DTensors, and `found_inf` is not.
        self.late = ranks.device.type == "cuda" and not objective.settles_at_once and not is_sharded(model)
        """Whether the host learns the outcome of a step one step late."""
        self.scale = LossScale(ranks.device) if options.computed_in == "fp16" else None
        """Scale of the loss in float16."""
        self._taken: Taken | None = None
        """Last step, while the host does not know its outcome."""
        self._callback: Callback | None = None
        self.position = Position()
        self.records: list[dict[str, Any]] = []
        """Records of the epochs so far."""
        self.first_epoch = FIRST
        """Number of the run's first epoch in its records; 0 in a run that began so."""
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
    def total_steps(self) -> int:
        """Number of steps of the whole training."""
        in_epochs = self.options.epochs * self.steps_per_epoch
        return in_epochs if self.options.steps is None else min(in_epochs, self.options.steps)

    @property
    def epoch_loss(self) -> float:
        """Loss over the chips of the epoch seen so far."""
        return (
            float("nan") if self.sums_K is None else float(self.objective.value(self.sums_K, self.share_done))
        )

    @property
    def has_learnt_nothing(self) -> bool:
        """Whether this epoch has steps, but no rank measured anything in any; sums of counts are 0 then."""
        return self.sums_K is not None and not bool(self.sums_K.any())

    @property
    def share_done(self) -> float:
        """Share (0..1) of all steps that are done."""
        return min(1.0, self.position.step / max(1, self.total_steps))

    def run(self, callback: Callback) -> None:
        """Train to the end: all epochs, or until there was no improvement for `stop_patience` epochs.

        Without validation chips the training loss decides which epoch is best.

        Raises:
            FloatingPointError: a loss is not a number.
            DatasetError: a shard is damaged, or an epoch has nothing to learn from.
        """
        options, position, self._callback = self.options, self.position, callback
        try:
            with repeatable(options.deterministic), computing(options.computed_in):
                while position.epoch < options.epochs and not (position.seen == 0 and self._is_over()):
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
        device, schema = learning.ranks.device, learning.dataset.schema
        buffers = buffers_for(device)
        read = self.reader.epoch(memory=memory_of(buffers))
        batches = never_empty(read, schema, learning.train_chips)
        row_reader = self.objective.row_reader((self.options.seed, position.epoch))
        clock, chips_before = learning.ranks.clock, position.chips
        clock.restart()
        clock.start(WAITING)
        with closing(feed(batches, schema, device, row_reader, buffers)) as all_fed:
            for fed in all_fed:
                if self._is_over():
                    break
                clock.stop(WAITING)
                clock.start(STEPPING)
                self._step(fed)
                outcome = self._settle() if self._settles_now(callback) else None
                position.seen = fed.batch.start + fed.batch.size
                position.chips += fed.batch.size
                clock.stop(STEPPING)
                self._tell(outcome)
                clock.start(WAITING)
            self._tell(self._settle())
        self.spent = clock.spent(position.chips - chips_before)

    def _is_over(self) -> bool:
        """Tell whether all steps are done that --steps allows; the last one may not have been one."""
        if self.options.steps is None:
            return False
        if self.position.step + (self._taken is not None) >= self.options.steps:
            self._tell(self._settle())
        return self.position.step >= self.options.steps

    def _settles_now(self, callback: Callback) -> bool:
        """Tell whether the host must know the outcome of the last step before it queues anything else."""
        # A user's decoder may change buffers in the next forward pass. A step left out is not counted.
        step = self.position.step
        return not self.late or callback.may_save(step) or callback.may_save(step + 1)

    def _step(self, fed: Fed) -> None:
        """Take one step of the optimiser, up to what `_settle` does.

        The gradient of a single chip may depend on the loss's sums over all chips. Then ranks meet between
        forward and backward pass, and with several pieces a first pass computes the sums, without gradients.
        Neither is needed if the inputs tell those sums (`known_sums`).
        """
        position, ranks, objective = self.position, self.learning.ranks, self.objective
        inputs = objective.inputs(fed, StepKey(self.options.seed, position.epoch, position.seen))
        pieces = self._pieces(inputs, fed)
        # One rank with one piece has no meeting and no second pass to save.
        known = objective.known_sums(inputs) if len(pieces) > 1 or ranks.world_size > 1 else None
        if known is None:
            with nullcontext() if len(pieces) == 1 else torch.no_grad():
                piece_sums = [self._sums(piece) for piece in pieces]
            if len(pieces) > 1:
                self.norms.forget()  # the second pass meets the same chips
        else:
            piece_sums = self._backward(pieces, known)
        self._tell(self._settle())
        share_done = self.share_done
        sums_all_K = ranks.sum(torch.stack([sums_K.detach() for sums_K in piece_sums]).sum(0))
        loss = objective.value(sums_all_K, share_done)
        if known is None:
            self._backward(pieces, lambda: sums_all_K, piece_sums if len(pieces) == 1 else None)
        ranks.clock.passes_queued()
        if self.scale:
            self.scale.unscale(self._learning)
        length = whole(torch.nn.utils.clip_grad_norm_(self._learning, self.options.gradient_norm))
        told = (loss, length, self.scale.scale) if self.scale else (loss, length)
        numbers_N = torch.stack([one.detach().double() for one in told])
        first_chips, numbers = fed.batch.chips[:3].copy(), FromDevice(numbers_N)
        self._taken = Taken(fed.batch.size, first_chips, share_done, sums_all_K, numbers, self.late)
        if self.late:
            objective.before_step(self.optimiser, share_done)
            step_unless(self.optimiser, not_finite(numbers_N))
            self.optimiser.zero_grad(set_to_none=True)
            self.norms.update(not_finite(numbers_N))
        if self.scale:
            self.scale.after_step(not_finite(numbers_N))
        ranks.clock.step_queued()

    def _settle(self) -> Outcome | None:
        """Learn the outcome of the last step, unless it is known, and do everything that depends on it.

        This is the only wait for the device in a step.
        """
        taken, self._taken = self._taken, None
        if taken is None:
            return None
        value, norm, *scale = taken.numbers.read()
        is_step = isfinite(value) and isfinite(norm)
        if not taken.is_applied:
            if is_step:
                self.objective.before_step(self.optimiser, taken.share_done)
                self.optimiser.step()
                self.norms.update()
            self.norms.forget()
            self.optimiser.zero_grad(set_to_none=True)
        if isfinite(value) and not is_step and scale and scale[0] > LEAST:
            self.position.overflowed += 1
            return taken.chips, value
        if not is_step:
            # All ranks do the same, since they have the same loss and gradient.
            if self.options.on_nonfinite == "stop":
                raise not_a_number(value, norm, taken.first_chips, self.position, self.learning)
            self.position.skipped += 1
            return taken.chips, value
        self.schedule.after_step()
        if self.average:
            self.average.update()
        self.objective.after_step(taken.sums_K, taken.share_done)
        self.sums_K = taken.sums_K if self.sums_K is None else self.sums_K + taken.sums_K
        self.position.step += 1
        return taken.chips, value

    def _tell(self, outcome: Outcome | None) -> None:
        """Tell the callback the outcome of a step, if there is a new one."""
        if outcome and self._callback:
            self._callback.after_step(self, *outcome)

    def _pieces(self, inputs: Any, fed: Fed) -> Sequence[Any]:
        """Cut the batch; ranks meet in every pass, so all have the same number of pieces."""
        count, ranks = self.options.accumulate, self.learning.ranks
        pieces: Sequence[Any]
        if self.norms:
            pieces = inputs.pieces_over_ranks(Places.of(fed.batch, ranks), min(count, fed.batch.size))
        else:
            pieces = inputs.pieces(self._pieces_alike(fed))
        return pieces

    def _pieces_alike(self, fed: Fed) -> int:
        """Return the number of pieces of each rank's part of the batch."""
        count, ranks = self.options.accumulate, self.learning.ranks
        if count > 1 and self.learning.dataset.options.on_bad_shard == "skip":
            return ranks.least(min(count, len(fed.image_BCHW)))
        return min(count, max(1, fed.batch.size // ranks.world_size))

    def _sums(self, piece: Any) -> Tensor:
        """Pass a piece forward; return the loss's sums over its chips."""
        if not self.norms:
            return self.objective.sums(self._forward, piece)
        self.norms.count(not piece.stands_in)
        sums_K = self.objective.sums(self._forward, piece)
        self.norms.note()
        return sums_K

    def _backward(
        self, pieces: Sequence[Any], sums_of_all: PendingSum, made: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Pass the pieces forward and backward in turn, so that memory holds one; return their sums.

        Args:
            pieces: pieces of this rank's part of the batch.
            sums_of_all: sums over all ranks, which give the loss its slope; asked for after a forward pass.
            made: sums of the pieces, if their forward pass is done.
        """
        ranks, objective, piece_sums = self.learning.ranks, self.objective, list[Tensor]()
        sums_all_K: Tensor | None = None
        for number, piece in enumerate(pieces):
            with nullcontext() if number + 1 == len(pieces) else ranks.no_sync(self._wrapped):
                sums_K = made[number] if made else self._sums(piece)
                self._tell(self._settle())
                sums_all_K = sums_of_all() if sums_all_K is None else sums_all_K
                # Ranks average gradients; the average times the number of ranks is the sum.
                cost = surrogate(objective, sums_K, sums_all_K, self.share_done) * ranks.world_size
                (self.scale.times(cost) if self.scale else cost).backward()
                piece_sums.append(sums_K.detach())
        ranks.clock.stop(COMMUNICATION)
        return piece_sums

    def _end_epoch(self, callback: Callback) -> None:
        """Score the model, and go to the next epoch."""
        position, learning = self.position, self.learning
        if self.sums_K is None:
            raise no_step(position, learning)
        if self.has_learnt_nothing:
            raise nothing_measured(position, learning)
        loss = self.epoch_loss
        record: dict[str, Any] = {
            **numbered(position.epoch, self.first_epoch),
            "loss": loss,
            "learning_rate": self.schedule.learning_rate,
            "chips": position.chips,
            **self.objective.trained(self.sums_K),
        }
        if position.skipped:
            record["skipped_steps"] = position.skipped
        if position.overflowed:
            record["overflowed_steps"] = position.overflowed
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
        buffers = buffers_for(learning.ranks.device)
        batches = learning.dataset.batches(order, self.global_batch, learning.part, memory=memory_of(buffers))
        sums = add_up(
            lambda fed: self.objective.score_sums(self._forward_alone, fed),
            never_empty(batches, schema, chips),
            schema,
            learning.ranks.device,
            self.objective.row_reader(None),
            buffers,
        )
        return self.objective.scored(tuple(map(learning.ranks.sum, sums)), self.share_done)
