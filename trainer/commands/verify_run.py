"""`treeline verify` of what training leaves: a run with its checkpoints and its state, and a token store."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from shards.errors import InputError
from shards.format.manifest import StoredObject, has_checksum, read_json, read_manifest
from shards.format.verified import ERRORS, Found, compared
from shards.progress import progress
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.objects import exists, find_files, join, read_pieces, size_of
from shards.storage.typed_json import typed_as
from trainer.data.token_store import MANIFEST as TOKENS
from trainer.model.verify_checkpoint import verify_checkpoint
from trainer.run_folder.metrics_file import METRICS, read_metrics
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.state_parts import PARTS, STATE, SUMS, read_about
from trainer.run_folder.verdict_file import VERDICT, read_verdict
from trainer.score.chip_scores import CHIPS, read_chip_scores
from trainer.score.evaluation import FOLDER, SCORES, changed_files
from trainer.score.examples import EXAMPLES, read_examples
from trainer.weights.run_checkpoints import CHECKPOINTS, read_run_checkpoints

_EPOCH = re.compile(r"(epoch-\d+)/")
_BACKBONE = re.compile(r"backbone-([0-9a-f]{16})\.safetensors")


def is_run(url: str) -> bool:
    """Tell whether a folder is that of a run."""
    return exists(join(url, CONFIG)) and (exists(join(url, CHECKPOINTS)) or exists(join(url, STATE)))


def verify_run(url: str) -> Found:
    """Read everything in the folder of a run.

    Returns:
        what is wrong, and what cannot be compared.
    """
    files = find_files(url)
    folders = sorted({found[1] for found in map(_EPOCH.match, files) if found})
    problems, left = list[str](), list[str]()
    for read in (read_options_of, read_metrics, read_verdict, _named_checkpoints, _evaluation):
        try:
            read(url)
        except ERRORS as error:
            problems.append(str(error))
    with progress("verify", len(folders) + 2, "parts") as advance:
        for folder in folders:
            wrong, not_compared = verify_checkpoint(join(url, folder))
            problems += wrong
            left += not_compared
            advance(1, f"problems: {len(problems):,}")
        problems += _of_backbones(url, files)
        advance(1)
        wrong, not_compared = _of_state(url) if STATE in files else ([], [])
        advance(1)
    known = {CONFIG, METRICS, VERDICT, CHECKPOINTS, STATE}
    for name in files:
        is_known = name in known or _BACKBONE.fullmatch(name) or name.startswith((f"{PARTS}/", f"{FOLDER}/"))
        if not is_known and not _EPOCH.match(name) and not name.rsplit("/", 1)[-1].startswith("."):
            not_compared.append(f"{join(url, name)}: has no checksum, so it is not compared")
    for name in (CHECKPOINTS, VERDICT, f"{FOLDER}/{SCORES}"):
        with suppress(*ERRORS):
            if name in files and not has_checksum(join(url, name)):
                not_compared.append(f"{join(url, name)}: an earlier version wrote it without a checksum")
    trained = _trained_on(url)
    return [*problems, *wrong, *trained[0]], [*left, *not_compared, *trained[1]]


def read_options_of(url: str) -> None:
    """Read a run's options.

    Raises:
        InputError: they are damaged.
    """
    read_options(join(url, CONFIG))


def _named_checkpoints(url: str) -> None:
    names = read_run_checkpoints(url)
    if names:
        names.url_of_last()
        names.url_of_best()


def _evaluation(url: str) -> None:
    folder = join(url, FOLDER)
    if exists(join(folder, SCORES)):
        for wrong in changed_files(folder, read_json(join(folder, SCORES))).values():
            raise InputError(wrong)
    readers: tuple[tuple[str, Callable[[str], object]], ...]
    readers = ((CHIPS, read_chip_scores), (EXAMPLES, read_examples))
    for name, read in readers:
        if exists(join(folder, name)):
            read(folder)


def _of_backbones(url: str, files: list[str]) -> Iterator[str]:
    for name in files:
        named = _BACKBONE.fullmatch(name)
        if named and hexadecimal_of_pieces(read_pieces(join(url, name)))[0] != named[1]:
            yield f"{join(url, name)}: its checksum is not the one in its name; copy it again"


def _of_state(url: str) -> Found:
    try:
        about = read_about(url)
    except ERRORS as error:
        return [str(error)], []
    problems = list[str]()
    for part in about["parts"]:
        file, stated = join(url, part), about.get(SUMS, {}).get(part)
        try:
            if stated is None:
                size_of(file)
            else:
                problems += compared(url, StoredObject(part, stated["nbytes"], stated["xxh3"]))
        except ERRORS as error:
            problems.append(str(error))
    if SUMS in about:
        return problems, []
    return problems, [f"{join(url, STATE)}: an earlier version wrote it without checksums of its parts"]


def _trained_on(url: str) -> Found:
    """Compare the dataset that a run was trained on, if it is here, with what the run says of it."""
    try:
        names = read_run_checkpoints(url)
        config = read_json(join(names.url_of_last(), "config.json")) if names else {}
        made = config.get("trained_on", {})
        data, fingerprint = str(made.get("data", "")), str(made.get("fingerprint", ""))
    except (*ERRORS, AttributeError):
        return [], []
    try:
        now = read_manifest(data).fingerprint if data else ""
    except (*ERRORS, OSError, ValueError):
        now = ""
    if not now:
        return [], [f"{url}: its dataset, {data or 'unknown'}, is not here, so it is not compared"]
    if now != fingerprint:
        return [
            f"{data}: has changed since {url} was trained on it (fingerprint {fingerprint} then, {now} now)"
        ], []
    return [], []


def is_token_store(url: str) -> bool:
    """Tell whether a folder is a token store."""
    return exists(join(url, TOKENS))


def verify_token_store(url: str) -> Found:
    """Read every file that a token store lists; return what is wrong, and what cannot be compared."""
    where = join(url, TOKENS)
    try:
        cure = "delete the store, and the next run makes it again"
        objects: tuple[StoredObject, ...] = typed_as(
            read_json(where, cure=cure).get("objects"), tuple[StoredObject, ...], f"{where}: objects", cure
        )
    except ERRORS as error:
        return [str(error)], []
    problems = list[str]()
    with progress("verify", len(objects), "files") as advance:
        for stored in objects:
            problems += compared(url, stored)
            advance(1, f"problems: {len(problems):,}")
    listed = {TOKENS, *(stored.name for stored in objects)}
    left = [f"{join(url, name)}: is not listed in {TOKENS}" for name in find_files(url) if name not in listed]
    return problems, left
