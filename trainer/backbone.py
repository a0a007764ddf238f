"""DINOv3 backbones: random and small for the CPU, or pretrained from a folder or the Hugging Face hub.

The hub is asked only when the user names a model there; a token comes from the environment (HF_TOKEN).
"""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from shards.errors import InputError
from shards.storage import exists

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


def build_backbone(config: dict[str, Any]) -> DINOv3ViTModel:
    """A backbone with random weights; `config` as in transformers' DINOv3ViTConfig."""
    return DINOv3ViTModel(DINOv3ViTConfig(**config))


def new_backbone(name: str, bands: tuple[str, ...], new_band_from: str) -> DINOv3ViTModel:
    """The backbone called `name`, ready for `bands`: "tiny", a folder, or a model on the hub.

    Raises:
        InputError: there is no such model, or its weights cannot be adapted to the bands.
    """
    if name == "tiny":
        return build_backbone({**TINY, "num_channels": len(bands)})
    try:
        loaded: Any = DINOv3ViTModel.from_pretrained(
            name, local_files_only=exists(name), dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--backbone {name}: no DINOv3 model in this folder or on the hub ({reason})"
        ) from error
    backbone: DINOv3ViTModel = loaded[0]
    loading: dict[str, set[str]] = loaded[1]
    if loading["missing_keys"]:
        # transformers would go on with random numbers in their place.
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise InputError(f"--backbone {name}: weights of a DINOv3 model are missing ({missing}, ...)")
    embeddings = backbone.embeddings.patch_embeddings
    weight_DCPP = patch_weights_for(embeddings.weight.detach(), bands, new_band_from)
    embeddings.weight = torch.nn.Parameter(weight_DCPP)
    embeddings.in_channels = backbone.config.num_channels = len(bands)
    return backbone


def patch_weights_for(weight_DCPP: Tensor, bands: tuple[str, ...], new_band_from: str) -> Tensor:
    """Patch weights for `bands`: each from its own pretrained band, an unknown one from `new_band_from`.

    Args:
        weight_DCPP: (width, 3, patch, patch), channels red, green, blue.
        bands: names of the bands that the backbone will see.
        new_band_from: "red", "green" or "blue".
    """
    if weight_DCPP.shape[1] != len(PRETRAINED_BANDS):
        raise InputError(f"the backbone reads {weight_DCPP.shape[1]} bands, not red, green, blue")
    sources = [band if band in PRETRAINED_BANDS else new_band_from for band in bands]
    return weight_DCPP[:, [PRETRAINED_BANDS.index(source) for source in sources]].clone()
