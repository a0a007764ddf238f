"""Two folders of .npy chips with the same names -> a dataset, in one pass, in the order of the names."""

from typing import Any

from numpy.typing import NDArray

from ingest.check import Rejected, checked_height, checked_image
from ingest.config import PairsConfig, made_by
from ingest.npy import parse_npy
from shards.errors import InputError
from shards.key import facts, is_valid
from shards.manifest import Manifest
from shards.progress import progress
from shards.schema import Chip, Schema
from shards.storage import join, list_files, read_bytes
from shards.writer import DatasetWriter, SplitRule

NPY = ".npy"


def ingest_pairs(config: PairsConfig) -> tuple[Manifest, str]:
    """Make the dataset; returns its manifest and one line about the rejected chips.

    Raises:
        InputError: no chips, no chip kept, or (strict) a chip that would be rejected.
    """
    images, heights = set(list_files(config.images, NPY)), set(list_files(config.heights, NPY))
    for folder, found in ((config.images, images), (config.heights, heights)):
        if not found:
            raise InputError(f"{folder}: no .npy chips in this folder")
    schema = Schema(config.bands, config.dtype, config.nodata, config.chip_size, config.pixel_size)
    rule = SplitRule(config.val_share, config.split_by)
    names = sorted(images | heights)
    with (
        DatasetWriter(config.out, schema, rule, made_by(config)) as writer,
        progress("ingest", len(names), "chips") as advance,
    ):
        for name in names:
            key = name.removesuffix(NPY)
            try:
                if name not in heights or name not in images:
                    missing = config.images if name in heights else config.heights
                    raise Rejected("missing partner", f"not in {missing}")
                writer.add(_read_pair(config, key, schema))
            except Rejected as rejected:
                if config.strict:
                    where = join(config.heights if name not in images else config.images, name)
                    raise InputError(f"{where}: {rejected}; nothing written (--strict)") from rejected
                writer.reject(key, rejected.reason, rejected.detail)
            advance(1, f"kept {writer.kept:,}, rejected {writer.rejected.total():,}")
        return writer.finish(), writer.describe_rejected()


def _read_pair(config: PairsConfig, key: str, schema: Schema) -> Chip:
    if not is_valid(key):
        raise Rejected("unusable key", "only letters, digits, _ and -, at most 89 of them")
    image_CHW = checked_image(read_npy(join(config.images, key + NPY)), schema)
    height_HW = checked_height(read_npy(join(config.heights, key + NPY)), schema)
    known = facts(key)
    return Chip(key, image_CHW, height_HW, known.source, known.sensor, known.acquired, known.scene)


def read_npy(url: str) -> NDArray[Any]:
    """The array in an .npy file, never unpickled.

    Raises:
        Rejected: it cannot be read.
    """
    try:
        return parse_npy(read_bytes(url), url).values
    except InputError as error:
        raise Rejected("unreadable", str(error)) from error
