"""Encoder of any checkpoint, of `treeline pretrain` or `treeline train`."""

from dataclasses import dataclass
from typing import Any

from shards.errors import InputError
from trainer.model.class_checkpoint import ClassCheckpoint, is_of_classes, load_class_checkpoint
from trainer.model.encoder import Encoder
from trainer.model.height_checkpoint import Checkpoint, load_checkpoint
from trainer.model.pixel_model import PixelModel
from trainer.model.pretrained import is_pretrained, load_pretrained
from trainer.model.tile_checkpoint import is_of_tiles, load_tile_checkpoint
from trainer.model.tile_model import TileModel


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, and what identifies it."""

    encoder: Encoder
    """Encoder, on the CPU in eval mode, or without weights on the device "meta"."""
    name: str
    """Name of the weights: "teacher" or "student" of a pre-training, "trained" otherwise."""
    fingerprint: str
    """Checksum of the checkpoint's configuration, statistics and weights."""
    trained_on: dict[str, Any]
    """Description of the checkpoint's training data and code."""


def load_encoder(
    checkpoint: str, weights: str | None = None, with_weights: bool = True, trust: str = ""
) -> LoadedEncoder:
    """Load the encoder of the checkpoint (or of the best one of the run) at `checkpoint`.

    Args:
        checkpoint: folder of a checkpoint or a run, of `treeline pretrain` or `treeline train`.
        weights: "teacher" or "student" of a pre-training; default: the teacher where there is one.
        with_weights: whether to load the weights; see `load_checkpoint`.
        trust: import path of the decoder beside it, if that is the user's own; see trainer.model.trust.

    Raises:
        InputError: there is no checkpoint, it is damaged, it has no such weights, or its backbone sees
            enlarged images.
    """
    if is_pretrained(checkpoint):
        if trust:
            raise InputError(f"--trust {trust}: {checkpoint} has no decoder; leave it out")
        pretrained = load_pretrained(checkpoint, weights, "compute" if with_weights else "describe")
        ((name, backbone),) = pretrained.backbones.items()
        encoder = Encoder(pretrained.schema, pretrained.bands, pretrained.statistics, backbone)
        return LoadedEncoder(encoder.eval(), name, pretrained.fingerprint, pretrained.trained_on)
    if weights:
        raise InputError(f"--weights {weights}: {checkpoint} is no pre-training run; leave it out")
    if is_of_tiles(checkpoint):
        of_tiles = load_tile_checkpoint(checkpoint, with_weights, trust)
        return LoadedEncoder(of_tiles.model.encoder, "trained", of_tiles.fingerprint, of_tiles.trained_on)
    loaded = _load_pixels(checkpoint, with_weights, trust)
    encoder = encoder_of(checkpoint, loaded.regressor if isinstance(loaded, Checkpoint) else loaded.model)
    return LoadedEncoder(encoder, "trained", loaded.fingerprint, loaded.trained_on)


def encoder_of(checkpoint: str, model: PixelModel | TileModel) -> Encoder:
    """Return the encoder of the model of `checkpoint`, which shares the model's weights.

    Raises:
        InputError: it has no backbone, or one that sees enlarged images.
    """
    if isinstance(model, TileModel):
        return model.encoder
    if not model.depth:
        raise InputError(
            f"{checkpoint}: was trained with --backbone none, so it has no tokens; give a checkpoint of a "
            "model with a backbone"
        )
    if model.decoder_config.upsample > 1:
        raise InputError(
            f"{checkpoint}: was trained with --upsample {model.decoder_config.upsample}, so its tokens are "
            "those of enlarged images; give a checkpoint that was trained without"
        )
    return Encoder(model.schema, model.bands, model.statistics, model.backbone).eval()


def _load_pixels(checkpoint: str, with_weights: bool, trust: str) -> Checkpoint | ClassCheckpoint:
    """Load a checkpoint of heights, or of classes of pixels."""
    load = load_class_checkpoint if is_of_classes(checkpoint) else load_checkpoint
    return load(checkpoint, with_weights, trust)
