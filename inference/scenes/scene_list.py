"""URLs of the scenes or maps that a user names, in that order, each once.

    find_scenes(("scenes/WV02_*.tif", "s3://bucket/more.csv", "catalog.json")).urls

A name is a path or s3://... of a raster, of a folder (for its .tif and .tiff files) or of a list, or a
pattern (*, ?, [...], **) that matches such names. Lists end in .txt or .csv; .json and .geojson are STAC.
Relative names in a list start at its folder. Lists name neither lists nor patterns. Only lists are read
here, no scenes, because there can be 100,000 of them.
"""

import csv
import io
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from inference.scenes.stac_scenes import assets_of_items
from shards.errors import InputError
from shards.foreign_text import visible
from shards.storage.objects import (
    exists,
    is_local,
    join,
    list_files,
    local_path,
    name_of,
    read_bytes,
    stem_of,
)
from shards.storage.patterns import expand

MAP_ENDING = ".chm.tif"
"""Ending of the names of maps of canopy height."""
CLASS_ENDING, TILE_ENDING = ".classes.tif", ".tiles.tif"
"""Endings of the names of maps of pixel classes, and of labels of tiles."""
MAP_ENDINGS = (MAP_ENDING, CLASS_ENDING, TILE_ENDING)
COLUMNS = ("path", "url", "href", "file", "filename", "scene")
"""Names of a CSV's column of scenes; the first one present counts ("scene" may be a name beside a path)."""
RASTER_ENDINGS = (".tif", ".tiff")
"""Endings of the files that are taken from a folder, in lower or upper case."""

SHOWN = 3
"""Most maps that are named where maps are left out."""

_REQUESTS = 32
"""Requests at a time; S3 has this many connections (shards.storage.s3)."""
_WORTH_LISTING = 8
"""Least number of scenes in one folder for which it is listed; on S3 one request lists 1,000 names."""
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class _Named:
    """A scene, and where it is named."""

    url: str
    by: str = ""
    """List and line that name it; empty if the user named it or a pattern matched it, so that it exists."""

    def __str__(self) -> str:
        return f"{self.by}: {self.url}" if self.by else self.url


def map_name(scene_url: str, ending: str = MAP_ENDING) -> str:
    """Return the name of a scene's map: WV02_..._M1BS_...-sr-02m.tif -> WV02_..._M1BS_...-sr-02m.chm.tif."""
    return stem_of(scene_url) + ending


def map_stem(name: str) -> str:
    """Return the name of a map without its ending."""
    return name.removesuffix(next((ending for ending in MAP_ENDINGS if name.endswith(ending)), ""))


@dataclass(frozen=True)
class Scenes:
    """Scenes that are named, and maps among them."""

    urls: list[str]
    """Scenes."""
    maps: list[str]
    """Maps that a folder or a pattern names beside them; they are left out."""

    @property
    def remark(self) -> str:
        """Line that says what is left out, and why; "" if nothing is."""
        if not self.maps:
            return ""
        count, shown = len(self.maps), ", ".join(map(name_of, self.maps[:SHOWN]))
        endings = [ending for ending in MAP_ENDINGS if any(url.endswith(ending) for url in self.maps)]
        return (
            f"left out as maps: {count:,} of {count + len(self.urls):,} rasters "
            f"({shown}{', ...' if count > SHOWN else ''}), whose names end in {' or '.join(endings)}; give a "
            "name in full to take it as a scene"
        )


def find_scenes(given: tuple[str, ...], asset: str = "") -> Scenes:
    """Find scenes as `raster_urls` finds rasters. Two scenes may not share a name, since their maps would.

    Raises:
        InputError: two scenes share a name, or for the reasons of `raster_urls`.
    """
    asked = {name_of(name) for name in given}
    scenes, maps = list[_Named](), list[str]()
    for scene in _named(given, asset):
        # Maps may lie in the folder of their scenes.
        if scene.url.endswith(MAP_ENDINGS) and not scene.by and name_of(scene.url) not in asked:
            maps.append(scene.url)
        else:
            scenes.append(scene)
    if not scenes:
        raise InputError(f"{' '.join(given)}: names only maps; name scenes")
    _check_names(scenes)
    return Scenes([scene.url for scene in scenes], maps)


def raster_urls(given: tuple[str, ...], asset: str = "") -> list[str]:
    """Find the rasters that `given` names, in its order; matches of a pattern are sorted.

    Args:
        given: names of rasters, folders and lists, or patterns.
        asset: key of the asset that is the raster in STAC items; default: the one with role data or
            reflectance, or else the only GeoTIFF.

    Returns:
        Absolute paths or s3://...

    Raises:
        InputError: something that is named does not exist or cannot be understood.
    """
    return [raster.url for raster in _named(given, asset)]


def _named(given: tuple[str, ...], asset: str) -> list[_Named]:
    named: dict[str, _Named] = {}
    for name in given:
        for scene in _named_by(name, asset):
            named.setdefault(scene.url, scene)
    if not named:
        raise InputError("no scene or map is named; name at least one")
    _check_there([scene for scene in named.values() if scene.by])
    return list(named.values())


def _named_by(name: str, asset: str) -> Iterator[_Named]:
    if not name.strip():
        raise InputError("the name of a scene is empty (''); give a path or s3://...")
    _located(name, "", "")
    for match in expand(name):
        url = _located(match, "", "")
        ending = PurePosixPath(url).suffix.lower()
        if _is_folder(match):
            yield from _of_folder(url)
        elif ending in (".json", ".geojson"):
            for href, document, by in assets_of_items(url, asset, _located):
                yield _Named(_located(href, document, by), by)
        elif ending in _LISTS:
            yield from _of_list(url, _LISTS[ending])
        else:
            yield _Named(url)


def _located(name: str, list_url: str, by: str) -> str:
    """Convert `name` to an absolute path or s3://...; a relative one starts at the folder of `list_url`."""
    if list_url and "://" not in name and not name.startswith("/"):
        name = join(list_url.rpartition("/")[0], name)
    if is_local(name):
        return os.path.abspath(local_path(name))
    scheme, _, path = name.partition("://")
    if scheme != "s3":
        raise InputError(
            f"{by and by + ': '}{name}: is neither a local path nor s3://...; copy it to one of these first"
        )
    # . and .. are not part of an object's name, but empty parts (//) may be, and normpath would drop them.
    if not {".", ".."} & set(path.split("/")):
        return name
    bucket, _, key = path.partition("/")
    inside = posixpath.normpath(key)
    if bucket in ("", ".", "..") or inside.split("/")[0] in ("", ".", ".."):
        raise InputError(
            f"{by and by + ': '}{visible(name)}: leads out of its bucket; write the name without .."
        )
    return f"s3://{bucket}/{inside}"


def _is_folder(url: str) -> bool:
    """Tell whether `url` is a folder; on object storage, which has none, a name without an ending counts."""
    if is_local(url):
        return local_path(url).is_dir()
    return url.endswith("/") or "." not in name_of(url)


def _of_folder(url: str) -> Iterator[_Named]:
    names = [name for name in list_files(url, "") if name.lower().endswith(RASTER_ENDINGS)]
    if not names:
        raise InputError(
            f"{url}: this folder has no {' or '.join(RASTER_ENDINGS)} files; name its scenes by a pattern"
        )
    for name in names:
        yield _Named(join(url, name))


# --- lists ---


def _of_list(url: str, entries: Callable[[str, str], Iterator[tuple[int, str]]]) -> Iterator[_Named]:
    try:
        text = read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: byte {error.start} is not UTF-8; save the list as UTF-8") from error
    empty = True
    for line, name in entries(url, text):
        empty, by = False, f"{url}, line {line}"
        yield _Named(_located(name, url, by), by)
    if empty:
        raise InputError(f"{url}: lists no scene")


def _lines(url: str, text: str) -> Iterator[tuple[int, str]]:
    """Read line numbers and names from a text; # starts a comment at the start of a line or after a space."""
    for number, line in enumerate(text.splitlines(), 1):
        if name := _COMMENT.sub("", line).strip():
            yield number, name


def _rows(url: str, text: str) -> Iterator[tuple[int, str]]:
    """Read line numbers and names from a CSV whose first line names the columns."""
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in next(rows, [])]
        lowered = [name.lower() for name in names]
        column = next((lowered.index(known) for known in COLUMNS if known in lowered), None)
        if column is None:
            raise InputError(
                f"{url}: no column is called {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; "
                f"its columns are {', '.join(names) or 'none'}; rename the column of scenes"
            )
        for row in rows:
            if not any(row):
                continue
            name = row[column].strip() if column < len(row) else ""
            if not name:
                raise InputError(f"{url}, line {rows.line_num}: column {names[column]} is empty")
            yield rows.line_num, name
    except csv.Error as error:
        raise InputError(f"{url}, line {rows.line_num}: cannot be read as CSV ({error})") from error


_LISTS = {".txt": _lines, ".csv": _rows}


# --- checks ---


def _check_names(scenes: Iterable[_Named]) -> None:
    first: dict[str, _Named] = {}
    for scene in scenes:
        other = first.setdefault(map_name(scene.url), scene)
        if other is not scene:
            raise InputError(
                f"{scene}: has the same name as {other}, and maps are named after scenes; "
                "rename one of them, or predict them into two folders"
            )


def _check_there(scenes: list[_Named]) -> None:
    """Refuse scenes that are listed but do not exist."""
    folders: dict[str, list[_Named]] = defaultdict(list)
    for scene in scenes:
        folders[scene.url.rpartition("/")[0]].append(scene)
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        missing = {scene.url for found in pool.map(_missing, folders, folders.values()) for scene in found}
    finally:
        pool.shutdown(cancel_futures=True)
    for scene in scenes:
        if scene.url in missing:
            more = f"; {len(missing):,} listed scenes are missing in all" if len(missing) > 1 else ""
            raise InputError(f"{scene}: does not exist{more}")


def _missing(folder: str, scenes: list[_Named]) -> list[_Named]:
    """Find the scenes of one folder that do not exist."""
    try:
        if len(scenes) < _WORTH_LISTING:
            return [scene for scene in scenes if not exists(scene.url)]
        if is_local(folder) and not Path(folder).is_dir():
            return scenes
        there = set(list_files(folder, ""))
    except InputError as error:
        raise InputError(f"{scenes[0].by}: {error}") from error
    return [scene for scene in scenes if name_of(scene.url) not in there]
