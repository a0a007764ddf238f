"""DINOv3 backbones: random and small for the CPU, or pretrained from where people have them.

A folder of transformers, a model on the Hugging Face hub, or Meta's own .pth file. The hub is asked only when
the user names a model there; a token comes from the environment (HF_TOKEN).
"""

import io
import re
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.utils.logging import disable_progress_bar

from shards.errors import InputError, one_line
from shards.storage.objects import exists, read_bytes
from trainer.model.meta_weights import meta_backbone

TINY = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "patch_size": 16,
    "image_size": 64,
    "num_register_tokens": 4,
}
"""`--backbone tiny`: random weights, a million parameters, for the CPU."""

PRETRAINED_BANDS = ("red", "green", "blue")
"""The order of DINOv3's input channels."""

MEAN = "mean"
"""What a new band starts from instead of one of them: the mean of their patch weights."""


def build_backbone(config: dict[str, Any]) -> DINOv3ViTModel:
    """A backbone with random weights; `config` as in transformers' DINOv3ViTConfig."""
    return DINOv3ViTModel(DINOv3ViTConfig(**config))


def new_backbone(name: str, bands: tuple[str, ...], new_band_from: str) -> DINOv3ViTModel:
    """The backbone called `name`, ready for `bands`.

    Args:
        name: "tiny", a folder of transformers, a model on the hub, or a path or URL of a .pth file of Meta's.
        bands: names of the bands that it will see, in their order.
        new_band_from: as in `patch_weights_for`.

    Raises:
        InputError: there is no such model, or its weights cannot be adapted to the bands.
    """
    if name == "tiny":
        return build_backbone({**TINY, "num_channels": len(bands)})
    backbone = _backbone_of_meta(name) if name.endswith(".pth") else _backbone_of_transformers(name)
    embeddings = backbone.embeddings.patch_embeddings
    weight_DCPP = patch_weights_for(embeddings.weight.detach(), bands, new_band_from)
    embeddings.weight = torch.nn.Parameter(weight_DCPP)
    embeddings.in_channels = backbone.config.num_channels = len(bands)
    return backbone


def _backbone_of_meta(url: str) -> DINOv3ViTModel:
    values = read_weights(url)
    try:
        return meta_backbone(values)
    except InputError as error:
        raise InputError(f"--backbone {url}: {error}") from error


def _backbone_of_transformers(name: str) -> DINOv3ViTModel:
    absent = f"--backbone {name}: no DINOv3 model in this folder or on the hub"
    short = f"--backbone {name}: weights of a DINOv3 model are missing"
    backbone: DINOv3ViTModel = whole_model(DINOv3ViTModel, name, (absent, short), not exists(name))
    return backbone


def whole_model(kind: Any, name: str, said: tuple[str, str], ask_hub: bool = False, **more: Any) -> Any:
    """A model of transformers' class `kind` in float32, from a folder or, if `ask_hub`, from the hub.

    Raises:
        InputError: there is none, or some of its weights are missing; begins as `said` for either.
    """
    disable_progress_bar()  # of transformers', which would stand in every log
    try:
        model, loading = kind.from_pretrained(
            name, local_files_only=not ask_hub, dtype=torch.float32, output_loading_info=True, **more
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{said[0]} ({str(error).splitlines()[0]})") from error
    if loading["missing_keys"]:
        # transformers would go on with random numbers in their place.
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise InputError(f"{said[1]} ({missing}, ...)")
    return model


def read_weights(url: str) -> dict[str, Any]:
    """What the .pth (of torch.save, 1.6 or later) or .safetensors at `url` holds, on the CPU; not unpickled.

    Raises:
        InputError: nothing readable is there, or it holds more than tensors and plain values.
    """
    data = read_bytes(url)
    try:
        values = (
            load(data)
            if url.endswith(".safetensors")
            else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        )
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes torch.load stumble in many ways
        refused = re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error))
        if refused:
            raise InputError(
                f"{url}: holds more than tensors ({refused[1]}), and nothing is unpickled here; "
                "if you trust it, load it with torch.load and torch.save its state dict alone"
            ) from error
        raise InputError(
            f"{url}: not a file of weights, or damaged ({type(error).__name__}: {one_line(error)[:100]})"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{url}: holds no tensors by name; torch.save a model's state dict")
    return values


def patch_weights_for(weight_DCPP: Tensor, bands: tuple[str, ...], new_band_from: str) -> Tensor:
    """Patch weights for `bands`: each from its own pretrained band, an unknown one from `new_band_from`.

    Args:
        weight_DCPP: (width, 3, patch, patch), channels red, green, blue.
        bands: names of the bands that the backbone will see, any number in any order.
        new_band_from: "red", "green", "blue", or "mean" of the three.

    Returns:
        (width, len(bands), patch, patch), in memory of its own.

    Raises:
        InputError: there is no band, the weights are not those of three, or `new_band_from` is none of these.
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
