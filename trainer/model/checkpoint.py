"""Checkpoints: folders from which a model can be built again, anywhere. Nothing is unpickled.

config.json          the model's parts, its images, its training data; sizes and checksums of the other files
                     and of itself (trainer.weights.checkpoint_sums); written last
model.safetensors    weights
statistics.json      statistics of the training chips, for the normalisation
metrics.json         scores so far, and the baselines
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import DINOv3ViTModel

from shards.errors import InputError, one_line
from shards.format.manifest import understood
from shards.format.schema import Schema
from shards.format.sealed import json_bytes
from shards.format.statistics import Statistics
from shards.storage.checksum import hexadecimal, hexadecimal_of_pieces
from shards.storage.objects import exists, join
from trainer.decoders.features import DecoderConfig
from trainer.model.empty_backbone import empty_backbone
from trainer.model.needed_shapes import check_decoder, check_fit, check_shape
from trainer.model.trust import check_trust
from trainer.score.epochs import numbering_of
from trainer.weights.checkpoint_sums import (
    CONFIG,
    METRICS,
    STATISTICS,
    WEIGHTS,
    FileSums,
    read_config,
    say_unchecked,
)
from trainer.weights.run_checkpoints import DAMAGED, read_run_checkpoints
from trainer.weights.weights_apart import REFERENCE, REST, any_entries, has_weights, read_any, weight_pieces
from trainer.weights.weights_file import check_size, entries_of, fill

Model = TypeVar("Model", bound=nn.Module)
Baselines = TypeVar("Baselines")
HEIGHTS = "treeline-checkpoint"
"""Format of a regressor; see trainer.model.height_checkpoint."""
PRETRAINED = "treeline-pretrained"
"""Format of a backbone without a regressor; see trainer.model.pretrained."""
TILES = "treeline-tile-checkpoint"
"""Format of a model of whole tiles; see trainer.model.tile_checkpoint."""
CLASSES = "treeline-class-checkpoint"
"""Format of a model of pixel classes; see trainer.model.class_checkpoint."""
Check = Callable[[str, dict[str, Any]], None]
"""Check of a checkpoint's URL and config.json that raises InputError."""


def checkpoint_url(url: str) -> str:
    """Find the checkpoint that `url` means: `url` itself, or the best one of the training run there.

    RUN/best and RUN/last mean the run's best and last checkpoints.

    Raises:
        InputError: the run has no such checkpoint any more.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    for run, which in ((url, "best"), (above, name)):
        if which in ("best", "last") and (found := read_run_checkpoints(run)):
            return found.url_of_best() if which == "best" else found.url_of_last()
    return url


@dataclass(frozen=True)
class CheckpointFolder:
    """Contents of a checkpoint's folder."""

    url: str
    """URL of the checkpoint itself."""
    config: dict[str, Any]
    """Description of the model."""
    statistics: Statistics
    """Statistics of the training chips."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch, and the baselines."""
    sums: FileSums
    """What its files must be."""
    with_weights: bool
    """Whether its models get the weights; otherwise they are on the device "meta" and take no memory."""

    @property
    def schema(self) -> Schema:
        """Format of the images."""
        return Schema.from_json(self.config["schema"])

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that the backbone sees, in its order."""
        return tuple(self.config["bands"])

    def backbone(self) -> DINOv3ViTModel:
        """Return the backbone, whose weights are to be loaded; it takes no memory yet."""
        return self._backbone

    @cached_property
    def _backbone(self) -> DINOv3ViTModel:
        check_shape(join(self.url, CONFIG), self.config["backbone"])
        return empty_backbone(self.config["backbone"])

    def pixel_model(self, kind: Callable[..., Model]) -> Model:
        """Build a model of pixels of this kind, whose weights are to be loaded."""
        decoder = DecoderConfig.from_json(self.config["decoder"])
        return kind(self.schema, self.bands, self.statistics, self.backbone(), decoder)

    def contents(
        self, make: Callable[[], Model], baselines_from: Callable[[Any], Baselines]
    ) -> tuple[Model, dict[str, Any], dict[str, Any], Baselines, str]:
        """Return the model with its weights, in eval mode, and what the checkpoint says about it.

        Args:
            make: makes the model, as the configuration describes it.
            baselines_from: reads its baselines from JSON.

        Returns:
            the model, its training data, its scores, the baselines, the checkpoint's fingerprint.

        Raises:
            InputError: a file of the checkpoint is damaged.
        """
        described = self._described(make)
        with understood(join(self.url, CONFIG), DAMAGED):
            model = make() if self.with_weights or described is None else described
            trained_on = self.config["trained_on"]
        with understood(join(self.url, METRICS), DAMAGED):
            metrics = dict(self.metrics)
            baselines = baselines_from(metrics.pop("baselines"))
            numbering_of(metrics)  # of which maps are made
        fingerprint = self.load_into(model)
        return model.eval(), trained_on, metrics, baselines, fingerprint

    def _described(self, make: Callable[[], Model]) -> Model | None:
        """Refuse weights that are not those of the model that config.json describes.

        Returns:
            the model on the device "meta"; None if the user's own decoder is a part of it, which may not be
            made there.

        Raises:
            InputError: names what does not fit.
        """
        file, url = join(self.url, CONFIG), join(self.url, WEIGHTS)
        with understood(file, DAMAGED):
            backbone, decoder = self.backbone(), self.config.get("decoder")
            if decoder is not None:
                check_decoder(file, decoder)
        with refusing_other_weights(url):
            entries = any_entries(url, self.sums)
        if decoder and "." in decoder["kind"]:
            check_fit(url, backbone.state_dict(), entries, "backbone.")
            return None
        with understood(file, DAMAGED), torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = make()
        check_fit(url, model.state_dict(), entries)
        return model

    def load_into(self, model: nn.Module) -> str:
        """Give a model the weights, or only see that they fit.

        Returns:
            the checkpoint's fingerprint: checksum of configuration, statistics and weights.

        Raises:
            InputError: they are another model's, or damaged.
        """
        checksum = load_weights(model, join(self.url, WEIGHTS), self.with_weights, self.sums)
        return fingerprint_of(self.config, self.statistics, checksum)


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """A checkpoint's description of its model, whatever it predicts."""

    schema: Schema
    """Format of the images that the model takes."""
    patch_size: int
    """Pixels along each side of a patch of its backbone."""
    has_spread: bool = False
    """Whether the model itself estimates how uncertain a height is."""
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, and the code's version."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    fingerprint: str
    """Fingerprint, the same as that of the loaded checkpoint."""
    statistics: Statistics
    """Statistics of the chips that normalise the images."""


def read_checkpoint_folder(name: str, check: Check, with_weights: bool, trust: str = "") -> CheckpointFolder:
    """Read the checkpoint at `name`, or the best of the run there.

    Args:
        name: folder of a checkpoint or a run.
        check: refuses a checkpoint of another format or version; see `check_version`.
        with_weights: whether its models get the weights.
        trust: import path of its decoder, if that is the user's own; see trainer.model.trust.

    Raises:
        InputError: it is incomplete, has another format or version, or names code that is not trusted.
    """
    url = checkpoint_url(name)
    if not exists(join(url, CONFIG)):
        raise _incomplete(url, CONFIG)
    config, sums = read_config(url)
    if sums.has(REST) and not exists(join(url, REST)):  # the run has ended meanwhile
        config, sums = read_config(url)
    check(url, config)
    if sums.has(REFERENCE):  # before it is followed
        sums.read(REFERENCE)
    check_files(url)
    check_trust(url, config, trust)
    say_unchecked(sums)
    return CheckpointFolder(url, config, read_statistics(sums), sums.read_json(METRICS), sums, with_weights)


def format_of(name: str) -> str:
    """Return the format of the checkpoint (or of the best one of the run) at `name`; "" if there is none."""
    url = checkpoint_url(name)
    return str(read_config(url)[0].get("format")) if exists(join(url, CONFIG)) else ""


def load_weights(model: nn.Module, url: str, with_weights: bool = True, sums: FileSums | None = None) -> str:
    """Give a model, whose backbone is empty, the weights of the file at `url`, or only see that they fit.

    Returns:
        the file's checksum.

    Raises:
        InputError: they are another model's, or damaged.
    """
    if not with_weights:
        return checksum_of_fitting(url, model, sums=sums)
    with refusing_other_weights(url):
        found = read_any(url, sums)
        fill(model, found.tensors)
    return found.checksum


def read_statistics(sums: FileSums) -> Statistics:
    """Read the statistics of a checkpoint.

    Raises:
        InputError: the file is damaged.
    """
    with understood(join(sums.url, STATISTICS), DAMAGED):
        return Statistics.from_json(sums.read_json(STATISTICS))


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
    if found == (None, None):
        raise InputError(f"{join(url, CONFIG)}: is not a checkpoint's (it names no format); {DAMAGED}")
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
            raise _incomplete(url, name)


def _incomplete(url: str, name: str) -> InputError:
    return InputError(f"{url}: not a checkpoint ({name} is missing); give a folder that treeline train wrote")


@contextmanager
def refusing_other_weights(url: str, kind: str = "model") -> Iterator[None]:
    """Refuse in one line weights at `url` that are not those of this kind of model.

    Raises:
        InputError: the block failed because they do not fit, or are damaged.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{url}: not this {kind}'s weights ({one_line(error)[:200]}); {DAMAGED}") from error


def checksum_of_fitting(url: str, model: nn.Module, prefix: str = "", sums: FileSums | None = None) -> str:
    """Move `model` to the device "meta"; compute the checksum of the weights at `url`, piece by piece.

    Args:
        url: the file of weights.
        model: the model that they are to fit.
        prefix: prefix of the names of its weights in the file; others are left out.
        sums: what the checkpoint's files must be; default: not known.

    Raises:
        InputError: they are cut off, or another model's, or not those that were written.
    """
    pieces = weight_pieces(url, sums)
    first = next(pieces, b"")
    with refusing_other_weights(url, "backbone" if prefix else "model"):
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
