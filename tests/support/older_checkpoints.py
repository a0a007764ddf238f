"""Checkpoints, and other files of JSON, as versions of before wrote them, without checksums."""

import json
from pathlib import Path

from shards.format.sealed import SEAL, json_bytes
from trainer.weights.checkpoint_sums import CONFIG, FILES


def without_sums(folder: Path) -> Path:
    """Take the checksums out of a checkpoint's config.json; returns its folder."""
    config = json.loads((folder / CONFIG).read_text())
    del config[FILES], config[SEAL]
    (folder / CONFIG).write_bytes(json_bytes(config))
    return folder


def without_checksum(file: Path) -> str:
    """Return the text of a JSON file without its checksum."""
    values = json.loads(file.read_text())
    del values[SEAL]
    return json_bytes(values).decode()
