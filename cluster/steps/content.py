"""What lies at a place, as values that change when it does.

A dataset is its manifest, a run or a checkpoint its description and scores, anything else its files with
their sizes and times of writing (on S3: tags).
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shards.addresses import GDAL
from shards.format.manifest import MANIFEST, read_manifest
from shards.storage.checksum import hexadecimal
from shards.storage.objects import exists, join, name_of, read_bytes, sizes_of, version_of, versions_of
from shards.storage.patterns import expand
from trainer.weights.run_checkpoints import read_run_checkpoints

Content = str | dict[str, str]
"""What lies there, in one text, or as versions of files by name."""
MOST_NAMED = 20_000
"""Most files that are told apart by name; of more, only that they are other ones."""
_REQUESTS = 32
"""Requests for versions at a time; S3 has this many connections (shards.storage.s3)."""
_DESCRIPTIONS = ("config.json", "metrics.json")
"""Files by which a checkpoint is known; weights take long to read."""


def content_of(url: str) -> Content | None:
    """Tell what lies at `url`; None if nothing does."""
    if not exists(url):
        return None
    if exists(join(url, MANIFEST)):
        manifest = read_manifest(url)
        more = [manifest.labels, manifest.attributes]
        return f"dataset {manifest.fingerprint} {digest(more)}"
    run = read_run_checkpoints(url)
    checkpoint = run.url_of_best() if run else url
    if run or all(exists(join(url, name)) for name in _DESCRIPTIONS):
        said = [hexadecimal(read_bytes(join(checkpoint, name))) for name in _DESCRIPTIONS]
        return f"checkpoint {digest([*said, sizes_of(checkpoint)])}"
    return versions_of(url)


def content_of_places(places: tuple[str, ...]) -> Content:
    """Tell what lies at places that a user names: files, folders and patterns of files.

    Raises:
        InputError: one of them names nothing.
    """
    found: dict[str, str] = {}
    texts = list[str]()
    for place in places:
        if place.startswith(GDAL) or place.startswith(("http://", "https://")):
            texts.append(place)
            continue
        there = content_of(place)
        if there is None:
            there = versions_by_name(expand(place))
        if isinstance(there, str):
            texts.append(there)
        elif set(there) == {""}:
            found[name_of(place)] = there[""]
        else:
            found |= there
    if not texts:
        return _few(found)
    return " ".join([*texts, *([digest(found)] if found else [])])


def content_of_files(urls: list[str]) -> Content:
    """Tell what lies at the URLs of files; see `content_of_places`."""
    return _few(versions_by_name(urls))


def versions_by_name(urls: list[str]) -> dict[str, str]:
    """Return the versions of files by their names, or by their URLs if two have one name."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        versions = list(pool.map(version_of, urls))
    names = [name_of(url) for url in urls]
    return dict(zip(names if len(set(names)) == len(urls) else urls, versions, strict=True))


def _few(found: dict[str, str]) -> Content:
    return found if len(found) <= MOST_NAMED else f"{len(found):,} files {digest(found)}"


def digest(values: Any) -> str:
    """Return a text that changes with the values."""
    return hexadecimal(json.dumps(values, sort_keys=True).encode())


def difference(before: Content, now: Content) -> str:
    """Say how what lies at a place has changed."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "other content"
    # Names that begin with a dot are the commands' own notes.
    before, now = ({name: one[name] for name in one if name[:1] != "."} for one in (before, now))
    added, gone = now.keys() - before.keys(), before.keys() - now.keys()
    changed = {name for name in now.keys() & before.keys() if now[name] != before[name]}
    said = [
        f"{len(names):,} {what}, such as {min(names)}"
        for what, names in (("added", added), ("removed", gone), ("written again", changed))
        if names
    ]
    return ", ".join(said) or "other content"


def only_adds(before: Content, now: Content) -> bool:
    """Tell whether all that was there is there as it was, beside more."""
    return isinstance(before, dict) and isinstance(now, dict) and before.items() <= now.items()


def holds(url: str, files: dict[str, str]) -> bool:
    """Tell whether the files below `url` are there with the sizes that they had; others may lie beside."""
    sizes = sizes_of(url)
    return all(sizes.get(name) == int(version.split()[0]) for name, version in files.items())
