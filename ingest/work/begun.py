"""What an ingest takes over from the one at --out that it resumes or adds to."""

from dataclasses import replace
from typing import Any

from ingest.config import IngestConfig
from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.manifest import JOURNAL, MANIFEST, read_json, read_manifest
from shards.format.shard_cut import SHARD_BYTES
from shards.own_parts import note_changes, recorded
from shards.roles import as_begun
from shards.storage.objects import exists, join

PLAN = f"{JOURNAL}/plan.json"
"""Description of what an unfinished ingest makes."""


def as_it_began(config: IngestConfig) -> IngestConfig:
    """Take over from the ingest at --out, unfinished or complete, what the user did not say."""
    record = _record(config)
    note_changes(record, recorded(config), config.out)
    begun = record.get("config") or {}
    asked, config = config, as_begun(config, begun)
    if not config.append:
        return config
    if not exists(join(config.out, PLAN)) and config.split_by != SplitOptions.split_by:
        # Additions follow the split that the dataset has now, not the one that it began with.
        config = replace(config, split_by=asked.split_by)
    if config.shard_bytes == SHARD_BYTES:  # the default: most likely not given
        config = replace(config, shard_bytes=begun.get("shard_bytes", SHARD_BYTES))
    return config


def _record(config: IngestConfig) -> dict[str, Any]:
    """Return how the ingest at --out was made, unfinished or complete; {} if nothing is there."""
    try:
        if exists(join(config.out, PLAN)) and not config.restart:
            return read_json(join(config.out, PLAN))
        if exists(join(config.out, MANIFEST)):
            return read_manifest(config.out).made_by
    except InputError:  # half-written when a machine stopped; refused later, unless --restart forgets it
        pass
    return {}
