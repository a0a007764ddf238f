"""Meta's CHMv2 (canopy heights from DINOv3, arXiv:2603.06382) as a regressor, from a folder of transformers.

On the Hugging Face hub its weights are facebook/dinov3-vitl16-chmv2-dpt-head; nothing asks the hub unless
the user gives that name.
"""

from transformers import CHMv2Config, CHMv2ForDepthEstimation, DINOv3ViTConfig

from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.storage.objects import exists
from trainer.decoders.dpt import LAYERS, DptDecoder, head_config
from trainer.decoders.features import DecoderConfig
from trainer.model.backbone import patch_weights_for, whole_model
from trainer.model.backbone_names import is_place
from trainer.model.empty_backbone import empty_backbone
from trainer.model.foreign_folder import check_folder
from trainer.model.hub import is_on_hub, not_in_cache
from trainer.model.regressor import Regressor
from trainer.weights.weights_file import fill

_HEAD_OPTIONS = (
    "post_process_channels",
    "fusion_hidden_size",
    "head_hidden_size",
    "number_output_channels",
    "reassemble_factors",
    "readout_type",
    "min_depth",
    "max_depth",
    "bins_strategy",
    "norm_strategy",
)
"""Options of CHMv2Config that the decoder `dpt` takes from its widths, or has as constants."""
_BACKBONE_OPTIONS = ("apply_layernorm", "return_class_token", "reshape_hidden_states")
"""Options of its backbone that the decoder `dpt` needs to be on."""


def chmv2_regressor(
    name: str, schema: Schema, bands: tuple[str, ...], statistics: Statistics, new_band_from: str
) -> Regressor:
    """Make CHMv2 with Meta's weights, in eval mode, for images of `schema`.

    Args:
        name: a folder as `CHMv2ForDepthEstimation.save_pretrained` writes it; if there is no such folder,
            a model on the hub.
        schema: format of the images that are put in.
        bands: bands that the backbone will see, in its order; Meta's saw red, green, blue.
        statistics: statistics of chips like those images; they replace Meta's normalisation.
        new_band_from: as in `trainer.model.backbone.patch_weights_for`.

    Raises:
        InputError: there is no such CHMv2, or its shape is not that of the decoder `dpt`.
    """
    model = _read(name)
    backbone_config: DINOv3ViTConfig = model.backbone.config
    widths = tuple(model.config.post_process_channels or ())[::-1]
    _refuse_other_shapes(name, model.config, backbone_config, widths)
    shape = {**backbone_config.to_diff_dict(), "num_channels": len(bands)}
    backbone = empty_backbone(shape)
    weights = model.backbone.state_dict()
    patches = "embeddings.patch_embeddings.weight"
    fill(backbone, {**weights, patches: patch_weights_for(weights[patches], bands, new_band_from)})
    regressor = Regressor(schema, bands, statistics, backbone, DecoderConfig(widths, kind="dpt"))
    decoder = regressor.decoder
    assert isinstance(decoder, DptDecoder)
    layers = tuple(backbone_config.out_indices or ())
    if layers != decoder.layers:
        raise InputError(f"{name}: CHMv2 takes layers {layers}, the decoder dpt {decoder.layers}")
    decoder.head.load_state_dict(model.head.state_dict())
    return regressor.eval()


def _read(name: str) -> CHMv2ForDepthEstimation:
    if is_place(name) and not exists(name):
        raise InputError(
            f"{name}: no such folder; give one of transformers with CHMv2, a file of the notebook's weights, "
            "or a name on the hub"
        )
    check_folder(name, name)
    from_hub = not is_place(name) and is_on_hub(name, name)
    absent = f"{name}: no CHMv2 of transformers in this folder or on the hub"
    if not from_hub and not is_place(name):
        absent = not_in_cache(name)
    refusals = absent, f"{name}: weights of CHMv2 are missing"
    model: CHMv2ForDepthEstimation = whole_model(CHMv2ForDepthEstimation, name, refusals, from_hub)
    return model


def _refuse_other_shapes(
    folder: str, config: CHMv2Config, backbone_config: DINOv3ViTConfig, widths: tuple[int, ...]
) -> None:
    if len(widths) != LAYERS:
        raise InputError(f"{folder}: CHMv2 takes {len(widths)} layers, the decoder dpt {LAYERS}")
    ours = head_config(widths, backbone_config.hidden_size)
    for name in _HEAD_OPTIONS:
        theirs_is, ours_is = getattr(config, name), getattr(ours, name)
        if theirs_is != ours_is:
            raise InputError(f"{folder}: CHMv2 has {name} {theirs_is}, the decoder dpt {ours_is}")
    for name in _BACKBONE_OPTIONS:
        if not getattr(backbone_config, name, False):
            raise InputError(f"{folder}: CHMv2's backbone has {name} off; the decoder dpt needs it on")
