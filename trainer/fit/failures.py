"""Errors that end a training: numbers that are none, and epochs from which nothing is learnt.

Each is one line that says what happened, where, and what to do.
"""

from math import isfinite

from shards.errors import DatasetError
from shards.read.order import Chips
from trainer.fit.learning import Learning
from trainer.fit.position import Position


def not_a_number(
    loss: float, norm: float, first_chips: Chips, position: Position, learning: Learning
) -> FloatingPointError:
    """Return the error of a step whose loss or gradient is not a number.

    Args:
        loss: the step's loss.
        norm: its gradient's norm.
        first_chips: first chips of this rank's part of the batch.
        position: position before the step.
        learning: the chips, and the ranks.
    """
    what = f"the gradient's norm is {norm}" if isfinite(loss) else f"the loss is {loss}"
    keys = learning.dataset.index["key"].take(first_chips).to_pylist()
    return FloatingPointError(
        f"{what} in epoch {position.epoch + 1}, step {position.step + 1} (rank {learning.ranks.rank} has "
        f"{', '.join(keys)}, ...); lower --learning-rate, or leave such steps out with --on-nonfinite skip"
    )


def no_step(position: Position, learning: Learning) -> FloatingPointError | DatasetError:
    """Return the error of an epoch of which no step counts."""
    if position.overflowed and not position.skipped:
        return FloatingPointError(
            f"all steps of epoch {position.epoch + 1} were left out, since the loss is still scaled too much "
            "for float16; make epochs longer (--epoch-steps), or take another --precision"
        )
    if position.skipped:
        return FloatingPointError(
            f"all steps of epoch {position.epoch + 1} were left out; lower --learning-rate"
        )
    return DatasetError(f"{learning.dataset.url}: epoch {position.epoch + 1} has no step; see its shards")


def nothing_measured(position: Position, learning: Learning) -> DatasetError:
    """Return the error of an epoch whose steps had nothing to learn from: stand-ins, or missing pixels."""
    dataset = learning.dataset
    text = f"{dataset.url}: epoch {position.epoch + 1} had nothing to learn from: "
    if dataset.bad_shards:
        count, reason = len(dataset.bad_shards), next(iter(dataset.bad_shards.values()))
        return DatasetError(
            f"{text}--on-bad-shard skip left out {count:,} of its shards ({reason}), and no other chip has a "
            f"value; mend them (treeline verify {dataset.url} names every damaged shard)"
        )
    return DatasetError(
        f"{text}no chip that was read has both an image and a value; see treeline inspect {dataset.url}"
    )
