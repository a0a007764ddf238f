"""`treeline verify` of a folder of maps: their bytes, what they are made of, and the files beside them.

A map names its checkpoint's fingerprint and its scene. The ledger also says where both were, which version
the scene's file had, and the size and checksum of the map's own file.
"""

import zlib
from dataclasses import dataclass
from typing import Any

from rasterio.errors import RasterioError

from inference.maps.map_file import TILE
from inference.maps.quick_look import quick_look_url
from inference.maps.stac_item import item_bytes, item_url, write_stac_item
from inference.predict.ledger import JOURNAL, Ledger
from inference.predict.map_folder import MADE_WITH
from inference.scenes.scene_list import MAP_ENDINGS
from shards.errors import InputError, one_line
from shards.format.manifest import StoredObject, has_checksum, read_json
from shards.format.verified import ERRORS, Found
from shards.progress import progress
from shards.raster.opening import open_raster
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.objects import exists, join, list_files, read_bytes, read_pieces, version_of
from shards.storage.one_writer import one_writer
from shards.storage.typed_json import typed
from trainer.model.verify_checkpoint import fingerprint_at

CHECKPOINT_TAG = "TREELINE_CHECKPOINT"
REMAKE = "make it again with treeline predict"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class MadeOf:
    """What the ledger says of a map."""

    scene: str
    scene_version: str
    checkpoint: str
    fingerprint: str
    file: StoredObject


def has_maps(url: str) -> bool:
    """Tell whether a folder is one that `treeline predict` wrote."""
    return exists(join(url, MADE_WITH)) or exists(join(url, JOURNAL))


def verify_maps(url: str) -> Found:
    """Read all maps of a folder, and compare them with what they were made of.

    Returns:
        what is wrong, and what cannot be compared.
    """
    problems, left, described = list[str](), list[str](), dict[str, MadeOf]()
    made_with: dict[str, Any] = {}
    try:
        if exists(join(url, MADE_WITH)):
            made_with = read_json(join(url, MADE_WITH))
            if not has_checksum(join(url, MADE_WITH)):
                left.append(f"{join(url, MADE_WITH)}: an earlier version wrote it without a checksum")
    except ERRORS as error:
        problems.append(str(error))
    ledger = Ledger(url)
    for file in ledger.descriptions().values():
        try:
            about = typed(read_json(file), MadeOf, file)
            described[about.file.name] = about
        except ERRORS as error:
            problems.append(str(error))
    problems += [f"{block}: is not what was written; {REMAKE}" for block in ledger.damaged_blocks()]
    maps = [name for name in list_files(url, "") if name.endswith(MAP_ENDINGS)]
    checkpoints, scenes = dict[str, str](), dict[str, str]()
    with progress("verify", len(maps), "maps") as advance:
        for name in maps:
            about_map = described.pop(name, None)
            problems += _of_map(url, name, about_map, made_with)
            if about_map:
                checkpoints[about_map.checkpoint] = about_map.fingerprint
                scenes[about_map.scene] = about_map.scene_version
            else:
                left.append(
                    f"{join(url, name)}: an earlier version wrote it without a checksum; it was read, but "
                    "there is nothing to compare its pixels with"
                )
            advance(1, f"problems: {len(problems):,}")
    problems += [f"{join(url, name)}: is missing; {REMAKE}" for name in sorted(described)]
    for found in (_of_scenes(url, scenes), *(_of_checkpoint(url, *pair) for pair in checkpoints.items())):
        problems += found[0]
        left += found[1]
    return problems, left


def _of_map(folder: str, name: str, about: MadeOf | None, made_with: dict[str, Any]) -> list[str]:
    """Compare a map's bytes, its tags, and the files beside it."""
    url, problems = join(folder, name), list[str]()
    try:
        if about:
            digest, nbytes = hexadecimal_of_pieces(read_pieces(url))
            if nbytes != about.file.nbytes or digest != about.file.xxh3:
                return [f"{url}: its {nbytes:,} bytes are not those that were written; {REMAKE}"]
        with open_raster(url) as raster:
            tags = raster.tags()
            for row in range(0, raster.height, TILE) if not about else ():
                raster.read(window=((row, min(row + TILE, raster.height)), (0, raster.width)))
        stated = about.fingerprint if about else made_with.get("checkpoint")
        if CHECKPOINT_TAG in tags and stated and tags[CHECKPOINT_TAG] != stated:
            problems.append(
                f"{url}: is made with checkpoint {tags[CHECKPOINT_TAG]}, the folder's maps with {stated}"
            )
        item = item_url(url)
        if exists(item) and not _is_right(item, url):
            problems.append(f"{item}: is not what the map says; treeline verify --repair writes it again")
        picture = quick_look_url(url)
        if exists(picture) and not is_whole_png(read_bytes(picture)):
            problems.append(f"{picture}: is no whole picture; delete it, and {REMAKE}")
    except (*ERRORS, RasterioError) as error:
        said = one_line(error)
        problems.append(said if said.startswith(url) else f"{url}: cannot be read ({said}); {REMAKE}")
    return problems


def repair_maps(url: str) -> list[str]:
    """Write the STAC items again that are not what their maps say; return a line for each.

    Only of maps whose bytes are those that were written. Pictures and styles have colours that no file
    names: delete them, and `treeline predict` draws them again.
    """
    said = list[str]()
    with one_writer(url):
        for file in Ledger(url).descriptions().values():
            try:
                about = typed(read_json(file), MadeOf, file)
                where = join(url, about.file.name)
                item = item_url(where)
                digest, _ = hexadecimal_of_pieces(read_pieces(where))
                if digest != about.file.xxh3 or not exists(item) or _is_right(item, where):
                    continue
                write_stac_item(where, exists(quick_look_url(where)))
                said.append(f"{item}: was made again from {about.file.name}")
            except ERRORS as error:
                said.append(f"not repaired: {error}")
    return said


def _is_right(item: str, url: str) -> bool:
    """Tell whether a STAC item is what its map says."""
    return read_bytes(item) == item_bytes(url, exists(quick_look_url(url)))


def is_whole_png(data: bytes) -> bool:
    """Tell whether each chunk of a PNG has its checksum, up to its end."""
    if not data.startswith(_PNG):
        return False
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        kind, at = data[at + 4 : at + 8], end + 4
        if kind == b"IEND":
            return at == len(data)
    return False


def _of_scenes(folder: str, scenes: dict[str, str]) -> Found:
    problems, left = list[str](), list[str]()
    for scene, version in sorted(scenes.items()):
        try:
            now = version_of(scene)
        except InputError:
            left.append(f"{scene}: is not here, so it is not compared with its map in {folder}")
            continue
        if now != version:
            problems.append(
                f"{scene}: has changed since its map in {folder} was made (size or time of its file); map it "
                "again, or put the scene of then back"
            )
    return problems, left


def _of_checkpoint(folder: str, url: str, fingerprint: str) -> Found:
    if not exists(url):
        return [], [f"{url}: is not here, so the checkpoint of the maps in {folder} is not compared"]
    try:
        now = fingerprint_at(url)
    except ERRORS as error:
        return [str(error)], []
    if now != fingerprint:
        return [
            f"{url}: has changed since the maps in {folder} were made with it (fingerprint {fingerprint} "
            f"then, {now} now)"
        ], []
    return [], []
