"""Backbones without weights, to be filled from a file: they take neither memory nor time.

backbone = empty_backbone(config)       from arguments of transformers' DINOv3ViTConfig
draw_as_built(config)                   before it, if a decoder is to start as beside a random backbone
"""

from math import prod
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from shards.errors import one_line
from trainer.model.no_backbone import NoBackbone, is_none


def empty_backbone(config: dict[str, Any]) -> DINOv3ViTModel:
    """Make a backbone on the device "meta", in no memory; see `trainer.weights.weights_file.fill`.

    Only its rotary frequencies have values: they are computed, and no file has them.

    Raises:
        ValueError: a value is of another type than transformers takes.
    """
    try:
        with torch.device("meta"):
            kind = NoBackbone if is_none(config) else DINOv3ViTModel
            backbone = kind(DINOv3ViTConfig(**config))
    except StrictDataclassError as error:
        raise ValueError(one_line(error)) from error
    backbone.rope_embeddings = type(backbone.rope_embeddings)(backbone.config)
    return backbone


def draw_as_built(config: dict[str, Any]) -> None:
    """Advance torch's random numbers as a random backbone would, in the memory of its largest tensor.

    What is drawn afterwards, such as a decoder, then starts as it does beside a random backbone.
    """
    with _OneMemory():
        DINOv3ViTModel(DINOv3ViTConfig(**config))


class _OneMemory(TorchDispatchMode):
    """Let all new tensors of a model lie in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers_N = torch.empty(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        if func is not torch.ops.aten.empty.memory_format or dtype != torch.float32:
            return func(*args, **kwargs)
        count = prod(args[0])
        if count > len(self._numbers_N):
            self._numbers_N = func([count], **kwargs)
        return self._numbers_N[:count].view(args[0])
