"""Errors that end a training: numbers that are none, and epochs from which nothing is learnt.

Each is one line that says what happened, where, and what to do.
"""

from math import isfinite

import numpy as np

from shards.errors import DatasetError
from shards.read.order import Chips
from trainer.fit.learning import Learning
from trainer.fit.position import Position

HOLD_OUT_OTHERS = "hold out others, or none (treeline split)"
"""Advice about validation chips that cannot be scored."""


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
    if left_out := _left_out(learning, learning.train_chips):
        return DatasetError(f"{text}{left_out}")
    return DatasetError(
        f"{text}no chip that was read has both an image and a value; see treeline inspect {dataset.url}"
    )


def refuse_unreadable_validation(learning: Learning) -> None:
    """Refuse, before an epoch is spent, validation chips of which --on-bad-shard skip leaves nothing.

    Every rank looks at the same shards, so that all of them end.

    Raises:
        DatasetError: none of their shards can be read.
    """
    dataset, chips = learning.dataset, learning.val_chips
    if dataset.options.on_bad_shard == "skip" and chips.size and not dataset.any_can_be_read(chips):
        raise nothing_usable("no validation chip can be read", HOLD_OUT_OTHERS, chips, learning)


def nothing_usable(what: str, cure: str, chips: Chips, learning: Learning) -> DatasetError:
    """Return the error of chips that cannot be used.

    Args:
        what: what is missing, in a few words.
        cure: what to do, unless damage is the cause.
        chips: the chips that lack it.
        learning: all chips, and the ranks.
    """
    if left_out := _left_out(learning, chips):
        return DatasetError(f"{learning.dataset.url}: {what}: {left_out}, or {cure}")
    return DatasetError(f"{learning.dataset.url}: {what}; {cure}")


def _left_out(learning: Learning, chips: Chips) -> str:
    """Name the shards of `chips` that this rank left out, and say what to do; "" if there are none."""
    dataset = learning.dataset
    names = [dataset.manifest.shards[number].name for number in np.unique(dataset.shard_of(chips)).tolist()]
    bad = [name for name in names if name in dataset.bad_shards]
    if not bad:
        return ""
    # What is wrong with each was said when it was met.
    shards = (
        f"1 damaged shard ({bad[0]})" if len(bad) == 1 else f"{len(bad):,} damaged shards ({bad[0]}, ...)"
    )
    return f"left out {shards}; mend what treeline verify {dataset.url} names"
