"""DINOv3 backbones: random and small for the CPU, or pretrained.

Pretrained weights come from a folder of transformers, from a model on the Hugging Face hub, or from one of
Meta's own .pth files. Nothing asks the hub unless the user names a model there; the hub's token comes from
the environment (HF_TOKEN).
"""

import re
import zipfile
from typing import Any

import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.utils.logging import disable_progress_bar

from shards.errors import InputError, one_line
from shards.storage.objects import is_local, local_path, size_of
from shards.storage.ranges import RemoteFile
from trainer.model.backbone_names import check_backbone, is_place
from trainer.model.foreign_folder import check_numbers
from trainer.model.hub import not_in_cache
from trainer.model.meta_weights import meta_backbone
from trainer.model.no_backbone import NoBackbone, is_none
from trainer.weights.weights_file import read_tensors

TINY = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "patch_size": 16,
    "image_size": 64,
    "num_register_tokens": 4,
}
"""Shape of `--backbone tiny`: random weights, a million parameters, for the CPU."""

PRETRAINED_BANDS = ("red", "green", "blue")
"""Bands of DINOv3's input channels, in order."""

_ADVICE = ("weights_only", "trust_remote_code", "use_safetensors", "pip install", "from_pt", "kernels")
"""Words of transformers' advice, which is not for users of Treeline, and may be to run code."""

MEAN = "mean"
"""Name for the mean of their patch weights, from which a new band may start."""


def build_backbone(config: dict[str, Any]) -> DINOv3ViTModel:
    """Make a backbone with random weights; `config` holds arguments of transformers' DINOv3ViTConfig."""
    return (NoBackbone if is_none(config) else DINOv3ViTModel)(DINOv3ViTConfig(**config))


def new_backbone(name: str, bands: tuple[str, ...], new_band_from: str) -> DINOv3ViTModel:
    """Make the backbone called `name`, ready for `bands`.

    Args:
        name: "tiny", a folder of transformers, a model on the hub, or the path or URL of Meta's .pth file.
        bands: names of the bands that the backbone will see, in their order.
        new_band_from: as in `patch_weights_for`.

    Raises:
        InputError: there is no such model, or its weights cannot be adapted to the bands.
    """
    if name == "tiny":
        return build_backbone({**TINY, "num_channels": len(bands)})
    backbone = _read_meta_backbone(name) if name.endswith(".pth") else _read_transformers_backbone(name)
    embeddings = backbone.embeddings.patch_embeddings
    weight_DCPP = patch_weights_for(embeddings.weight.detach(), bands, new_band_from)
    embeddings.weight = torch.nn.Parameter(weight_DCPP)
    embeddings.in_channels = backbone.config.num_channels = len(bands)
    return backbone


def _read_meta_backbone(url: str) -> DINOv3ViTModel:
    values = read_weights(url)
    try:
        return meta_backbone(values)
    except InputError as error:
        raise InputError(f"--backbone {url}: {error}") from error


def _read_transformers_backbone(name: str) -> DINOv3ViTModel:
    from_hub = check_backbone(name)
    absent = f"--backbone {name}: no DINOv3 model in this folder or on the hub, and no pre-training run"
    if not from_hub and not is_place(name):
        absent = not_in_cache(f"--backbone {name}")
    short = f"--backbone {name}: weights of a DINOv3 model are missing"
    backbone: DINOv3ViTModel = whole_model(DINOv3ViTModel, name, (absent, short), from_hub)
    return backbone


def whole_model(kind: Any, name: str, refusals: tuple[str, str], ask_hub: bool = False) -> Any:
    """Read a model of transformers in float32, and refuse one whose weights are incomplete.

    Args:
        kind: transformers' class.
        name: the folder, or the name on the hub.
        refusals: how the error's message begins if there is no such model, and if weights are missing.
        ask_hub: whether to look on the hub.

    Raises:
        InputError: there is no such model, or some of its weights are missing.
    """
    check_numbers(kind, name, refusals[0].partition(": ")[0])
    disable_progress_bar()  # transformers would draw its bar into every log
    try:
        model, loading = kind.from_pretrained(
            name,
            local_files_only=not ask_hub,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (MemoryError, InputError):
        raise
    except Exception as error:  # transformers fails on damaged folders with many kinds of error
        raise InputError(f"{refusals[0]}{_cause(error)}") from error
    if loading["missing_keys"]:
        # transformers would continue with random numbers in their place.
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise InputError(f"{refusals[1]} ({missing}, ...)")
    return model


def _cause(error: Exception) -> str:
    """Say in brackets why a library fails; "" if it advises its own users."""
    said = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
    return "" if any(word in said for word in _ADVICE) else f" ({said})"


def read_weights(url: str) -> dict[str, Any]:
    """Read the .pth file (torch.save of 1.6 or later) or .safetensors file at `url`, without unpickling.

    Returns:
        tensors and plain values by name, on the CPU.

    Raises:
        InputError: the file cannot be read, or it holds more than tensors and plain values.
    """
    try:
        values = read_tensors(url).tensors if url.endswith(".safetensors") else _unpacked(url)
    except (MemoryError, InputError):
        raise
    except Exception as error:  # torch.load fails on damaged files with many kinds of error
        refused = re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error))
        if refused:
            raise InputError(
                f"{url}: holds more than tensors ({refused[1]}), and nothing is unpickled here; "
                "if you trust the file, load it with torch.load and torch.save its state dict alone"
            ) from error
        raise InputError(
            f"{url}: not a file of weights, or damaged ({type(error).__name__}: {one_line(error)[:100]})"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{url}: holds no tensors by name; torch.save a model's state dict")
    return values


def _unpacked(url: str) -> Any:
    """Return what torch.save wrote at `url`. A local file is mapped, another one read tensor by tensor."""
    size_of(url)  # says in one line that there is no such file
    if is_local(url):
        path = local_path(url)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    with RemoteFile(url) as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def patch_weights_for(weight_DCPP: Tensor, bands: tuple[str, ...], new_band_from: str) -> Tensor:
    """Make patch weights for `bands`: pretrained bands keep theirs, others start from `new_band_from`.

    Args:
        weight_DCPP: (width, 3, patch, patch), channels red, green, blue.
        bands: names of the bands that the backbone will see, any number in any order.
        new_band_from: "red", "green", "blue", or "mean" of the three.

    Returns:
        (width, len(bands), patch, patch), in memory of its own.

    Raises:
        InputError: no band is given, the weights are not for three bands, or `new_band_from` is unknown.
    """
    if weight_DCPP.shape[1] != len(PRETRAINED_BANDS):
        raise InputError(f"the backbone reads {weight_DCPP.shape[1]} bands, not red, green, blue")
    if not bands:
        raise InputError("--bands: name one or more")
    sources = (*PRETRAINED_BANDS, MEAN)
    if new_band_from not in sources:
        raise InputError(f"--new-band-from {new_band_from}: choose one of {', '.join(sources)}")
    with_mean_DCPP = torch.cat([weight_DCPP, weight_DCPP.mean(1, keepdim=True)], 1)
    chosen = [band if band in PRETRAINED_BANDS else new_band_from for band in bands]
    return with_mean_DCPP[:, [sources.index(source) for source in chosen]]
