"""A regressor or a model of tiles that is not trained yet, from the options of training.

torch.manual_seed(seed)                                 # random weights come from here
regressor = new_regressor(dataset, ModelOptions(decoder="residual"))
"""

from dataclasses import replace

from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.statistics import Statistics
from shards.read.dataset import Dataset
from trainer.decoders.features import DecoderConfig
from trainer.model.backbone import new_backbone
from trainer.model.encoder import Encoder
from trainer.model.pretrained import is_pretrained, load_pretrained
from trainer.model.regressor import Regressor
from trainer.model.tile_model import TileHead, TileModel
from trainer.model.trainable import recompute_activations, tune
from trainer.options import ModelOptions


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
    decoder = DecoderConfig(
        options.decoder_widths, options.norm, options.dropout, options.decoder, options.upsample
    )
    return Regressor(dataset.schema, options.bands, statistics, backbone, decoder)


def new_tile_model(dataset: Dataset, options: ModelOptions, head: TileHead) -> TileModel:
    """Return an untrained model of tiles for the dataset's images.

    Raises:
        InputError: there is no such backbone, or it does not go together with the tiles.
    """
    backbone, statistics = _backbone(dataset, options)
    encoder = Encoder(dataset.schema, options.bands, statistics, backbone)
    if dataset.schema.chip_size % encoder.patch_size:
        raise InputError(
            f"{dataset.url}: tiles of {dataset.schema.chip_size} pixels are no multiple of the backbone's "
            f"patch, {encoder.patch_size} pixels; choose another --backbone"
        )
    return TileModel(encoder, head)


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
    elif options.backbone_weights:
        raise InputError(f"--backbone-weights: {options.backbone} is no pre-training run; leave it out")
    else:
        backbone = new_backbone(options.backbone, pretrained_bands or options.bands, options.new_band_from)
    tune(backbone, options.tune, options.tune_blocks, options.lora_rank)
    if options.recompute_activations:
        recompute_activations(backbone)
    return backbone, statistics
