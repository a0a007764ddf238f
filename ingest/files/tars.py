"""Indexing of other people's WebDataset tars: index, statistics and manifest are written beside them.

Members may have any names (also long ones, in PAX or GNU headers), order and sizes: the index records where
each array's values begin in its tar. A chip is rejected unless its arrays are stored as memory needs them.
"""

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.chips.check import UNREADABLE, WRONG_DTYPE, WRONG_SHAPE, Rejected, Rules, checked
from ingest.config import TarsConfig, made_by
from ingest.files.npy import npy_of_chip
from ingest.files.tar_members import Member, Members, members_of
from shards.errors import InputError
from shards.format.key import facts
from shards.format.manifest import WITHOUT_CHIPS, Manifest, StoredObject
from shards.format.schema import DTYPES, Chip, Schema
from shards.progress import progress
from shards.raster.band_names import KNOWN_BANDS
from shards.storage.objects import find_files, join, read_bytes
from shards.storage.one_writer import one_writer
from shards.write.writer import DatasetWriter

DOT = "dot in key"
SAME_KEY = "duplicate key"
COMPRESSED = re.compile(r".+\.(tar\.[A-Za-z0-9]{1,4}|t(gz|bz|bz2|xz|zst|lz))", re.IGNORECASE)
"""Names of compressed tars."""


@dataclass(frozen=True)
class TarsIngested:
    """Dataset made of tars, and what is to be said about it."""

    manifest: Manifest
    rejected: str
    """Line about the rejected chips."""
    left_out: list[str]
    """A line for each kind of thing that was passed over."""


def ingest_tars(config: TarsConfig) -> TarsIngested:
    """Index the tars.

    Raises:
        InputError: no tars, a tar that cannot be read, or no chip kept.
    """
    _tars_in(config.data)  # so that a name which is none is not made a folder
    with one_writer(config.data):
        return _index_tars(config)


def _index_tars(config: TarsConfig) -> TarsIngested:
    """Index the tars of a folder that only this process writes."""
    names, left_out = _tars_in(config.data)
    schema = _schema_of_first(config, names)
    hidden: list[str] = []
    without_chips: list[str] = []
    tar_of: dict[str, str] = {}
    with (
        DatasetWriter(config.data, schema, made_by(config), shard_format="webdataset") as writer,
        progress("ingest", len(names), "tars") as advance,
    ):
        for name in names:
            data = read_bytes(join(config.data, name))
            members = members_of(data, join(config.data, name))
            hidden += [f"{name}: {member}" for member in members.hidden]
            if not _take_tar(config, writer, schema, StoredObject.of(name, data), members, tar_of):
                without_chips.append(name)
            advance(1, f"kept {writer.kept:,}, rejected {writer.rejected.total():,}")
        manifest = writer.finish(record={WITHOUT_CHIPS: without_chips} if without_chips else {})
    if hidden:
        left_out.append(f"{_count(hidden, 'member')} whose name begins with a dot (first {hidden[0]})")
    return TarsIngested(manifest, writer.describe_rejected(), left_out)


def _tars_in(folder: str) -> tuple[list[str], list[str]]:
    """List the tars below a folder, and a line for each kind of file that only looks like one.

    Raises:
        InputError: there is no tar.
    """
    found = find_files(folder)
    packed = [name for name in found if COMPRESSED.fullmatch(name) and not _is_foreign(name)]
    tars = [name for name in found if name.lower().endswith(".tar")]
    names = [name for name in tars if not _is_foreign(name)]
    left_out = []
    if packed:
        left_out.append(f"{_count(packed, 'compressed tar')} (first {packed[0]}); unpack to take them")
    if foreign := [name for name in tars if _is_foreign(name)]:
        left_out.append(f"{_count(foreign, 'file')} named ._* by another system (first {foreign[0]})")
    if not names:
        also = f", but {'; '.join(left_out)}" if left_out else ""
        raise InputError(f"{folder}: no .tar files in this folder or below it{also}")
    return names, left_out


def _count(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' * (len(names) != 1)}"


def _is_foreign(name: str) -> bool:
    """Tell whether macOS wrote this file beside one of the user's."""
    return name.rpartition("/")[2].startswith("._")


def _schema_of_first(config: TarsConfig, names: list[str]) -> Schema:
    """Derive the schema from the first usable image."""
    first_unusable = ""
    for name in names:
        where = join(config.data, name)
        for key, members in members_of(read_bytes(where), where).by_key.items():
            for dotted in _dotted(config, key, members):
                first_unusable = first_unusable or f"{dotted} in {name}: {_dot_in(dotted)}"
            if config.image not in members:
                continue
            try:
                image_CHW, _ = _stored(members, config.image, key, DTYPES)
                if image_CHW.ndim != 3 or image_CHW.shape[1] != image_CHW.shape[2]:
                    raise Rejected(WRONG_SHAPE, f"{image_CHW.shape} is not (bands, rows, columns)")
                if config.bands and len(config.bands) != len(image_CHW):
                    raise Rejected(WRONG_SHAPE, f"{len(image_CHW)} bands, not the {len(config.bands)} named")
            except Rejected as rejected:
                first_unusable = first_unusable or f"{key} in {name}: {rejected}"
                continue
            bands = config.bands or KNOWN_BANDS.get(len(image_CHW), ())
            if not bands:
                raise InputError(f"{where}: {key} has {len(image_CHW)} bands; name them with --bands")
            return Schema(bands, image_CHW.dtype.name, config.nodata, image_CHW.shape[1], config.pixel_size)
    said = first_unusable or f"no member ends in .{config.image}"
    raise InputError(f"{config.data}: no image can be used ({said}); see --image and --bands")


def _take_tar(
    config: TarsConfig,
    writer: DatasetWriter,
    schema: Schema,
    tar: StoredObject,
    members: Members,
    tar_of: dict[str, str],
) -> bool:
    """List a tar's chips and rejections; tell whether any chip was kept.

    `tar_of` has the tar of each key that was kept so far.
    """
    chips: list[Chip] = []
    offsets: dict[str, list[int]] = {"image_at": [], "height_at": []}
    for key, of_key in members.by_key.items():
        for dotted in _dotted(config, key, of_key):
            writer.reject(dotted, DOT, _dot_in(dotted))
        if all(_is_of_dotted(config, ending) for ending in of_key):
            continue
        try:
            image, image_at = _stored(of_key, config.image, key, (schema.dtype,))
            height, height_at = _stored(of_key, config.height, key, ("float32",))
            if image.shape != schema.image_shape:
                raise Rejected(WRONG_SHAPE, f"image is {image.shape}, not {schema.image_shape}")
            image_CHW, height_HW = checked(image, height, schema, Rules())
            if key in tar_of:  # other commands would take either for the other
                raise Rejected(SAME_KEY, f"is also in {tar_of[key]}, which comes first")
            known = facts(key)
            chip = Chip(key, image_CHW, height_HW, **vars(known))
        except Rejected as rejected:
            writer.reject(key, rejected.reason, rejected.detail)
            continue
        tar_of[key] = tar.name
        chips.append(chip)
        offsets["image_at"].append(image_at)
        offsets["height_at"].append(height_at)
    if chips:
        is_held_out = tar.name == config.val or fnmatch.fnmatchcase(tar.name, config.val)
        split = "val" if is_held_out else "train"
        writer.list_shard(split, chips, [tar], **offsets)
    return bool(chips)


def _is_of_dotted(config: TarsConfig, ending: str) -> bool:
    return ending.endswith((f".{config.image}", f".{config.height}"))


def _dotted(config: TarsConfig, key: str, members: dict[str, Member]) -> list[str]:
    """List chips whose names have a dot, so that `key`, which ends there, is only a part of them.

    Where `key` has an image of its own, image and height must both be there: one alone is a further member
    of it.
    """
    stems = [
        {ending.removesuffix(f".{wanted}") for ending in members if ending.endswith(f".{wanted}")}
        for wanted in (config.image, config.height)
    ]
    found = stems[0] & stems[1] if config.image in members else stems[0] | stems[1]
    return [f"{key}.{stem}" for stem in sorted(found)]


def _dot_in(name: str) -> str:
    return f"a key ends at its first dot, so its members belong to {name.partition('.')[0]}; rename them"


def _stored(
    members: dict[str, Member], ending: str, key: str, dtypes: tuple[str, ...]
) -> tuple[NDArray[Any], int]:
    """Return an array stored as memory needs it, and the byte of the tar at which its values begin."""
    if ending not in members:
        raise Rejected("missing partner", f"no member {key}.{ending}")
    member = members[ending]
    if member.problem:
        raise Rejected(UNREADABLE, f"{key}.{ending} {member.problem}")
    npy = npy_of_chip(member.data, f"{key}.{ending}")
    wanted = [np.dtype(dtype).newbyteorder("<") for dtype in dtypes]
    if npy.values.dtype not in wanted or not npy.values.flags.c_contiguous:
        order = "C" if npy.values.flags.c_contiguous else "Fortran"
        names = " or ".join(dtype.str for dtype in wanted)
        raise Rejected(WRONG_DTYPE, f"{ending} is {npy.values.dtype.str} in {order} order, not {names} in C")
    return npy.values, member.offset + npy.offset
