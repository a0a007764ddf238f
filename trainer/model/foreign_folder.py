"""Folders of transformers that somebody else made: looked at before transformers reads them.

Nothing in them is ever run: no pickled weights, no code that a configuration names, no kernels, no adapters,
whose base model transformers would fetch from the hub. A configuration may ask for no more numbers than the
weights beside it have.
"""

from math import prod
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from shards.errors import InputError, one_line
from shards.format.manifest import read_json, understood
from shards.format.path_names import check_name
from shards.storage.objects import is_local, join, list_files, local_path
from trainer.model.needed_shapes import check_shape, refuse_code
from trainer.weights.weights_file import read_entries

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
"""Endings of files of weights that can hold code, or that no library here reads."""
ADAPTER = "adapter_config.json"
OTHER = "give a folder that save_pretrained of transformers wrote"


def check_folder(name: str, subject: str) -> None:
    """Refuse a local folder whose weights hold code, or whose configuration names some.

    Args:
        name: the folder; anything else is passed over.
        subject: what the user gave, which the message begins with.

    Raises:
        InputError: says which file, and what to do.
    """
    if not is_local(name) or not local_path(name).is_dir():
        return
    files = list_files(name, "")
    if ADAPTER in files:
        raise InputError(
            f"{subject}: {ADAPTER} names a model elsewhere, which is never fetched; {OTHER}, merged"
        )
    pickled = [file for file in files if file.endswith(PICKLED)]
    if pickled and not any(file.endswith(".safetensors") for file in files):
        raise InputError(
            f"{subject}: {pickled[0]} is pickled, so it holds code; never loaded: {OTHER}, with {WEIGHTS}"
        )
    if CONFIG in files:
        values = read_json(join(name, CONFIG))
        for part in (values, values.get("backbone_config")):
            refuse_code(f"{subject}: {CONFIG}", part)


def check_numbers(kind: Any, name: str, subject: str) -> None:
    """Refuse a local folder whose configuration asks for more numbers than its weights have.

    Args:
        kind: transformers' class of the model.
        name: the folder; anything else is passed over.
        subject: what the user gave, which the message begins with.

    Raises:
        InputError: says what is wrong.
    """
    if not is_local(name) or not (local_path(name) / CONFIG).exists():
        return
    file, cure = f"{subject}: {CONFIG}", OTHER
    values = read_json(join(name, CONFIG))
    check_shape(file, values.get("backbone_config", values), cure)
    try:
        there = sum(prod(entry.shape) for one in _weights(name) for entry in read_entries(join(name, one)))
    except ValueError as error:
        raise InputError(f"{subject}: its weights are damaged ({error}); copy them again") from error
    try:
        with understood(file, cure), torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = kind(kind.config_class(**values))
    except StrictDataclassError as error:  # a value of a wrong type
        raise InputError(f"{file} cannot be understood ({one_line(error)[:200]}); {cure}") from error
    needed = sum(tensor.numel() for tensor in model.state_dict().values())
    if needed > there:
        raise InputError(f"{file} asks for {needed:,} numbers, its weights have {there:,}; {cure}")


def _weights(name: str) -> list[str]:
    """List a folder's files of weights."""
    files = list_files(name, "")
    if INDEX not in files:
        return [WEIGHTS] if WEIGHTS in files else []
    with understood(join(name, INDEX), "copy it again"):
        found = sorted(set(read_json(join(name, INDEX))["weight_map"].values()))
        for file in found:
            check_name(file)
        return found
