"""`treeline embed`: vectors of tiles, as Parquet files beside what is known of the tiles.

the encoder, without weights     trainer.model.load_encoder.load_encoder
-> tiles of a dataset or scenes  inference.embed.tiles.open_tiles
-> what is at --out              inference.embed.embeddings
-> missing parts, here or on Ray inference.embed.engine.Engine
-> embeddings.json, last
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference.config import EmbedConfig
from inference.embed.embedder import EmbedJob
from inference.embed.embeddings import (
    EMBEDDINGS,
    FORMAT,
    PLAN,
    VERSION,
    Part,
    part_files,
    part_name,
    read_about,
    whole_part,
)
from inference.embed.engine import Engine
from inference.embed.tiles import Tiles, numbers_of_part, open_tiles, part_count, tiles_per_part
from shards.errors import InputError
from shards.format.manifest import read_json, refuse_existing, write_json
from shards.progress import progress
from shards.raster.finding import Finding, findings_by_url, say_findings
from shards.roles import differing, flag_of, renewed
from shards.said import say
from shards.storage.objects import exists, join, remove_file, remove_unfinished
from shards.storage.one_writer import one_writer
from shards.version import made_by_code
from trainer.model.checkpoint import checkpoint_url
from trainer.model.load_encoder import LoadedEncoder, load_encoder


def embed(config: EmbedConfig, engine: Engine | Callable[[], Engine], names_arguments: bool = False) -> str:
    """Embed every tile that is not embedded yet. Only one run writes to a folder at a time.

    Args:
        config: the options.
        engine: what embeds, or a function that starts it, called once nothing is wrong with the options.
        names_arguments: whether notes name options as arguments, for Python.

    Returns:
        A line that says what is there.

    Raises:
        InputError: the checkpoint, the tiles, an option or --out cannot be used.
    """
    check_options(config)
    config = replace(config, checkpoint=checkpoint_url(config.checkpoint))
    loaded = load_encoder(config.checkpoint, config.weights, False, config.trust)
    tiles = open_tiles(config, loaded.encoder.schema)
    if tiles.remark:
        say(tiles.remark)
    patch_size = loaded.encoder.patch_size
    check_tile_size(tiles.size, patch_size, config.data or "--tile-size")
    per_part = tiles_per_part(config, (tiles.size // patch_size) ** 2)
    made_with = _made_with(config, loaded, tiles, per_part)
    refuse_existing(config.out)
    with one_writer(config.out):
        if _is_finished(config.out, made_with):
            return _said(config.out, read_about(config.out), there=True)
        findings = tiles.findings(loaded.encoder.statistics)
        say_findings(findings, config.on_mismatch, names_arguments=names_arguments)
        remove_unfinished(config.out, below=False)
        engine = engine() if callable(engine) else engine
        job = EmbedJob(config, made_with, per_part, engine.device)
        return _embed(job, loaded, tiles, findings, engine)


def _embed(
    job: EmbedJob,
    loaded: LoadedEncoder,
    tiles: Tiles,
    findings: Mapping[str, Sequence[Finding]],
    engine: Engine,
) -> str:
    """Embed what is missing, into a folder that only this process writes."""
    config, made_with, per_part = job.config, job.made_with, job.per_part
    parts = _kept(config.out, made_with, tiles, per_part)
    asked = engine.computes(config.precision)
    asked.say()
    write_json(join(config.out, PLAN), {**made_with, **made_by_code()})
    _embed_missing(parts, job, tiles, engine)
    if not any(part.rows for part in parts.values()):
        raise InputError(
            f"{config.data or ' '.join(config.scenes)}: no tile has a patch of which half is valid; choose "
            "other tiles"
        )
    about = _about(config, loaded, tiles, made_with, [parts[number] for number in sorted(parts)])
    about["computed_in"] = asked.precision
    if recorded := findings_by_url(findings):
        about["findings"] = recorded
    write_json(join(config.out, EMBEDDINGS), about)
    remove_file(join(config.out, PLAN))
    return _said(config.out, about, there=False)


def check_tile_size(size: int, patch_size: int, what: str) -> None:
    """Refuse tiles that patches do not cover; `what` names who chose them.

    Raises:
        InputError: says both sizes.
    """
    if size % patch_size:
        raise InputError(
            f"{what}: tiles of {size} pixels are no multiple of the backbone's patches of {patch_size} pixels"
        )


def check_options(config: EmbedConfig) -> None:
    """Refuse options that are out of range, or of which one rules out the other.

    Raises:
        InputError: says which.
    """
    if bool(config.data) == bool(config.scenes):
        raise InputError("give DATASET to embed its tiles, or --scenes to embed windows of scenes, not both")
    for name, least in (("batch_size", 1), ("tiles_per_part", 0), ("workers", 0), ("gpus_per_worker", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{flag_of(name)} {getattr(config, name)}: give {least} or more")
    if config.limit is not None and config.limit < 1:
        raise InputError(f"--limit {config.limit}: give 1 or more")


def _made_with(config: EmbedConfig, loaded: LoadedEncoder, tiles: Tiles, per_part: int) -> dict[str, Any]:
    """Name everything that the vectors depend on, and how they are cut into parts."""
    return {
        "checkpoint": loaded.fingerprint,
        "weights": loaded.name,
        "tokens": config.tokens,
        "bands": " ".join(loaded.encoder.bands),
        **tiles.identity,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "tiles_per_part": per_part,
    }


def _is_finished(out: str, made_with: dict[str, Any]) -> bool:
    """Tell whether the embeddings are there already.

    Raises:
        InputError: the folder has embeddings, finished or not, that are made with something else.
    """
    finished, begun = (exists(join(out, name)) for name in (EMBEDDINGS, PLAN))
    if not finished and not begun:
        if names := part_files(out):
            raise InputError(
                f"{out}: holds {names[0]}, but no {PLAN} says what it is made with; choose another --out"
            )
        return False
    there = read_about(out)["made_with"] if finished else read_json(join(out, PLAN))
    there = renewed(EmbedConfig, there)
    if differ := differing(EmbedConfig, there, made_with):
        what = ", ".join(f"{name} ({there.get(name)} there, {made_with.get(name)} now)" for name in differ)
        raise InputError(
            f"{out}: holds {'' if finished else 'unfinished '}embeddings made with another {what}; choose "
            "another --out"
        )
    return finished


def _kept(out: str, made_with: dict[str, Any], tiles: Tiles, per_part: int) -> dict[int, Part]:
    """Return the parts, by number, that an earlier process finished."""
    parts, there = {}, set(part_files(out))
    for number in range(part_count(per_part, tiles.count)):
        if part_name(number) in there:
            start, stop = numbers_of_part(number, per_part, tiles.count)
            if part := whole_part(out, number, stop - start, made_with):
                parts[number] = part
    return parts


def _embed_missing(parts: dict[int, Part], job: EmbedJob, tiles: Tiles, engine: Engine) -> None:
    """Add the missing parts."""

    def tiles_in(number: int) -> int:
        start, stop = numbers_of_part(number, job.per_part, tiles.count)
        return stop - start

    before = sum(map(tiles_in, parts))
    missing = [number for number in range(part_count(job.per_part, tiles.count)) if number not in parts]
    try:
        with progress("embed", tiles.count, "tiles", before) as advance:
            for number, part in engine.parts(missing, job):
                parts[number] = part
                advance(tiles_in(number))
    except BaseException as error:
        error.add_note("finished parts are kept; the same command resumes from there")
        raise


def _about(
    config: EmbedConfig, loaded: LoadedEncoder, tiles: Tiles, made_with: dict[str, Any], parts: list[Part]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": config.checkpoint,
        "checkpoint_fingerprint": loaded.fingerprint,
        "weights": loaded.name,
        "data": config.data or list(config.scenes),
        "tokens": config.tokens,
        "bands": list(loaded.encoder.bands),
        "width": loaded.encoder.width,
        "tiles": tiles.count,
        "without_pixels": sum(part.left_out for part in parts),
        "rows": sum(part.rows for part in parts),
        **made_by_code(),
        "made_with": made_with,
        "parts": [part.to_json() for part in parts],
    }


def _said(out: str, about: dict[str, Any], there: bool) -> str:
    """Say in a line what is at --out."""
    width, tokens = f"{about['width']:,} numbers", f"({about['tokens']} token)"
    if about["tokens"] == "patches":
        line = f"{out}: {about['tiles']:,} tiles, {about['rows']:,} patches of them as {width} each"
    else:
        line = f"{out}: {about['rows']:,} of {about['tiles']:,} tiles, each as {width} {tokens}"
    if about["without_pixels"]:
        line += f"; {about['without_pixels']:,} tiles without a valid patch are left out"
    return line + " (was there before)" * there
