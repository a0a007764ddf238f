"""Files of a checkpoint as bytes, from a model in memory; trainer.model.checkpoint reads them."""

from typing import Any

from safetensors.torch import save
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from shards.format.sealed import json_bytes
from shards.format.statistics import Statistics
from trainer.devices.learner import Learner
from trainer.devices.sharding import whole
from trainer.model.pixel_model import PixelModel
from trainer.model.trainable import merged
from trainer.weights.checkpoint_sums import CONFIG, METRICS, STATISTICS, WEIGHTS, described
from trainer.weights.weights_apart import REST


def pixel_files(
    kind: tuple[str, int], model: PixelModel, trained_on: dict[str, Any], metrics: dict[str, Any]
) -> dict[str, bytes]:
    """Return the files of a checkpoint of a model of pixels by name; config.json comes last.

    Args:
        kind: the checkpoint's format and its version.
        model: the model.
        trained_on: description of its training data and code.
        metrics: its scores, and the baselines.
    """
    format_name, version = kind
    config = {
        "format": format_name,
        "version": version,
        "schema": model.schema.to_json(),
        "bands": list(model.bands),
        "backbone": model.backbone.config.to_diff_dict(),
        "decoder": model.decoder_config.to_json(),
        "trained_on": trained_on,
    }
    return checkpoint_files(config, weights_files(model, model.backbone), model.statistics, metrics)


def checkpoint_files(
    config: dict[str, Any], weights: dict[str, bytes], statistics: Statistics, metrics: dict[str, Any]
) -> dict[str, bytes]:
    """Return a checkpoint's files by name, those of its `weights` first; config.json comes last."""
    return described(
        {
            **weights,
            STATISTICS: json_bytes(statistics.to_json()),
            METRICS: json_bytes(metrics),
            CONFIG: json_bytes(config),
        }
    )


def weights_files(model: Learner, backbone: DINOv3ViTModel) -> dict[str, bytes]:
    """Return a model's weights as a file, by its name: `REST` if some are set apart, else `WEIGHTS`."""
    return {REST if model.apart else WEIGHTS: save(weights_of(model, backbone))}


def weights_of(model: nn.Module, backbone: DINOv3ViTModel, keep: bool = True) -> dict[str, Tensor]:
    """Return all weights of a model, its backbone's adapters folded in, or none where `keep` is false.

    What is set apart is left out. If the model is sharded, every rank must call this: gathering weights takes
    all ranks.
    """
    weights = dict[str, Tensor]()
    apart = model.apart.names if isinstance(model, Learner) and model.apart else ()
    with merged(backbone):
        for name, value in model.state_dict().items():
            if name in apart:
                continue
            # One by one to the CPU: a GPU has no room for all weights of a sharded model.
            gathered = whole(value)
            if keep:
                weights[name] = gathered.cpu().contiguous()
    return weights
