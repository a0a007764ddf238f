"""The norm layers of decoders."""

from math import gcd

from torch import nn

from trainer.decoders.batch_norm import BatchNorm


def norm_of(kind: str, width: int) -> nn.Module:
    """Make a norm of `width` channels, as DecoderConfig.norm names it.

    Batch norm learns best (docs/accuracy.md); with group norm a chip's result does not depend on the batch
    that it is in.
    """
    return BatchNorm(width) if kind == "batch" else nn.GroupNorm(gcd(8, width), width)
