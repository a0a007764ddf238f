"""Checkpoints: folders from which a regressor can be built again, anywhere. Nothing is unpickled.

config.json          the model's parts, its images, its training data; written last
model.safetensors    weights
statistics.json      statistics of the training chips, for the normalisation
metrics.json         scores so far, and the baselines
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from shards.errors import InputError, one_line
from shards.format.manifest import json_bytes, read_json
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.storage.checksum import hexadecimal, hexadecimal_of_pieces
from shards.storage.objects import exists, join, publish
from trainer.decoders.features import DecoderConfig
from trainer.devices.learner import Learner
from trainer.devices.sharding import whole
from trainer.model.empty_backbone import empty_backbone
from trainer.model.pixel_model import PixelModel
from trainer.model.regressor import Regressor
from trainer.model.trainable import merged
from trainer.model.weights_apart import REST, has_weights, read_any, weight_pieces
from trainer.model.weights_file import check_size, entries_of, fill
from trainer.score.baselines import Baselines

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
STATISTICS = "statistics.json"
METRICS = "metrics.json"
CHECKPOINTS = "checkpoints.json"
"""File in a run's folder that names its checkpoints."""
FORMAT = "treeline-checkpoint"
PRETRAINED = "treeline-pretrained"
"""Format of a backbone without a regressor; see trainer.model.pretrained."""
TILES = "treeline-tile-checkpoint"
"""Format of a model of whole tiles; see trainer.model.tile_checkpoint."""
CLASSES = "treeline-class-checkpoint"
"""Format of a model of pixel classes; see trainer.model.class_checkpoint."""
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A regressor with its training data, scores and baselines."""

    regressor: Regressor
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, choice of its chips, and the code's version and commit."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    baselines: Baselines
    fingerprint: str = ""
    """Checksum of configuration, statistics and weights; empty unless the checkpoint was loaded."""

    def save(self, url: str) -> None:
        """Write the folder at `url`."""
        for name, data in self.files().items():
            publish(join(url, name), data)

    def files(self) -> dict[str, bytes]:
        """Return the folder's files by name; config.json comes last."""
        metrics = {**self.metrics, "baselines": self.baselines.to_json()}
        return pixel_files((FORMAT, VERSION), self.regressor, self.trained_on, metrics)


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
    return {
        **weights,
        STATISTICS: json_bytes(statistics.to_json()),
        METRICS: json_bytes(metrics),
        CONFIG: json_bytes(config),
    }


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


def checkpoint_url(url: str) -> str:
    """Find the checkpoint that `url` means: `url` itself, or the best one of the training run there.

    RUN/best and RUN/last mean the run's best and last checkpoints.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    for run, which in ((url, "best"), (above, name)):
        if which in ("best", "last") and exists(join(run, CHECKPOINTS)):
            names = read_json(join(run, CHECKPOINTS))
            return join(run, names["best"][0] if which == "best" else names["last"])
    return url


def load_checkpoint(url: str, with_weights: bool = True) -> Checkpoint:
    """Load the checkpoint at `url` (or the best of the run there), on the CPU, in eval mode.

    Args:
        url: folder of a checkpoint or a run.
        with_weights: whether to load the weights. Without them the regressor is on the device "meta", which
            describes it and takes no memory.

    Raises:
        InputError: there is no checkpoint, or it is incomplete.
    """
    described = _described(url)
    regressor = described.regressor(empty_backbone(described.config["backbone"]))
    checksum = load_weights(regressor, described.weights_url, with_weights)
    baselines = Baselines.from_json(described.metrics.pop("baselines"))
    fingerprint = described.fingerprint(checksum)
    return Checkpoint(
        regressor.eval(), described.config["trained_on"], described.metrics, baselines, fingerprint
    )


def load_weights(model: nn.Module, url: str, with_weights: bool = True) -> str:
    """Give a model, whose backbone is empty, the weights of the file at `url`, or only see that they fit.

    Returns:
        the file's checksum.

    Raises:
        InputError: they are another model's, or damaged.
    """
    if not with_weights:
        return checksum_of_fitting(url, model)
    with refusing_other_weights(url):
        found = read_any(url)
        fill(model, found.tensors)
    return found.checksum


@dataclass(frozen=True)
class CheckpointHeader:
    """A checkpoint's description of its regressor."""

    schema: Schema
    """Format of the images that the regressor takes."""
    patch_size: int
    """Pixels along each side of a patch of its backbone."""
    decoder: DecoderConfig
    has_spread: bool
    """Whether the decoder itself estimates how uncertain a height is."""
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, and the code's version."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    fingerprint: str
    """Fingerprint, the same as that of the loaded checkpoint."""
    statistics: Statistics
    """Statistics of the chips that normalise the images."""


def read_checkpoint_header(url: str) -> CheckpointHeader:
    """Read the description of the checkpoint at `url` without holding its weights in memory.

    The weights are read once, piece by piece, for the fingerprint.

    Raises:
        InputError: there is no checkpoint, or its weights are cut off, or they belong to another regressor.
    """
    described = load_checkpoint(url, with_weights=False)
    regressor = described.regressor
    return CheckpointHeader(
        regressor.schema,
        regressor.patch_size,
        regressor.decoder_config,
        regressor.decoder.has_spread,
        described.trained_on,
        described.metrics,
        described.fingerprint,
        regressor.statistics,
    )


@dataclass(frozen=True)
class _Described:
    """A checkpoint's files without the weights."""

    weights_url: str
    config: dict[str, Any]
    statistics: Statistics
    metrics: dict[str, Any]

    def regressor(self, backbone: DINOv3ViTModel) -> Regressor:
        """Build the regressor; its decoder's weights are random."""
        return Regressor(
            Schema.from_json(self.config["schema"]),
            tuple(self.config["bands"]),
            self.statistics,
            backbone,
            DecoderConfig.from_json(self.config["decoder"]),
        )

    def fingerprint(self, weights: str) -> str:
        """Compute the checkpoint's fingerprint from the checksum of its weights."""
        return fingerprint_of(self.config, self.statistics, weights)


def _described(url: str) -> _Described:
    url = checkpoint_url(url)
    check_files(url)
    config = read_json(join(url, CONFIG))
    if config.get("format") == PRETRAINED:
        raise InputError(
            f"{url}: holds a pre-trained backbone, not a regressor; train one (treeline train --backbone)"
        )
    if config.get("format") == TILES:
        raise InputError(
            f"{url}: predicts {config['head']['label']} of whole tiles, no heights; give a checkpoint of "
            "heights"
        )
    if config.get("format") == CLASSES:
        raise InputError(
            f"{url}: predicts classes of {config['schema']['label']}, no heights; give a checkpoint of "
            "heights"
        )
    check_version(url, config, FORMAT, VERSION)
    statistics = Statistics.from_json(read_json(join(url, STATISTICS)))
    return _Described(join(url, WEIGHTS), config, statistics, read_json(join(url, METRICS)))


def fingerprint_of(config: dict[str, Any], statistics: Statistics, weights: str) -> str:
    """Compute a checkpoint's fingerprint; `weights` is the checksum of its weights."""
    described = map(hexadecimal, (json_bytes(config), json_bytes(statistics.to_json())))
    return hexadecimal("".join([*described, weights]).encode())


def check_version(url: str, config: dict[str, Any], kind: str, version: int) -> None:
    """Refuse the checkpoint at `url` if its config.json has another format or version.

    Raises:
        InputError: says which it has.
    """
    found = config.get("format"), config.get("version")
    if found != (kind, version):
        raise InputError(
            f"{url}: holds {found[0]} {found[1]}, not {kind} {version}; use the version of Treeline that "
            "wrote it, or train again"
        )


def check_files(url: str) -> None:
    """Refuse a folder that is no checkpoint, or lacks a part of it.

    Raises:
        InputError: says what is missing.
    """
    for name in (CONFIG, WEIGHTS, STATISTICS, METRICS):
        file = join(url, name)
        if not (has_weights(file) if name == WEIGHTS else exists(file)):
            raise InputError(
                f"{url}: not a checkpoint ({name} is missing); give a folder that treeline train wrote"
            )


@contextmanager
def refusing_other_weights(url: str, kind: str = "regressor") -> Iterator[None]:
    """Refuse in one line weights at `url` that are not those of this kind of model.

    Raises:
        InputError: the block failed because they do not fit, or are damaged.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{url}: not this {kind}'s weights ({one_line(error)[:200]})") from error


def checksum_of_fitting(url: str, model: nn.Module, prefix: str = "") -> str:
    """Move `model` to the device "meta"; compute the checksum of the weights at `url`, piece by piece.

    Args:
        url: the file of weights.
        model: the model that they are to fit.
        prefix: prefix of the names of its weights in the file; others are left out.

    Raises:
        InputError: they are cut off, or another model's.
    """
    pieces = weight_pieces(url)
    first = next(pieces, b"")
    with refusing_other_weights(url, "backbone" if prefix else "regressor"):
        entries = entries_of(first)
        shapes = {
            entry.name.removeprefix(prefix): torch.empty(entry.shape, device="meta")
            for entry in entries
            if entry.name.startswith(prefix)
        }
        model.to("meta").load_state_dict(shapes)
        digest, found_bytes = hexadecimal_of_pieces(chain([first], pieces))
        check_size(entries, first, found_bytes)
    return digest
