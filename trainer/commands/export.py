"""`treeline export`: a whole checkpoint, or its pre-trained backbone, in a folder of its own.

--to checkpoint      the checkpoint's files, with the frozen backbone that an unfinished run keeps beside them
--to transformers    config.json, model.safetensors as DINOv3ViTModel.from_pretrained loads them
                     treeline.json: bands, and everything that normalises their pixels
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from shards.errors import InputError
from shards.format.manifest import StoredObject
from shards.format.sealed import json_bytes
from shards.storage.objects import (
    check_writable,
    exists,
    join,
    missing_folders,
    publish,
    publish_folder,
    remove_new_folders,
)
from trainer.model.checkpoint import check_files, checkpoint_url
from trainer.model.normalise import Normalise
from trainer.model.pretrained import Pretrained, is_pretrained, load_pretrained
from trainer.pretrain_config import ExportConfig
from trainer.weights.checkpoint_sums import CONFIG, METRICS, STATISTICS, WEIGHTS, config_bytes, read_config
from trainer.weights.weights_apart import copy_weights

INPUT_FILE = "treeline.json"
"""File beside the weights that transformers reads, with what transformers has no place for."""
FORMAT = "treeline-export"
VERSION = 1
RULE = (
    "value = stored * scale + offset, or the formula of a derived band; "
    "pixel = (clip((value - clamp_min) / clamp_span, 0, 1) - mean) / std; missing values: pixel = 0"
)
"""Formula of `trainer.model.normalise`, for readers of INPUT_FILE."""


def export(config: ExportConfig) -> str:
    """Write the folder; return a line that says what it is.

    Raises:
        InputError: the run or the output cannot be used; nothing is written then.
    """
    if exists(config.out):
        raise InputError(f"{config.out}: is there already; choose another --out or delete it first")
    url = checkpoint_url(config.run)
    if not is_pretrained(url):
        return _export_trained(config, url)
    pretrained = load_pretrained(url, config.backbone_weights, "compute")
    check_writable(config.out)
    with _all_or_nothing(config.out):
        if config.to == "transformers":
            _write_for_transformers(config.out, pretrained)
        elif config.backbone_weights:
            for name, data in pretrained.files().items():
                publish(join(config.out, name), data)
        else:
            _copy(url, config.out)
    if config.to == "transformers":
        (name,) = pretrained.backbones
        what = f"{name} of {url}"
        return f"{config.out}: {what}, for DINOv3ViTModel.from_pretrained; {INPUT_FILE} describes its input"
    what = f"{config.backbone_weights or 'copy'} of {url}"
    return f"{config.out}: {what}"


def _export_trained(config: ExportConfig, url: str) -> str:
    """Write a whole copy of a checkpoint of `treeline train`."""
    if not exists(join(url, CONFIG)):
        raise InputError(
            f"{config.run}: no checkpoint is there; give a folder that treeline train or treeline pretrain "
            "wrote"
        )
    if config.to == "transformers" or config.backbone_weights:
        raise InputError(
            f"{config.run}: no checkpoint of a pre-training is there; give a folder that treeline pretrain "
            "wrote, or --to checkpoint alone"
        )
    check_files(url)
    check_writable(config.out)
    with _all_or_nothing(config.out):
        _copy(url, config.out)
    return f"{config.out}: copy of {url}"


@contextmanager
def _all_or_nothing(out: str) -> Iterator[None]:
    """Remove what was written if the block fails."""
    new_folders = missing_folders(out)
    try:
        yield
    except BaseException:
        remove_new_folders(new_folders)
        raise


def _copy(url: str, out: str) -> None:
    """Copy a checkpoint's files, its weights whole."""
    config, sums = read_config(url)
    copied = [copy_weights(join(url, WEIGHTS), join(out, WEIGHTS), sums)]
    for name in (STATISTICS, METRICS):
        data = sums.read(name)
        publish(join(out, name), data)
        copied.append(StoredObject.of(name, data))
    # config.json last: it says that the checkpoint is complete.
    publish(join(out, CONFIG), config_bytes(config, copied))


def _write_for_transformers(out: str, pretrained: Pretrained) -> None:
    ((_, backbone),) = pretrained.backbones.items()
    disable_progress_bar()  # transformers would draw its bar into every log
    with tempfile.TemporaryDirectory(prefix="treeline-") as scratch:
        backbone.save_pretrained(scratch)
        (Path(scratch) / INPUT_FILE).write_bytes(json_bytes(input_description(pretrained)))
        publish_folder(out, scratch)


def input_description(pretrained: Pretrained) -> dict[str, Any]:
    """Return what transformers has no place for, as plain JSON values."""
    normalise = Normalise(pretrained.schema, pretrained.bands, pretrained.statistics)
    columns = {
        "clamp_min": normalise.clamp_min_C,
        "clamp_span": normalise.clamp_span_C,
        "mean": normalise.mean_C,
        "std": normalise.std_C,
    }
    (weights,) = pretrained.backbones
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": pretrained.method,
        "weights": weights,
        "bands": list(pretrained.bands),
        "schema": pretrained.schema.to_json(),
        "pixels": {"rule": RULE, **{name: numbers_C.tolist() for name, numbers_C in columns.items()}},
        "statistics": pretrained.statistics.to_json(),
        "trained_on": pretrained.trained_on,
        "metrics": pretrained.metrics,
    }
