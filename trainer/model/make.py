"""A regressor, a model of classes or a model of tiles that is not trained yet, from the options of training.

torch.manual_seed(seed)                                 # random weights come from here
regressor = new_regressor(dataset, ModelOptions(decoder="residual"))
"""

from dataclasses import replace
from typing import Any

from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.statistics import Statistics
from shards.read.dataset import Dataset
from shards.roles import own_path
from trainer.decoders.features import DecoderConfig
from trainer.decoders.make import own_widths
from trainer.decoders.own import own_decoder, own_kind
from trainer.model.backbone import TINY, build_backbone, new_backbone
from trainer.model.class_model import ClassModel
from trainer.model.encoder import Encoder
from trainer.model.no_backbone import NONE, shape_of_none
from trainer.model.pretrained import is_pretrained, load_pretrained
from trainer.model.regressor import Regressor
from trainer.model.tile_model import TileHead, TileModel
from trainer.model.trainable import recompute_activations, tune
from trainer.options import DecoderKind, ModelOptions

CLASS_DECODERS: tuple[DecoderKind, ...] = ("detail", "residual", "linear")
"""Decoders that can compute classes; dpt computes a mean over bins of heights."""


def new_regressor(
    dataset: Dataset, options: ModelOptions, pretrained_bands: tuple[str, ...] = ()
) -> Regressor:
    """Return an untrained regressor for the dataset's images.

    Args:
        dataset: schema and statistics of the images.
        options: backbone and decoder.
        pretrained_bands: bands whose pretrained patch weights the regressor's bands start from, one for
            each; default: their own.

    Raises:
        InputError: there is no such backbone, or it does not go together with the other options.
    """
    backbone, statistics = _backbone(dataset, options, pretrained_bands)
    return Regressor(dataset.schema, options.bands, statistics, backbone, _decoder(options))


def check_own_decoder(options: ModelOptions, outputs: int = 1) -> None:
    """Refuse a decoder of the user's own that cannot be used; where the backbone's shape is known, try it.

    Raises:
        InputError: says what is wrong; see trainer.decoders.own.
    """
    if not own_path(options.decoder):
        return
    own_kind(options.decoder)
    shape = dict[str, Any]()
    if options.backbone == "tiny":
        shape = TINY
    elif is_pretrained(options.backbone):
        described = load_pretrained(options.backbone, options.backbone_weights, "describe")
        shape = next(iter(described.backbones.values())).config.to_dict()
    if shape and shape["patch_size"] % options.upsample == 0:
        patch, config = shape["patch_size"] // options.upsample, _decoder(options, outputs)
        own_decoder(config, shape["num_hidden_layers"], shape["hidden_size"], patch, len(options.bands))


def _decoder(options: ModelOptions, outputs: int = 1) -> DecoderConfig:
    return DecoderConfig(
        options.decoder_widths, options.norm, options.dropout, options.decoder, options.upsample, outputs
    )


def class_decoder(options: ModelOptions, classes: int) -> DecoderConfig:
    """Return the configuration of a decoder of classes.

    Raises:
        InputError: decoders of this kind compute heights alone.
    """
    if options.decoder not in CLASS_DECODERS and not own_path(options.decoder):
        raise InputError(
            f"--decoder {options.decoder}: computes heights, no classes; choose "
            f"{', '.join(CLASS_DECODERS[:-1])} or {CLASS_DECODERS[-1]}"
        )
    return _decoder(options, classes)


def new_class_model(dataset: Dataset, options: ModelOptions) -> ClassModel:
    """Return an untrained model of the dataset's classes of pixels.

    Raises:
        InputError: there is no such backbone or decoder, or it does not go together with the chips.
    """
    decoder = class_decoder(options, len(dataset.schema.class_names))
    backbone, statistics = _backbone(dataset, options)
    model = ClassModel(dataset.schema, options.bands, statistics, backbone, decoder)
    _check_patches(dataset, model.patch_size, "chips")
    return model


def new_tile_model(dataset: Dataset, options: ModelOptions, head: TileHead) -> TileModel:
    """Return an untrained model of tiles for the dataset's images.

    Raises:
        InputError: there is no such backbone, or it does not go together with the tiles.
    """
    backbone, statistics = _backbone(dataset, options)
    encoder = Encoder(dataset.schema, options.bands, statistics, backbone)
    _check_patches(dataset, encoder.patch_size, "tiles")
    return TileModel(encoder, head)


def _check_patches(dataset: Dataset, patch_size: int, kind: str) -> None:
    """Refuse images that are not made of whole patches."""
    if dataset.schema.chip_size % patch_size:
        raise InputError(
            f"{dataset.url}: {kind} of {dataset.schema.chip_size} pixels are no multiple of the backbone's "
            f"patch, {patch_size} pixels; choose another --backbone"
        )


def _backbone(
    dataset: Dataset, options: ModelOptions, pretrained_bands: tuple[str, ...] = ()
) -> tuple[DINOv3ViTModel, Statistics]:
    """Return the backbone, of which the chosen part learns, and the statistics that normalise its input."""
    statistics = dataset.statistics
    if is_pretrained(options.backbone):
        pretrained = load_pretrained(options.backbone, options.backbone_weights)
        pretrained.check_images(options.backbone, options.bands, dataset.schema)
        # Pixels are normalised as in pre-training; the heights are those of this dataset.
        statistics = replace(pretrained.statistics, height=statistics.height)
        (backbone,) = pretrained.backbones.values()
    elif options.backbone == NONE:
        patch = 2 ** (len(options.decoder_widths or own_widths("unet", 0)) - 1)
        return build_backbone(shape_of_none(patch, len(options.bands))), statistics
    elif options.backbone_weights:
        raise InputError(f"--backbone-weights: {options.backbone} is no pre-training run; leave it out")
    else:
        backbone = new_backbone(options.backbone, pretrained_bands or options.bands, options.new_band_from)
    tune(backbone, options.tune, options.tune_blocks, options.lora_rank)
    if options.recompute_activations:
        recompute_activations(backbone)
    return backbone, statistics
