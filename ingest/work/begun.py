"""What an ingest takes over from the one at --out that it resumes or adds to."""

from dataclasses import replace
from typing import Any

from ingest.config import IngestConfig, made_by
from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.manifest import JOURNAL, MANIFEST, Manifest, read_json, read_manifest
from shards.format.shard_cut import SHARD_BYTES
from shards.own_parts import note_changes, recorded
from shards.roles import as_begun, differing, flag_of
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


def differ(config: IngestConfig, base: Manifest) -> list[str]:
    """Return the names of options whose values differ from those of the dataset at --out."""
    return differing(type(config), base.made_by.get("config", {}), made_by(config)["config"])


def taken(config: IngestConfig, base: Manifest) -> InputError:
    """Say that there is another dataset at --out, and what to do."""
    names = differ(config, base)
    if names:
        what = f"made with other options ({', '.join(map(flag_of, names))})"
    else:
        what = "which --restart does not make again" if config.restart else "made from other files"
    add = "choose another --out, delete it, or add to it with --append"
    cure = "choose another --out, or delete it" if "height_unit" in names else add  # see `same_unit`
    return InputError(f"{config.out}: already holds a dataset, {what}; {cure}")
