"""Trainings that a device's memory is too small for: one line says what was computed, and what to set.

with saying_what_to_set(config, ranks):
    fit.run(callback)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shards.roles import why_idle
from trainer.config import TrainConfig
from trainer.devices.cards import suited_half
from trainer.devices.out_of_memory import is_out_of_memory, wanted_memory
from trainer.devices.precision import MEANINGS
from trainer.devices.ranks import Ranks
from trainer.fit.loop import IN_STEP
from trainer.pretrain_config import PretrainConfig


@contextmanager
def saying_what_to_set(config: TrainConfig | PretrainConfig, ranks: Ranks) -> Iterator[None]:
    """Replace the text of an out-of-memory error.

    Raises:
        torch.OutOfMemoryError: with one line in place of the device's own text.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        notes = getattr(error, "__notes__", [])
        told = torch.OutOfMemoryError(
            _line(config, ranks, wanted_memory(error), any(note.startswith(IN_STEP) for note in notes))
        )
        for note in notes:
            told.add_note(note)
        raise told from error


def _line(config: TrainConfig | PretrainConfig, ranks: Ranks, wanted: str, in_step: bool) -> str:
    fit = config.fit
    text = f"{ranks.device} has too little memory" + f" ({wanted} more were wanted)" * bool(wanted)
    if not in_step:
        return f"{text} for the model itself; give --shard-model with more --workers, or a smaller --backbone"
    own = -(-config.global_batch // ranks.world_size)
    piece = -(-own // fit.accumulate)
    batch = "--batch-per-worker" if fit.batch_per_worker else "--batch-size"
    given = f"{batch} {fit.batch_per_worker or config.global_batch}, --accumulate {fit.accumulate}"
    given += f", {ranks.world_size} workers" * (ranks.world_size > 1)
    given += f", --precision {fit.computed_in}" * (fit.computed_in != "float32")
    text += f" for {piece} of a batch of {config.global_batch} at once ({given})"
    half = [f"--precision {suited_half(ranks.device)}"]
    on_resume = _savings(config, piece)
    pieces = [f"--accumulate {2 * fit.accumulate}"] * (piece > 1 and _normalises_pieces(config))
    anew = (
        pieces
        + [f"a smaller {batch}"] * (config.global_batch > 1)
        + half * (not MEANINGS[fit.computed_in].is_half)
    )
    cures = [f"{' or '.join(on_resume)} (also with --resume auto)"] * bool(on_resume)
    cures += [f"{' or '.join(anew)} (with another --out)"] * bool(anew)
    return f"{text}; give {', or '.join(cures) or 'a smaller --backbone'}"


def _savings(config: TrainConfig | PretrainConfig, piece: int) -> list[str]:
    """List what saves memory and changes no result, so that a run that has begun takes it."""
    if isinstance(config, TrainConfig):
        needs_whole_batch = _normalises_pieces(config)
        recomputes, learns = config.model.recompute_activations, config.model.tune != "frozen"
    else:
        needs_whole_batch = bool(config.dino.koleo)
        recomputes, learns = config.encoder.recompute_activations, True
    savings = [f"--accumulate {2 * config.fit.accumulate}"] * (piece > 1 and not needs_whole_batch)
    return savings + ["--recompute-activations"] * (learns and not recomputes)


def _normalises_pieces(config: TrainConfig | PretrainConfig) -> bool:
    """Tell whether batch norm sees each piece by itself, so that their number changes results."""
    return isinstance(config, TrainConfig) and config.model.norm == "batch" and not why_idle(config, "norm")
