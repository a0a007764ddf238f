"""The choice of a backbone's weights that learn: none, the last blocks, low-rank adapters (LoRA), or all.

tune(backbone, "lora", rank=8)         in place, before the optimiser is made
with merged(backbone): ...             a plain DINOv3 for a while, to save it while it learns
merge(backbone)                        a plain DINOv3 for good
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DINOv3ViTModel

from shards.errors import InputError
from trainer.options import Mode, ModelOptions

LORA_LAYERS = ("q_proj", "v_proj")
"""Layers adapted in every block. For a given number of weights, queries and values together did best in the
study that introduced LoRA (Hu et al. 2021, arXiv:2106.09685, section 7.1)."""
LORA_ALPHA = 16
"""Scale of the adapters' output, divided by the rank. It does not change with the rank, so a learning rate
found for one rank serves others (the same paper, section 4.1)."""
_ADAPTER = "default"


def tune(
    backbone: DINOv3ViTModel,
    mode: Mode,
    blocks: int = ModelOptions.tune_blocks,
    rank: int = ModelOptions.lora_rank,
) -> DINOv3ViTModel:
    """Let only the weights that `mode` names learn, in place.

    Tokens stay the same until the first step, since adapters start at zero. The mask token never learns:
    nothing is masked here, so it would have no gradient.

    Args:
        backbone: a backbone without adapters.
        mode: "frozen": nothing; "last": the last blocks and the final norm; "lora": low-rank adapters beside
            the queries and values of every block, nothing else; "all": everything.
        blocks: number of last blocks, for "last".
        rank: rank of the adapters, for "lora".

    Returns:
        the same backbone.

    Raises:
        InputError: there is no such mode, or the backbone has fewer blocks, or the rank is out of range.
        ValueError: the backbone has adapters already.
    """
    if _adapted(backbone):
        raise ValueError("the backbone has adapters already; merge it first")
    backbone.requires_grad_(False)
    if mode == "last":
        depth = len(backbone.model.layer)
        if not 1 <= blocks <= depth:
            raise InputError(f"--tune-blocks {blocks}: the backbone has {depth} blocks; choose 1 to {depth}")
        backbone.model.layer[depth - blocks :].requires_grad_(True)
        backbone.norm.requires_grad_(True)
    elif mode == "lora":
        width = int(backbone.config.hidden_size)
        if not 1 <= rank <= width:
            raise InputError(f"--lora-rank {rank}: choose 1 to {width}, the width of a token")
        # No dropout: the backbone stays in eval mode (trainer.model.regressor), where it would do nothing.
        adapters = LoraConfig(
            r=rank, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules=list(LORA_LAYERS)
        )
        inject_adapter_in_model(adapters, backbone, _ADAPTER)
    elif mode == "all":
        backbone.requires_grad_(True)
        backbone.embeddings.mask_token.requires_grad_(False)
    elif mode != "frozen":
        raise InputError(f"--tune {mode}: choose frozen, last, lora or all")
    return backbone


def recompute_activations(backbone: DINOv3ViTModel) -> None:
    """Keep only the input of each block, in place, and compute the rest again in the backward pass.

    This takes a third more arithmetic, and memory for one block instead of all (Chen et al. 2016,
    arXiv:1604.06174). transformers' own option works in train mode only, and our backbone is never in it.
    """
    for block in backbone.model.layer:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def merge(backbone: DINOv3ViTModel) -> None:
    """Fold the adapters into the weights beside them, for good; do nothing without adapters.

    Tokens stay the same but for rounding; tensors get back the names that they had before `tune`.
    """
    for parent, name, layer in _adapted(backbone):
        setattr(parent, name, _folded(layer))
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config


@contextmanager
def merged(backbone: DINOv3ViTModel) -> Iterator[DINOv3ViTModel]:
    """Fold the adapters in for a while; afterwards the backbone is bit for bit as before and can learn on."""
    adapted = _adapted(backbone)
    try:
        for parent, name, layer in adapted:
            setattr(parent, name, _folded(layer))
        yield backbone
    finally:
        for parent, name, layer in adapted:
            setattr(parent, name, layer)


def _adapted(backbone: nn.Module) -> list[tuple[nn.Module, str, LoraLinear]]:
    """Find every layer with an adapter: (parent, the parent's name for the layer, layer)."""
    return [
        (parent, name, layer)
        for parent in backbone.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, LoraLinear)
    ]


@torch.no_grad()
def _folded(layer: LoraLinear) -> nn.Linear:
    """Make one plain layer that does what `layer` and its adapter do; its weights do not learn."""
    plain = layer.get_base_layer()
    assert isinstance(plain, nn.Linear)
    # On "meta" nothing is drawn, so saving does not advance training's random numbers.
    folded = nn.Linear(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
    folded.weight = nn.Parameter(plain.weight + layer.get_delta_weight(_ADAPTER), requires_grad=False)
    folded.bias = plain.bias
    return folded
