"""All that a training run needs to go on from any step as if it had never stopped; one object on storage.

state.safetensors    tensors: what learns (weights, buffers), the optimiser's moments, the average of weights;
                     in its header: where training is, rates, scores so far, and what the run is of

It is written whole or not at all. Random numbers need no place in it: those of a step are drawn anew from
(seed, epoch, chips met).
"""

import json
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shards.errors import InputError
from shards.storage import exists, join, read_bytes

STATE = "state.safetensors"
FORMAT = "treeline-training-state"
VERSION = 1
_HEADER = "training"


@dataclass(frozen=True)
class TrainingState:
    """What is known of a run at one step."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    """Plain JSON values."""

    def of(self, kind: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `kind` and a dot, without that."""
        start = f"{kind}."
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}

    def to_bytes(self) -> bytes:
        """As one safetensors file; the tensors are copied, so that training may go on."""
        # One entry: safetensors writes several in any order, and the same state is to be the same bytes.
        header = {_HEADER: json.dumps({"format": FORMAT, "version": VERSION, **self.values})}
        return save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, header)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "TrainingState":
        """The inverse of `to_bytes`.

        Raises:
            InputError: the bytes are something else.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
            values = json.loads(header.get(_HEADER, "{}"))
            tensors = load(data)
        except (SafetensorError, ValueError) as error:
            raise InputError(f"{where}: not a training state ({error}); delete it to start over") from error
        if (values.pop("format", None), values.pop("version", None)) != (FORMAT, VERSION):
            raise InputError(f"{where}: not a training state of this version; delete it to start over")
        return cls(tensors, values)


def read_state(out: str) -> TrainingState | None:
    """The state of the run at `out`, if it has one."""
    url = join(out, STATE)
    return TrainingState.from_bytes(read_bytes(url), url) if exists(url) else None
