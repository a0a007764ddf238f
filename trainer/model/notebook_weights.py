"""Conversion of the notebook's checkpoints (best_dinov3_*.pth) to names and shapes of our regressor.

backbone.layer.N... (transformers 4) or backbone.model.layer.N... (5)   -> backbone.model.layer.N...
depth_head.*                                                            -> decoder.*

weights = notebook_state_dict(read_weights(url))
notebook_backbone(weights), notebook_decoder(weights)       # configurations to build a Regressor with
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from shards.errors import InputError
from trainer.decoders.features import DecoderConfig
from trainer.model.meta_weights import LAYER_NORM_EPS

STATE = "model_state_dict"
"""Key of the weights in the notebook's dict, beside the optimiser's state and scores."""
DROPOUT = 0.2
"""Share of channels that the notebook dropped; the weights do not show it."""
HEAD_WIDTH = 64
"""Numbers of a token that an attention head reads, in every published DINOv3 ViT but the 7B one (embed_dim
over num_heads in github.com/facebookresearch/dinov3, dinov3/hub/backbones.py)."""
_WIDTH_OF_7B = 4096
_HEAD_WIDTH_OF_7B = 128
_OURS = (
    (r"^module\.", ""),  # torch.nn.DataParallel puts it before every name
    (r"^backbone\.layer\.", "backbone.model.layer."),
    (r"^depth_head\.", "decoder."),
)
_LAYER = "backbone.model.layer."
_NUMBERED = re.compile(r"backbone\.model\.layer\.(\d+)\.")


def notebook_state_dict(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of one of the notebook's checkpoints, named as in a Regressor.

    Args:
        values: the checkpoint's content.

    Raises:
        InputError: it holds names that belong to neither a backbone nor a decoder.
    """
    stored = values.get(STATE, values)
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise InputError(f"holds neither tensors by name nor a {STATE!r} with them")
    renamed: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        ours = str(name)
        for pattern, replacement in _OURS:
            ours = re.sub(pattern, replacement, ours)
        if not ours.startswith(("backbone.", "decoder.")) or ours in renamed:
            raise InputError(f"{name} is neither a backbone's (backbone.*) nor a decoder's (depth_head.*)")
        renamed[ours] = tensor
    return renamed


def notebook_backbone(weights: Mapping[str, Tensor], heads: int = 0) -> dict[str, Any]:
    """Return the arguments of DINOv3ViTConfig that fit the shapes of `weights`.

    Args:
        weights: from `notebook_state_dict`.
        heads: attention heads, which leave no trace in the shapes; 0: as published for tokens of this width.

    Raises:
        InputError: tensors of a backbone are missing, or its tokens cannot be split into this many heads.
    """
    width, channels, patch = _shape(weights, "backbone.embeddings.patch_embeddings.weight", 4)[:3]
    head_width = _HEAD_WIDTH_OF_7B if width == _WIDTH_OF_7B else HEAD_WIDTH
    heads = heads or max(1, width // head_width)
    # Rotary coordinates turn pairs of numbers, half of the pairs by rows and half by columns.
    if heads < 0 or width % (4 * heads):
        raise InputError(f"--heads {heads}: tokens of {width} numbers cannot be split into this many heads")
    numbers = {int(found[1]) for found in map(_NUMBERED.match, weights) if found}
    if len(numbers) != 1 + max(numbers, default=0):
        raise InputError(f"{_LAYER}N: there are {len(numbers)}, numbered up to {max(numbers, default=0)}")
    first, gated = f"{_LAYER}0.", f"{_LAYER}0.mlp.gate_proj.weight" in weights
    biases = {
        f"{projection}_bias": f"{first}attention.{short}_proj.bias" in weights
        for projection, short in (("query", "q"), ("key", "k"), ("value", "v"), ("proj", "o"))
    }
    return {
        "hidden_size": width,
        "intermediate_size": _shape(weights, f"{first}mlp.up_proj.weight", 2)[0],
        "num_hidden_layers": len(numbers),
        "num_attention_heads": heads,
        "num_channels": channels,
        "num_register_tokens": _shape(weights, "backbone.embeddings.register_tokens", 3)[1],
        "patch_size": patch,
        **biases,
        "mlp_bias": f"{first}mlp.up_proj.bias" in weights,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
    }


def notebook_decoder(weights: Mapping[str, Tensor]) -> DecoderConfig:
    """Return the decoder's kind and shape, from the shapes of `weights` (from `notebook_state_dict`).

    Raises:
        InputError: tensors of the decoder are missing.
    """
    widths = tuple(_shape(weights, f"decoder.{stage}.0.weight", 4)[1] for stage in (0, 2, 4, 6))
    norm = "batch" if "decoder.0.1.running_mean" in weights else "group"
    return DecoderConfig(widths=widths, norm=norm, dropout=DROPOUT, kind="residual")


def _shape(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of the tensor called `name`, which must have this many axes."""
    if name not in weights or weights[name].ndim != axes:
        raise InputError(f"{name} is missing, or does not have {axes} axes")
    return tuple(weights[name].shape)
