"""Decoders of the user's own, by import path: subclasses of Decoder.

A call on zeros shows that one can be trained with, before anything is written.
"""

import torch
from torch import Tensor

from shards.errors import InputError
from shards.own_parts import blaming, imported
from trainer.decoders.features import Decoder, DecoderConfig, Features

CHIPS, ROWS = 2, 4
"""Number of chips, and of patches along each of their sides, of the zeros that a decoder is tried on."""


def own_kind(path: str) -> type[Decoder]:
    """Import the class of a decoder.

    Raises:
        InputError: it cannot be imported, or is no subclass of Decoder.
    """
    kind = imported("--decoder", path)
    if not (isinstance(kind, type) and issubclass(kind, Decoder)):
        raise _wrong(path, "is no subclass of trainer.decoders.features.Decoder; derive it from that")
    return kind


def own_decoder(config: DecoderConfig, depth: int, token_width: int, patch: int, bands: int) -> Decoder:
    """Make a decoder of the user's own, and try it; see `trainer.decoders.make.new_decoder`.

    Raises:
        InputError: it cannot be made, or shapes, numbers or gradients are not those of a decoder.
    """
    path = config.kind
    # Its class takes all arguments by their place: (config, depth, token_width, patch, bands).
    kind: type[Decoder] = own_kind(path)
    with blaming(f"--decoder {path}: cannot be made"):
        decoder: Decoder = kind(config, depth, token_width, patch, bands)
    is_training = decoder.training
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            _try(decoder.eval(), config, (depth, token_width, patch, bands))
    finally:
        decoder.train(is_training).zero_grad(set_to_none=True)
    return decoder


def _try(decoder: Decoder, config: DecoderConfig, shape: tuple[int, int, int, int]) -> None:
    """Compute maps of zeros."""
    path, (depth, token_width, patch, bands) = config.kind, shape
    side = ROWS * patch
    with blaming(f"--decoder {path}: failed on an input of zeros"):
        layers = tuple(decoder.layers)
        if not layers or not all(isinstance(layer, int) and 1 <= layer <= depth for layer in layers):
            raise _wrong(path, f"has layers {layers}; name some of the backbone's blocks, 1 to {depth}")
        features = Features(
            tuple(torch.zeros(CHIPS, token_width, ROWS, ROWS) for _ in layers),
            tuple(torch.zeros(CHIPS, token_width) for _ in layers),
        )
        decoder.start_at(*(1.0 for _ in range(config.outputs)))
        maps = decoder(features, torch.zeros(CHIPS, bands, side, side))
        wanted = (CHIPS, side, side) if config.outputs == 1 else (CHIPS, config.outputs, side, side)
        if not isinstance(maps, Tensor):
            raise _wrong(path, f"returns a {type(maps).__name__}, not a tensor")
        if maps.shape != wanted:
            given = f"{CHIPS} chips of {side} pixels a side"
            raise _wrong(path, f"returns the shape {tuple(maps.shape)} for {given}, not {wanted}")
        if not maps.is_floating_point() or not maps.isfinite().all():
            raise _wrong(path, "returns no finite numbers for zeros")
        learns = [one for one in decoder.parameters() if one.requires_grad]
        if not learns or not maps.requires_grad:
            raise _wrong(
                path, "has no gradient to any weight of its own; compute with nn.Parameter, in torch"
            )
        slopes = torch.autograd.grad(maps.sum(), learns, allow_unused=True)
        if not all(one.isfinite().all() for one in slopes if one is not None):
            raise _wrong(path, "has a gradient that is no number for zeros")
        if not set(decoder.output.parameters()) <= set(decoder.parameters()):
            raise _wrong(path, "has an output layer that is none of its own")


def _wrong(path: str, what: str) -> InputError:
    return InputError(f"--decoder {path}: {what}")
