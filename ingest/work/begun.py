"""What an ingest takes over from the one at --out that it resumes or adds to."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ingest.config import IngestConfig, made_by
from shards.config import SplitOptions
from shards.errors import InputError
from shards.format.manifest import JOURNAL, MANIFEST, AttributeType, Manifest, read_json, read_manifest
from shards.format.shard_cut import SHARD_BYTES
from shards.nested import options_of
from shards.own_parts import note_changes, recorded
from shards.roles import as_begun, differing, flag_of, renewed
from shards.storage.json_marks import HEXADECIMAL, AtLeast
from shards.storage.objects import exists, join
from shards.storage.typed_json import typed, typed_as

PLAN = f"{JOURNAL}/plan.json"
"""Description of what an unfinished ingest makes."""
FORGET = "give --restart to forget it"
"""What to do about an unfinished ingest that cannot be finished."""
FINISH = f"finish it with the command that began it, or {FORGET}"
"""What to do about an unfinished ingest of something else."""


@dataclass(frozen=True)
class Begun:
    """Content of plan.json that is read again; the record of how the dataset is made stands beside it."""

    fingerprint: Annotated[str, HEXADECIMAL]
    """Fingerprint of the plan."""
    shards: Annotated[int, AtLeast(0)] = 0
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Lines about the input, by code."""
    attributes: dict[str, AttributeType] | None = None
    """Types of the index's further columns; None in plans of former versions."""
    config: dict[str, Any] = field(default_factory=dict)
    own_parts: dict[str, Any] = field(default_factory=dict)


def read_begun(out: str) -> Begun:
    """Read what an unfinished ingest at `out` makes.

    Raises:
        InputError: its plan is damaged.
    """
    url = join(out, PLAN)
    return typed(read_json(url, cure=FORGET), Begun, url, FORGET, strict=False)


def as_it_began(config: IngestConfig) -> IngestConfig:
    """Take over from the ingest at --out, unfinished or complete, what the user did not say."""
    record = _record(config)
    note_changes(record, recorded(config), config.out)
    begun = record.get("config") or {}
    _check_options(config, begun)
    asked, config = config, as_begun(config, begun)
    if not config.append:
        return config
    if not exists(join(config.out, PLAN)) and config.split_by != SplitOptions.split_by:
        # Additions follow the split that the dataset has now, not the one that it began with.
        config = replace(config, split_by=asked.split_by)
    if config.shard_bytes == SHARD_BYTES:  # the default: most likely not given
        config = replace(config, shard_bytes=begun.get("shard_bytes", SHARD_BYTES))
    return config


def _check_options(config: IngestConfig, begun: dict[str, Any]) -> None:
    """Refuse recorded options of types that the options do not have: some are taken over."""
    options = options_of(type(config))
    for name, value in renewed(type(config), begun).items():
        if name in options:
            typed_as(value, options[name].kind, f"{config.out}: recorded option {name}", FINISH)


def _record(config: IngestConfig) -> dict[str, Any]:
    """Return how the ingest at --out was made, unfinished or complete; {} if nothing is there."""
    try:
        if exists(join(config.out, PLAN)) and not config.restart:
            return vars(read_begun(config.out))
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
