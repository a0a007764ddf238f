"""States and runs as earlier versions wrote them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from older_checkpoints import without_sums
from torch import nn

from shards.format.sealed import SEAL
from trainer.fit.loop import Fit
from trainer.model.pixel_model import PixelModel
from trainer.run_folder.state import state_of
from trainer.run_folder.state_parts import STATE, SUMS, StateWriter


def write_layout_2(fit: Fit, out: Path) -> None:
    """Write the state of a model of pixels; moments are named after groups, of which each block had two."""
    places, state = {name: place for place, name in _layout_2_places(fit.model).items()}, state_of(fit)
    tensors = {}
    for name, rows in state.tensors.items():
        kind, _, rest = name.partition(".")
        parameter, _, moment = rest.rpartition(".")
        tensors[f"optimiser.{places[parameter]}.{moment}" if kind == "optimiser" else name] = rows
    StateWriter(str(out)).write(replace(state, tensors=tensors, values=values_from_0(state.values)))
    (out / STATE).write_text(json.dumps(_about_of(out / STATE) | {"version": 2}))


def _about_of(state: Path) -> dict[str, Any]:
    """What a state says of itself, without the checksums that states had not before."""
    about = json.loads(state.read_text())
    return {name: value for name, value in about.items() if name not in (SEAL, SUMS)} | {"version": 3}


def record_from_0(record: dict[str, Any]) -> dict[str, Any]:
    """A record, or a checkpoint's metrics, of before epochs were numbered from 1."""
    older = record | {"epoch": record["epoch"] - 1}
    assert older.pop("epochs_from") == 1
    return older


def values_from_0(values: dict[str, Any]) -> dict[str, Any]:
    """A state's values of before epochs were numbered from 1."""
    older = values | {"records": list(map(record_from_0, values["records"]))}
    assert older.pop("epochs_from") == 1
    return older


def make_from_0(run: Path) -> None:
    """Turn a run's folder into one whose epochs are numbered from 0; TensorBoard's log begins anew."""
    state, metrics = run / STATE, run / "metrics.jsonl"
    state.write_text(json.dumps(values_from_0(_about_of(state))))
    lines = [record_from_0(json.loads(line)) for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for folder in run.glob("epoch-*"):
        without_sums(folder)
    for file in run.glob("epoch-*/metrics.json"):
        file.write_text(json.dumps(record_from_0(json.loads(file.read_text()))))
    shutil.rmtree(run / "tensorboard")


def _layout_2_places(model: nn.Module) -> dict[str, str]:
    """Names of parameters by group and number; within a stage, first what has weight decay."""
    assert isinstance(model, PixelModel)
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    output, backbone = set(model.decoder.output.parameters()), model.backbone
    decoder = [parameter for parameter in model.decoder.parameters() if parameter not in output]
    parts: list[list[nn.Parameter]] = [decoder, list(model.decoder.output.parameters())]
    parts += [list(part.parameters()) for part in (backbone.embeddings, *backbone.model.layer, backbone.norm)]
    places, groups = {}, 0
    for part in parts:
        learning = [parameter for parameter in part if parameter in names]
        spared = {one for one in learning if one.ndim < 2 or names[one].endswith(("_token", "_tokens"))}
        for group in ([p for p in learning if p not in spared], [p for p in learning if p in spared]):
            places |= {f"{groups}.{number}": names[one] for number, one in enumerate(group)}
            groups += bool(group)
    return places
