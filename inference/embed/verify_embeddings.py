"""`treeline verify` of a folder of embeddings: every part is read."""

from inference.embed.embeddings import EMBEDDINGS, PLAN, part_files, parts_of, read_about
from shards.format.manifest import has_checksum
from shards.format.verified import ERRORS, Found
from shards.progress import progress
from shards.storage.objects import exists, join, read_bytes


def has_embeddings(url: str) -> bool:
    """Tell whether a folder is one that `treeline embed` wrote."""
    return exists(join(url, EMBEDDINGS)) or (exists(join(url, PLAN)) and bool(part_files(url)))


def verify_embeddings(url: str) -> Found:
    """Read all parts of a folder; return what is wrong, and what cannot be compared."""
    try:
        parts = parts_of(read_about(url))
    except ERRORS as error:
        return [str(error)], []
    problems = list[str]()
    with progress("verify", len(parts), "parts") as advance:
        for part in parts:
            where = join(url, part.stored.name)
            try:
                part.stored.check(where, read_bytes(where))
            except ERRORS as error:
                problems.append(str(error))
            advance(1, f"problems: {len(problems):,}")
    listed = {part.stored.name for part in parts}
    strangers = [name for name in part_files(url) if name not in listed]
    problems += [f"{join(url, name)}: is not listed in {EMBEDDINGS}" for name in strangers]
    if has_checksum(join(url, EMBEDDINGS)):
        return problems, []
    return problems, [f"{join(url, EMBEDDINGS)}: an earlier version wrote it without a checksum"]
