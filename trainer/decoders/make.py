"""The choice of decoder: one with random weights from its configuration.

decoder = new_decoder(DecoderConfig(kind="detail"), depth=24, token_width=1024, patch=16, bands=3)
height_BHW = decoder(features, pixels_BCHW)
"""

from dataclasses import replace

from shards.errors import InputError
from trainer.decoders.detail import DetailDecoder
from trainer.decoders.features import Decoder, DecoderConfig
from trainer.decoders.linear import LinearDecoder
from trainer.decoders.own import own_decoder
from trainer.decoders.residual import ResidualDecoder
from trainer.decoders.unet import UNetDecoder

OWN_WIDTHS = {
    "unet": (128, 64, 32, 16),
    "residual": (64, 32, 16, 8),
    "detail": (64, 48, 32, 16),
    "dpt": (),
    "linear": (),
}
"""Default channels of the stages, by kind; for dpt see `own_widths`."""


def new_decoder(config: DecoderConfig, depth: int, token_width: int, patch: int, bands: int = 3) -> Decoder:
    """Make a decoder with random weights.

    Args:
        config: the decoder's kind and shape.
        depth: number of the backbone's blocks; 0: there is none.
        token_width: numbers in one of the backbone's tokens.
        patch: pixels of the stored image along each side of a patch.
        bands: number of bands in the normalised pixels.

    Raises:
        InputError: there is no such decoder, or it cannot turn such patches back into pixels.
    """
    if "." in config.kind:
        return own_decoder(config, depth, token_width, patch, bands)
    if config.kind not in OWN_WIDTHS:
        names = ", ".join(OWN_WIDTHS)
        raise InputError(
            f"--decoder {config.kind}: no such decoder; choose one of {names}, or name your own, "
            "package.module.Class"
        )
    config = replace(config, widths=config.widths or own_widths(config.kind, token_width))
    if not depth and config.kind != "unet":
        raise InputError(f"--backbone none: the {config.kind} decoder needs tokens; give --decoder unet")
    if config.kind == "unet":
        return UNetDecoder(config, depth, token_width, patch, bands)
    if config.kind == "detail":
        return DetailDecoder(config, depth, token_width, patch, bands)
    if config.kind == "dpt":
        from trainer.decoders.dpt import DptDecoder  # loads transformers' CHMv2

        return DptDecoder(config, depth, token_width, patch)
    if config.kind == "linear":
        return LinearDecoder(config, depth, token_width, patch)
    return ResidualDecoder(config, depth, token_width, patch)


def own_widths(kind: str, token_width: int) -> tuple[int, ...]:
    """Return the default channels of a decoder's stages."""
    if kind == "dpt":
        # CHMv2's post_process_channels for its backbone's width of 1024 (CHMv2Config).
        widest = min(token_width, 1024)
        return (widest, widest // 2, widest // 4, widest // 8)
    return OWN_WIDTHS[kind]
