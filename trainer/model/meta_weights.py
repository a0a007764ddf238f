"""Conversion of Meta's own DINOv3 files to DINOv3 of transformers: other names, the same numbers.

Meta's names come from github.com/facebookresearch/dinov3: dinov3/hub/backbones.py lists the published files,
dinov3/models/vision_transformer.py has the modules.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DINOv3ViTModel

from shards.errors import InputError
from trainer.model.empty_backbone import empty_backbone
from trainer.weights.weights_file import fill

LAYER_NORM_EPS = 1e-5
"""Epsilon of the layer norms of every published backbone ("layernormbf16" in vision_transformer.py)."""
PRETRAINING_ONLY = ("local_cls_norm.weight", "local_cls_norm.bias")
"""Final norm of small crops' class tokens and registers, which evaluation never uses
(vision_transformer.py). The ViT-L for satellite images and the ViT-7B have it."""
_PERIODS = "rope_embed.periods"
_BIAS_MASK = re.compile(r"blocks\.\d+\.attn\.qkv\.bias_mask")
_TRAINING_HEADS = ("dino_head.", "ibot_head.")

_METAS_NAMES = (
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^model\.layer\.", "blocks."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
"""Replacements that turn a name of transformers into Meta's, applied one after the other."""
_PLAIN_MLP = {"up_proj": "fc1", "down_proj": "fc2"}
_GATED_MLP = {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
"""Names in SwiGLU, which is w3(silu(w1 x) * (w2 x))."""


def meta_backbone(state_dict: Mapping[str, Any]) -> DINOv3ViTModel:
    """Make the backbone of one of Meta's files, in float32, from what `torch.load` returned.

    Its shape follows from the tensors' shapes and the rotary periods. Two kinds of file are understood: the
    published ones (dinov3_vit*.pth), and {"teacher": ...} of a training run, which Meta's own
    dinov3/checkpointer/checkpointer.py (init_model_from_checkpoint_for_evals) unwraps in the same way.

    Raises:
        InputError: a name is unknown or missing, a tensor has another shape, or the bands are not three.
    """
    given = _without_wrapping(state_dict)
    shape = _shape_of(given)
    backbone = empty_backbone(shape)
    ours = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    gated = shape["use_gated_mlp"]
    refuse_mismatch(_metas_shapes(ours, gated), {n: t for n, t in given.items() if not _is_no_weight(n)})
    weights = {name: _weight_of(name, given, gated).reshape(ours[name]) for name in ours}
    fill(backbone, weights)
    backbone.eval()
    return backbone


def refuse_mismatch(expected: Mapping[str, torch.Size], given: Mapping[str, Tensor]) -> None:
    """Refuse tensors unless their names and shapes are exactly as expected.

    Raises:
        InputError: names the first three that are missing, unknown or of another shape.
    """
    missing = [f"{name} is missing" for name in expected if name not in given]
    unknown = [f"{name} is unknown" for name in given if name not in expected]
    other = [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    problems = missing + unknown + other
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"these weights do not fit: {', '.join(problems[:3])}{more}")


def _without_wrapping(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    if set(state_dict) == {"teacher"} and isinstance(state_dict["teacher"], Mapping):
        state_dict = {
            name.removeprefix("module.").removeprefix("backbone."): value
            for name, value in state_dict["teacher"].items()
            if not name.removeprefix("module.").startswith(_TRAINING_HEADS)
        }
    strangers = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if strangers:
        raise InputError(
            f"{', '.join(strangers[:3])}: not tensors; give one of Meta's files, dinov3_vit*.pth, as it is"
        )
    return dict(state_dict)


def _shape_of(given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of DINOv3ViTConfig that fit Meta's tensors."""
    for name, axes in (("patch_embed.proj.weight", 4), ("cls_token", 3), (_PERIODS, 1)):
        if name not in given or given[name].ndim != axes:
            raise InputError(f"{name} is missing; give one of Meta's files, dinov3_vit*.pth")
    width, channels, patch, _ = given["patch_embed.proj.weight"].shape
    if channels != 3:
        raise InputError(f"patch_embed.proj.weight reads {channels} bands, not red, green and blue")
    periods = given[_PERIODS].float()
    heads, rest = divmod(width, 4 * len(periods))
    if rest or not heads:
        raise InputError(f"{len(periods)} rotary periods do not fit tokens of {width} numbers")
    gated = "blocks.0.mlp.w1.weight" in given
    inner = given.get("blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight")
    if inner is None:
        raise InputError("blocks.0.mlp.fc1.weight is missing; give one of Meta's files, dinov3_vit*.pth")
    numbers = {int(name.split(".")[1]) for name in given if re.match(r"blocks\.\d+\.", name)}
    if len(numbers) != 1 + max(numbers):
        raise InputError(f"blocks go up to {max(numbers)}, but there are only {len(numbers)}")
    with_bias = "blocks.0.attn.qkv.bias" in given
    return {
        "hidden_size": width,
        "intermediate_size": len(inner),
        "num_hidden_layers": len(numbers),
        "num_attention_heads": heads,
        "num_channels": channels,
        "num_register_tokens": given["storage_tokens"].shape[1] if "storage_tokens" in given else 0,
        "patch_size": patch,
        "query_bias": with_bias,
        "key_bias": with_bias and any(_bias(n, given).chunk(3)[1].any() for n in numbers),
        "value_bias": with_bias,
        "proj_bias": "blocks.0.attn.proj.bias" in given,
        "mlp_bias": f"blocks.0.mlp.{'w1' if gated else 'fc1'}.bias" in given,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "rope_theta": _rope_theta(periods),
    }


def _rope_theta(periods: Tensor) -> float:
    """Return the base of the rotary periods base ** (i / n), i = 0 .. n - 1; 100 in every published file."""
    count = len(periods)
    exact = float(periods[-1].abs()) ** (count / max(1, count - 1))
    exponents = torch.arange(count) / count
    # Periods kept in bfloat16, with 8 bits, give 99.88 instead of 100.
    for base in (float(f"{exact:.2g}"), exact):
        if 0 < base < math.inf and torch.allclose(periods, base**exponents, rtol=2**-8, atol=0):
            return base
    raise InputError(f"{_PERIODS} are not powers of one base, which transformers' DINOv3 needs")


def _bias(block: int, given: Mapping[str, Tensor]) -> Tensor:
    """Return a block's biases of queries, keys and values, times Meta's mask, which is 0 for the keys."""
    bias = given.get(f"blocks.{block}.attn.qkv.bias", torch.zeros(3)).float()
    mask = given.get(f"blocks.{block}.attn.qkv.bias_mask")
    masked = bias if mask is None or mask.shape != bias.shape else bias * mask.float()
    # Meta creates masks as NaN and fills them later; a file may have been saved in between.
    if not masked.isfinite().all():
        raise InputError(f"blocks.{block}.attn.qkv.bias is not finite once it is masked")
    return masked


def _metas_name(name: str, gated: bool) -> str:
    for pattern, replacement in _METAS_NAMES:
        name = re.sub(pattern, replacement, name)
    for part, theirs in (_GATED_MLP if gated else _PLAIN_MLP).items():
        name = name.replace(f".mlp.{part}.", f".mlp.{theirs}.")
    return name


def _metas_shapes(ours: Mapping[str, torch.Size], gated: bool) -> dict[str, torch.Size]:
    """Return the names and shapes that a file must have."""
    shapes = {}
    for name, shape in ours.items():
        theirs = _metas_name(name, gated)
        if theirs.endswith(("attn.qkv.weight", "attn.qkv.bias")):
            shape = torch.Size((3 * shape[0], *shape[1:]))
        elif theirs == "mask_token":
            shape = shape[1:]
        if shape.numel():  # without registers Meta has no tensor, transformers an empty one
            shapes[theirs] = shape
    return shapes


def _is_no_weight(name: str) -> bool:
    return name == _PERIODS or name in PRETRAINING_ONLY or _BIAS_MASK.fullmatch(name) is not None


def _weight_of(name: str, given: Mapping[str, Tensor], gated: bool) -> Tensor:
    theirs = _metas_name(name, gated)
    if ".attn.qkv." not in theirs:
        return given[theirs].float() if theirs in given else torch.zeros(0)
    joint = _bias(int(theirs.split(".")[1]), given) if theirs.endswith(".bias") else given[theirs].float()
    # No copy: a file of weights may be mapped, and rows of one tensor can be saved as tensors of their own.
    return joint.chunk(3)["qkv".index(name.split(".attention.")[1][0])]
