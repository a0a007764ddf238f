"""No backbone, in the place of one: `--backbone none`, the decoder's own U-Net alone.

A configuration with no block says so. All that goes through a backbone's blocks and weights then finds none.
"""

from typing import Any

from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

NONE = "none"
"""Name for `--backbone`."""


def is_none(config: dict[str, Any]) -> bool:
    """Tell whether arguments of DINOv3ViTConfig are those of no backbone."""
    return config.get("num_hidden_layers") == 0


def shape_of_none(patch: int, bands: int) -> dict[str, Any]:
    """Return the arguments of DINOv3ViTConfig that mean no backbone.

    Args:
        patch: number of pixels of which the sides of images must be multiples.
        bands: number of bands of the images.
    """
    smallest = {"hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1}
    return {**smallest, "num_hidden_layers": 0, "patch_size": patch, "num_channels": bands}


class NoBackbone(DINOv3ViTModel):
    """A backbone without blocks, weights and tokens; only its configuration is used."""

    def __init__(self, config: DINOv3ViTConfig) -> None:
        """Take a configuration with no block."""
        super().__init__(config)
        self.embeddings = nn.Module()  # type: ignore[assignment]
        self.norm = nn.Identity()  # type: ignore[assignment]
