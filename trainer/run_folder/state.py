"""The state of a training run: collecting and restoring all it needs to resume as if it had never stopped.

    tensors: weights and buffers that change, the optimiser's moments, the average of weights
    values: position, learning rates, scores so far, and the objective's part (baselines)

The position counts epochs that are done; the scores have the run's own numbering of epochs (epochs_from).

It needs no random numbers: each step draws its own anew from (seed, epoch, chips seen).
trainer.run_folder.state_parts keeps a state on storage.
"""

from dataclasses import asdict, replace
from math import isfinite

import torch
from torch import Tensor

from shards.errors import InputError
from shards.format.manifest import understood
from shards.read.reader_state import ReaderState
from shards.storage.objects import exists, join
from trainer.devices.sharding import rows_of
from trainer.fit.loop import Fit
from trainer.fit.optimiser import by_place
from trainer.fit.position import Position
from trainer.run_folder.state_parts import START_OVER, STATE, StoredState, TrainingState
from trainer.score.epochs import EPOCHS_FROM, FIRST_BEFORE
from trainer.weights.run_checkpoints import say_once

MOMENTS = "optimiser."
"""Beginning of the names of an optimiser's moments: optimiser.PARAMETER.MOMENT."""


def state_of(fit: Fit) -> TrainingState:
    """Return this rank's part of what other processes need to resume from here, on any number of ranks.

    Each rank gives its rows of sharded tensors; the first one also gives what all ranks have alike.
    """
    position = asdict(fit.position)
    if not isfinite(fit.position.best):
        del position["best"]  # JSON has no infinity
    reader = replace(fit.reader.state, epoch=fit.position.epoch, seen=fit.position.seen)
    values = {
        "position": position,
        "reader": reader.to_json(),
        "schedule": fit.schedule.state_dict(),
        EPOCHS_FROM: fit.first_epoch,
        "records": list(fit.records),
        **({"loss_scale": fit.scale.state()} if fit.scale else {}),
        **fit.objective.state(),
    }
    # Sorted, so that the states of a resumed run have the same bytes as those of an undisturbed one.
    held = {name: rows_of(tensor) for name, tensor in sorted(_tensors(fit).items())}
    is_first = fit.learning.ranks.is_first
    # Copies, so that training can continue while they are written.
    tensors = {
        name: replace(rows, tensor=rows.tensor.to("cpu", copy=True))
        for name, rows in held.items()
        if is_first or rows.tensor.shape != rows.shape
    }
    return TrainingState(state_name(fit.position), tensors, values)


def state_name(position: Position) -> str:
    """Return a name for the state at `position`, different after each step and after an epoch's end."""
    return f"step-{position.step:08d}-epoch-{position.epoch:04d}-chip-{position.seen:09d}"


def as_left(fit: Fit, out: str) -> Fit:
    """Return the fit as the run at `out` left it, if it has a state."""
    if exists(join(out, STATE)):
        with StoredState(out) as state:
            restore(fit, state)
    return fit


def restore(fit: Fit, state: StoredState) -> None:
    """Resume from `state`; each rank reads the rows that it holds.

    Raises:
        InputError: the state belongs to other chips or to another regressor.
    """
    values, device = state.values, fit.learning.ranks.device
    if fit.learning.ranks.is_first and not state.has_sums:
        say_once(
            f"{state.url}: an earlier version wrote it without checksums, so damage to it cannot be seen; "
            "the next state has them"
        )
    with understood(state.url, START_OVER):
        reader = ReaderState.from_json(values["reader"])
    fit.reader.restore(reader)
    with understood(state.url, START_OVER):
        fit.position = Position(**values["position"])
        fit.records = [dict(record) for record in values["records"]]
        fit.first_epoch = int(values.get(EPOCHS_FROM, FIRST_BEFORE))
        fit.schedule.load_state_dict(values["schedule"])
        fit.objective.restore(values)
        if fit.scale and "loss_scale" in values:
            fit.scale.restore(values["loss_scale"])
    for name, tensor in fit.model.changing().items():
        _fill(tensor, state, f"weights.{name}")
    learning = _learning_by_name(fit)
    for name in state.shapes:
        if name.startswith(MOMENTS):
            of, _, moment = name.removeprefix(MOMENTS).rpartition(".")
            if of not in learning:
                raise InputError(_another(state, name))
            parameter = learning[of]
            if state.shapes[name] == tuple(parameter.shape):
                # In the parameter's memory format: a fused optimiser walks through both in memory order.
                value = _fill(torch.empty_like(parameter).detach(), state, name)
            else:
                value = state.rows(name).to(device)
            fit.optimiser.state[parameter][moment] = value
    if fit.average:
        fit.average.begin_as([name.removeprefix("average.") for name in state.shapes])
        averages = {name: torch.empty_like(value) for name, value in fit.average.state_dict().items()}
        fit.average.load_state_dict(
            {name: _fill(value, state, f"average.{name}") for name, value in averages.items()}
        )
    fit.sums_K = state.rows("sums").to(device) if "sums" in state.shapes else None
    # All ranks meet here: one that has read all could otherwise replace a state that another still reads.
    fit.learning.ranks.least(0)


def _fill(tensor: Tensor, state: StoredState, name: str) -> Tensor:
    """Fill this rank's rows of `tensor` from the tensor called `name` in `state`, and return `tensor`."""
    rows = rows_of(tensor)
    if state.shapes.get(name) != rows.shape:
        raise InputError(_another(state, name))
    rows.tensor.copy_(state.rows(name, rows.first, len(rows.tensor) if rows.shape else None))
    return tensor


def _another(state: StoredState, name: str) -> str:
    return f"{state.url}: belongs to another regressor ({name}); resume with the options of that run"


def _learning_by_name(fit: Fit) -> dict[str, Tensor]:
    """Return what learns by every name that moments have in states.

    States of layout 2 name a parameter by its place, "3.12"; no module of ours has such a name.
    """
    names = {parameter: name for name, parameter in fit.model.named_parameters()}
    placed = by_place(fit.optimiser)
    of_places: dict[str, Tensor] = {f"{part}.{number}": one for (part, number), one in placed.items()}
    return of_places | {names[parameter]: parameter for parameter in placed.values()}


def _tensors(fit: Fit) -> dict[str, Tensor]:
    """Return every tensor of the state by name, sharded ones included."""
    tensors = {f"weights.{name}": value for name, value in fit.model.changing().items()}
    for name, parameter in fit.model.named_parameters():
        for moment, value in fit.optimiser.state.get(parameter, {}).items():
            tensors[f"{MOMENTS}{name}.{moment}"] = torch.as_tensor(value)
    if fit.average:
        tensors |= {f"average.{name}": value for name, value in fit.average.state_dict().items()}
    if fit.sums_K is not None:
        tensors["sums"] = fit.sums_K
    return tensors
