"""Attention of the class token to the patches, from the queries and keys of chosen layers alone.

    with class_attention(encoder.backbone, (4,)) as found:
        tokens_BND = encoder(pixels_BCHW, attended_BN=valid_BN)
    found[4]  # attention_BKN: batch, heads, patches

The layers compute as they always do: fast attention returns no weights, so they are computed beside it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DINOv3ViTModel


@contextmanager
def class_attention(backbone: DINOv3ViTModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Yield a dictionary that each pass through the backbone fills with attention_BKN by layer.

    The attention is what the layer's softmax gives to each patch, in float32. What it gives to the class
    token and the registers is left out, so a head's patches sum to less than 1.

    Args:
        backbone: a DINOv3.
        layers: numbers of layers, from 1.
    """
    found: dict[int, Tensor] = {}
    hooks = [
        backbone.model.layer[layer - 1].attention.register_forward_pre_hook(
            partial(_watch, found, layer), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _watch(
    found: dict[int, Tensor], layer: int, attention: Any, inputs: tuple[Tensor, ...], options: dict[str, Any]
) -> None:
    """Compute a layer's class attention from what is put into its attention."""
    tokens_BND = inputs[0]
    # The class token has no place, so its query is not turned.
    query_BK1F = _by_head(attention, attention.q_proj(tokens_BND[:, :1]))
    key_BKNF = _by_head(attention, attention.k_proj(tokens_BND))
    cos, sin = options["position_embeddings"]
    others = key_BKNF.shape[2] - cos.shape[-2]
    patches_BKNF = key_BKNF[:, :, others:]
    first_BKNF, second_BKNF = patches_BKNF.chunk(2, dim=-1)
    turned_BKNF = patches_BKNF * cos + torch.cat([-second_BKNF, first_BKNF], -1) * sin
    key_BKNF = torch.cat([key_BKNF[:, :, :others], turned_BKNF], 2)
    score_BK1N = (query_BK1F @ key_BKNF.transpose(2, 3)) * attention.scaling
    mask_B11N = options.get("attention_mask")
    if mask_B11N is not None:
        score_BK1N = score_BK1N.masked_fill(~mask_B11N, -torch.inf)
    found[layer] = score_BK1N.float().softmax(-1)[:, :, 0, others:]


def _by_head(attention: Any, numbers_BND: Tensor) -> Tensor:
    """Split each token's numbers among the heads."""
    count, tokens, _ = numbers_BND.shape
    return numbers_BND.view(count, tokens, attention.num_heads, attention.head_dim).transpose(1, 2)
