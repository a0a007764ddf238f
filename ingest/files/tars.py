"""Indexing of other people's WebDataset tars: index, statistics and manifest are written beside them.

Members may have any names (also long ones, in PAX or GNU headers), order and sizes: the index records where
each array's values begin in its tar. A chip is rejected unless its arrays are stored as memory needs them.
"""

import fnmatch
import io
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.chips.check import UNREADABLE, WRONG_DTYPE, WRONG_SHAPE, Rejected, Rules, checked
from ingest.config import TarsConfig, made_by
from ingest.files.npy import Npy, parse_npy
from shards.errors import InputError
from shards.format.key import facts
from shards.format.manifest import Manifest, StoredObject
from shards.format.schema import DTYPES, Chip, Schema
from shards.format.tar import BLOCK
from shards.progress import progress
from shards.raster.band_names import KNOWN_BANDS
from shards.storage.objects import find_files, join, read_bytes
from shards.write.writer import DatasetWriter


@dataclass(frozen=True)
class Member:
    """An array's file in a tar."""

    data: bytes
    offset: int
    """Byte of the tar at which the data begin."""
    problem: str = ""
    """Reason why it cannot be used; "" if it can."""


Members = dict[str, dict[str, Member]]
"""Members of a tar by key, then by ending."""


def ingest_tars(config: TarsConfig) -> tuple[Manifest, str]:
    """Index the tars; return the manifest and a line about the rejected chips.

    Raises:
        InputError: no tars, a tar that cannot be read, or no chip kept.
    """
    names = [name for name in find_files(config.data) if name.endswith(".tar")]
    if not names:
        raise InputError(f"{config.data}: no .tar files in this folder or below it")
    schema = _schema_of_first(config, names)
    with (
        DatasetWriter(config.data, schema, made_by(config), shard_format="webdataset") as writer,
        progress("ingest", len(names), "tars") as advance,
    ):
        for name in names:
            data = read_bytes(join(config.data, name))
            _take_tar(config, writer, schema, name, data)
            advance(1, f"kept {writer.kept:,}, rejected {writer.rejected.total():,}")
        return writer.finish(), writer.describe_rejected()


def members_of(data: bytes, where: str) -> Members:
    """List the members of a tar by key (the name up to the first dot after the last slash) and ending.

    Raises:
        InputError: the bytes are no tar, or its end is missing.
    """
    found: Members = {}
    file = io.BytesIO(data)
    try:
        # An index is UTF-8: a name in another encoding is written as its bytes.
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                start, stop = member.offset_data, member.offset_data + member.size
                members = found.setdefault(folder + slash + stem, {})
                if ending in members:
                    members[ending] = Member(b"", start, "is there twice")
                elif member.issparse():
                    members[ending] = Member(b"", start, "is stored without its holes (tar --sparse)")
                elif stop > len(data):
                    raise InputError(f"{where}: ends within {member.name}; copy it again")
                else:
                    members[ending] = Member(data[start:stop], start)
            end = archive.offset
    except tarfile.TarError as error:
        raise InputError(f"{where}: cannot be read as a tar ({error})") from error
    # tarfile takes a damaged or missing header for the end, and would silently leave out what follows.
    if data[end : end + BLOCK] != bytes(BLOCK):
        raise InputError(f"{where}: is damaged or cut at byte {end:,}; copy it again")
    return found


def _schema_of_first(config: TarsConfig, names: list[str]) -> Schema:
    """Derive the schema from the first usable image."""
    first_unusable = f"no member ends in .{config.image}"
    for name in names:
        where = join(config.data, name)
        for key, members in members_of(read_bytes(where), where).items():
            if config.image not in members:
                continue
            try:
                image_CHW, _ = _stored(members, config.image, key, DTYPES)
                if image_CHW.ndim != 3 or image_CHW.shape[1] != image_CHW.shape[2]:
                    raise Rejected(WRONG_SHAPE, f"{image_CHW.shape} is not (bands, rows, columns)")
                if config.bands and len(config.bands) != len(image_CHW):
                    raise Rejected(WRONG_SHAPE, f"{len(image_CHW)} bands, not the {len(config.bands)} named")
            except Rejected as rejected:
                if first_unusable.startswith("no member"):
                    first_unusable = f"{key} in {name}: {rejected}"
                continue
            bands = config.bands or KNOWN_BANDS.get(len(image_CHW), ())
            if not bands:
                raise InputError(f"{where}: {key} has {len(image_CHW)} bands; name them with --bands")
            return Schema(bands, image_CHW.dtype.name, config.nodata, image_CHW.shape[1], config.pixel_size)
    raise InputError(f"{config.data}: no image can be used ({first_unusable}); see --image and --bands")


def _take_tar(config: TarsConfig, writer: DatasetWriter, schema: Schema, name: str, data: bytes) -> None:
    chips: list[Chip] = []
    offsets: dict[str, list[int]] = {"image_at": [], "height_at": []}
    for key, members in members_of(data, join(config.data, name)).items():
        try:
            image, image_at = _stored(members, config.image, key, (schema.dtype,))
            height, height_at = _stored(members, config.height, key, ("float32",))
            if image.shape != schema.image_shape:
                raise Rejected(WRONG_SHAPE, f"image is {image.shape}, not {schema.image_shape}")
            image_CHW, height_HW = checked(image, height, schema, Rules())
            known = facts(key)
            chip = Chip(key, image_CHW, height_HW, **vars(known))
        except Rejected as rejected:
            writer.reject(key, rejected.reason, rejected.detail)
            continue
        chips.append(chip)
        offsets["image_at"].append(image_at)
        offsets["height_at"].append(height_at)
    if chips:
        split = "val" if fnmatch.fnmatchcase(name, config.val) else "train"
        writer.list_shard(split, chips, [StoredObject.of(name, data)], **offsets)


def _stored(
    members: dict[str, Member], ending: str, key: str, dtypes: tuple[str, ...]
) -> tuple[NDArray[Any], int]:
    """Return an array stored as memory needs it, and the byte of the tar at which its values begin."""
    if ending not in members:
        raise Rejected("missing partner", f"no member {key}.{ending}")
    member = members[ending]
    if member.problem:
        raise Rejected(UNREADABLE, f"{key}.{ending} {member.problem}")
    npy: Npy = parse_npy(member.data, f"{key}.{ending}")
    wanted = [np.dtype(dtype).newbyteorder("<") for dtype in dtypes]
    if npy.values.dtype not in wanted or not npy.values.flags.c_contiguous:
        order = "C" if npy.values.flags.c_contiguous else "Fortran"
        names = " or ".join(dtype.str for dtype in wanted)
        raise Rejected(WRONG_DTYPE, f"{ending} is {npy.values.dtype.str} in {order} order, not {names} in C")
    return npy.values, member.offset + npy.offset
