"""Pre-trained backbones: folders from which training starts, with all that normalises their input.

config.json          method, images, bands, shape of the backbone, training data; written last
model.safetensors    weights of each encoder: teacher and student, or the student alone
statistics.json      statistics of the tiles, for the normalisation
metrics.json         scores so far
"""

from dataclasses import dataclass
from typing import Any, Literal

from safetensors.torch import save
from torch import Tensor
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.manifest import understood
from shards.format.schema import Schema
from shards.format.sealed import json_bytes
from shards.format.statistics import Statistics
from shards.storage.checksum import hexadecimal
from shards.storage.objects import exists, join, size_of
from trainer.model.backbone import build_backbone
from trainer.model.backbone_names import check_backbone
from trainer.model.checkpoint import (
    PRETRAINED,
    check_version,
    checkpoint_url,
    checksum_of_fitting,
    format_of,
    read_statistics,
    refusing_other_weights,
)
from trainer.model.checkpoint_files import checkpoint_files, weights_of
from trainer.model.empty_backbone import draw_as_built, empty_backbone
from trainer.model.needed_shapes import check_fit, check_shape
from trainer.model.no_backbone import NONE
from trainer.weights.checkpoint_sums import (
    CONFIG,
    METRICS,
    STATISTICS,
    WEIGHTS,
    FileSums,
    read_config,
    say_unchecked,
)
from trainer.weights.run_checkpoints import DAMAGED
from trainer.weights.weights_file import fill, read_entries, read_tensors

VERSION = 1
RANDOM = "random"
"""Name that asks for a backbone as of the run, with weights that are random."""
Purpose = Literal["train", "compute", "describe"]
"""Purposes of a loaded backbone."""


@dataclass(frozen=True)
class Pretrained:
    """Backbones of a pre-training, and what their input must be."""

    method: str
    """Method, dino or mae."""
    schema: Schema
    """Format of the images."""
    bands: tuple[str, ...]
    """Bands that the backbones see, in their order."""
    statistics: Statistics
    """Statistics of the tiles, with which pixels are normalised."""
    backbones: dict[str, DINOv3ViTModel]
    """Backbones by name; the one that is used unless another is named comes first."""
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, choice of its tiles, and the code's version and commit."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    fingerprint: str = ""
    """Checksum of configuration, statistics and weights; empty where they are to be trained on."""

    def check_images(self, name: str, bands: tuple[str, ...], schema: Schema) -> None:
        """Refuse images that these backbones were not trained on.

        Args:
            name: folder of the backbones, for the message.
            bands: bands that are to be put in, in their order.
            schema: format of the images.

        Raises:
            InputError: the bands or their values differ; says which.
        """
        if bands != self.bands:
            raise InputError(
                f"--backbone {name}: was pre-trained on the bands {' '.join(self.bands)}, not on "
                f"{' '.join(bands)}; give --bands {' '.join(self.bands)}"
            )
        for band in bands:
            ours, theirs = ((one.derived_band(band), has_unit(one, band)) for one in (self.schema, schema))
            if ours != theirs:
                raise InputError(
                    f"--backbone {name}: band {band} has other values here than in pre-training (its "
                    "formula, or numbers without a unit); see treeline split --derive, --scale and --offset"
                )

    def files(self) -> dict[str, bytes]:
        """Return the folder's files by name; config.json comes last."""
        weights = backbone_weights(self.backbones)
        shape = next(iter(self.backbones.values())).config.to_diff_dict()
        config = {
            "format": PRETRAINED,
            "version": VERSION,
            "method": self.method,
            "schema": self.schema.to_json(),
            "bands": list(self.bands),
            "backbones": list(self.backbones),
            "backbone": shape,
            "trained_on": self.trained_on,
        }
        return checkpoint_files(config, {WEIGHTS: save(weights)}, self.statistics, self.metrics)


def backbone_weights(backbones: dict[str, DINOv3ViTModel], keep: bool = True) -> dict[str, Tensor]:
    """Return the weights of backbones by name, or none where `keep` is false; see `weights_of`."""
    return {
        f"{name}.{key}": value
        for name, backbone in backbones.items()
        for key, value in weights_of(backbone, backbone, keep).items()
    }


def is_pretrained(name: str) -> bool:
    """Tell whether a folder is a pre-training run, or one of its checkpoints."""
    return format_of(name) == PRETRAINED


def check_start(name: str) -> None:
    """Refuse a backbone that training cannot start from, as far as can be known without reading its weights.

    Raises:
        InputError: nothing is there, on the hub either, or it cannot be had from there.
    """
    if name in ("tiny", NONE) or is_pretrained(name):
        return
    if name.endswith(".pth"):
        size_of(name)
    else:
        check_backbone(name)


def load_pretrained(name: str, weights: str | None = None, purpose: Purpose = "train") -> Pretrained:
    """Load the pre-trained backbone at `name` (or the best of the run there), on the CPU.

    Args:
        name: folder of a checkpoint, or of a run.
        weights: name of the backbone, or "random" for one of the same shape that starts at random; default:
            the first one, the teacher's where there is one.
        purpose: "train": draw random numbers as for a random backbone, so that decoders start alike;
            "compute": draw none, and compute the fingerprint; "describe": the same, but with the backbone on
            the device "meta", without weights.

    Returns:
        the folder's content, with that backbone alone.

    Raises:
        InputError: it is incomplete, damaged, of another version, or has no such backbone.
    """
    sums, config, chosen = _described(name, weights)
    url, checksum = sums.url, ""
    with understood(join(url, CONFIG), DAMAGED):
        schema, bands = Schema.from_json(config["schema"]), tuple(config["bands"])
        method, trained_on = config["method"], config["trained_on"]
        check_shape(join(url, CONFIG), config["backbone"])
        empty = empty_backbone(config["backbone"])
        first = f"{chosen if chosen != RANDOM else config['backbones'][0]}."
    with refusing_other_weights(join(url, WEIGHTS), "backbone"):
        entries = read_entries(join(url, WEIGHTS))
    check_fit(join(url, WEIGHTS), empty.state_dict(), entries, first)
    if chosen == RANDOM:
        backbone = build_backbone(config["backbone"])
    else:
        if purpose == "train":
            draw_as_built(config["backbone"])
        backbone = empty
        checksum = _load_weights(backbone, sums, f"{chosen}.", purpose)
    statistics = read_statistics(sums)
    return Pretrained(
        method,
        schema,
        bands,
        statistics,
        {chosen: backbone},
        trained_on,
        sums.read_json(METRICS),
        _fingerprint(config, sums, checksum) if checksum and purpose != "train" else "",
    )


def _load_weights(backbone: DINOv3ViTModel, sums: FileSums, prefix: str, purpose: Purpose) -> str:
    """Give a backbone those weights of a checkpoint whose names begin with `prefix`.

    Returns:
        the file's checksum; "" where it is to train, and there is nothing to compare it with.
    """
    url = join(sums.url, WEIGHTS)
    if purpose == "describe":
        return checksum_of_fitting(url, backbone, prefix, sums)
    sums.check_size(WEIGHTS)
    with refusing_other_weights(url, "backbone"):
        found = read_tensors(url, prefix, with_checksum=purpose == "compute" or bool(sums))
        sums.check_sum(WEIGHTS, found.checksum)
        fill(backbone, found.tensors)
    return found.checksum


def _fingerprint(config: dict[str, Any], sums: FileSums, weights: str) -> str:
    """Compute a checkpoint's fingerprint; `weights` is the checksum of its weights."""
    described = map(hexadecimal, (json_bytes(config), sums.read(STATISTICS)))
    return hexadecimal("".join([*described, weights]).encode())


def pretrained_bands(name: str, weights: str | None = None) -> tuple[str, ...]:
    """Return the bands of the pre-trained backbone at `name`, without reading its weights.

    Raises:
        InputError: see `load_pretrained`.
    """
    sums, config, _ = _described(name, weights)
    with understood(join(sums.url, CONFIG), DAMAGED):
        return tuple(config["bands"])


def _described(name: str, weights: str | None) -> tuple[FileSums, dict[str, Any], str]:
    """Return the checkpoint's checksums, its config.json, and the name of the backbone that is meant."""
    url = checkpoint_url(name)
    config, sums = read_config(url)
    check_version(url, config, PRETRAINED, VERSION)
    for file in (WEIGHTS, STATISTICS, METRICS):
        if not exists(join(url, file)):
            raise InputError(f"{url}: {file} is missing; give a folder that treeline pretrain wrote")
    with understood(join(url, CONFIG), DAMAGED):
        names = tuple(config["backbones"])
        chosen = weights or names[0]
    if chosen not in (*names, RANDOM):
        raise InputError(f"weights {chosen}: {url} has only {', '.join(names)}; choose one of them")
    say_unchecked(sums)
    return sums, config, chosen


def has_unit(schema: Schema, band: str) -> bool:
    """Tell whether a band's values are floats or scaled numbers, which mean the same in any archive."""
    made = schema.derived_band(band)
    stored = [band] if made is None else [made.first, made.second]
    return schema.dtype == "float32" or all(map(schema.is_scaled, stored))
