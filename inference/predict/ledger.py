"""Ledger of a folder of maps: which blocks and maps are done, so that the same command resumes a stopped run.

OUT/predict.json                     what the maps here are made with; maps made otherwise are refused
OUT/NAME.chm.tif                     a complete map
OUT/.predict/NAME-1a2b3c4d.made      identifies that map: the digits stand for scene and options
OUT/.predict/NAME-1a2b3c4d+0_9_4_8.made    identifies a map of its rows 0 to 8, columns 4 to 7 alone
OUT/.predict/NAME-1a2b3c4d.map.json  what that map is made of, and size and checksum of its file
OUT/.predict/NAME-1a2b3c4d/          a map in the making; stays while only a part of it is wanted
    0-2048-4096-6144.block           a finished block: rows 0 to 2047, columns 4096 to 6143
    0-2048-6144-8192-smaller.block   another, computed with fewer windows at a time for want of memory
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.tiling.windows import Block, Span
from shards.errors import DatasetError
from shards.format.manifest import StoredObject, write_json
from shards.storage.checksum import checksum
from shards.storage.objects import find_files, join, name_of, publish, read_bytes, remove_file, remove_folder

JOURNAL = ".predict"
_BLOCK, _MADE, _MAP = ".block", ".made", ".map.json"
_SMALLER = "-smaller"
_BLOCK_NAME = re.compile(rf"(\d+)-(\d+)-(\d+)-(\d+)({_SMALLER})?\.block")
_CHECKSUM_BYTES = 8
_MOST_PIXEL_BYTES = 256
"""Most bytes of a pixel in all bands, 64 of the widest type: more is not unpacked."""


@dataclass(frozen=True)
class Entries:
    """Contents of the ledger, by the names of maps in it."""

    blocks: dict[str, set[Block]]
    """Finished blocks of each map in the making."""
    made: set[str]
    """Names of complete maps."""


@dataclass(frozen=True)
class Ledger:
    """Record of the finished blocks and maps below `out`."""

    out: str
    dtype: str = "int16"
    """Type of the blocks' numbers."""

    def entries(self) -> Entries:
        """Find the finished blocks and maps, with one listing."""
        entries = Entries({}, set())
        for path in find_files(join(self.out, JOURNAL)):
            name, _, file = path.rpartition("/")
            if match := _BLOCK_NAME.fullmatch(file):
                entries.blocks.setdefault(name, set()).add(_block_of(match))
            elif file.endswith(_MADE) and not file.startswith("."):
                entries.made.add(file.removesuffix(_MADE))
        return entries

    def smaller_blocks(self, name: str) -> set[Block]:
        """Return the blocks of the map `name` that were computed with fewer windows at a time."""
        found = (_BLOCK_NAME.fullmatch(file) for file in find_files(join(self.out, JOURNAL, name)))
        return {_block_of(match) for match in found if match and match[5]}

    def write(self, name: str, block: Block, stored_CHW: NDArray[Any], smaller: bool = False) -> None:
        """Keep the stored_CHW of a finished block, whole or not at all.

        Args:
            name: name of the map.
            block: place of the block.
            stored_CHW: the block.
            smaller: whether it was computed with fewer windows at a time than the others.
        """
        data = stored_CHW.astype(self._little).tobytes()
        # At the fastest level, since a block stays only until its map is complete.
        digest = checksum(data).to_bytes(_CHECKSUM_BYTES, "little")
        publish(self._url(name, block, smaller), digest + zlib.compress(data, 1))

    def read(self, name: str, block: Block, smaller: bool = False) -> NDArray[Any]:
        """Read the stored_CHW of a finished block; `smaller` as it was written.

        Raises:
            DatasetError: the bytes are not those that were written.
        """
        url = self._url(name, block, smaller)
        data = _block_in(read_bytes(url), block)
        if data is None:
            remove_file(url)
            raise DatasetError(f"{url}: was damaged and has been removed; the same command computes it again")
        shape = -1, len(block.rows), len(block.columns)
        return np.frombuffer(data, self._little).astype(self.dtype).reshape(shape)

    def replace(self, names: set[str]) -> None:
        """Forget that the maps `names` were made, because another is about to replace them."""
        for name in names:
            for ending in (_MADE, _MAP):
                remove_file(join(self.out, JOURNAL, name + ending))

    def describe(self, name: str, stored: StoredObject, made_of: dict[str, str]) -> None:
        """Note what the map `name` is made of, and what its file must be."""
        about = {**made_of, "file": asdict(stored)}
        write_json(join(self.out, JOURNAL, name + _MAP), about)

    def descriptions(self) -> dict[str, str]:
        """Return the files with descriptions of maps, by the names of these in the ledger."""
        folder = join(self.out, JOURNAL)
        found = [path for path in find_files(folder) if path.endswith(_MAP) and not path.startswith(".")]
        return {path.removesuffix(_MAP): join(folder, path) for path in found}

    def damaged_blocks(self) -> Iterator[str]:
        """Yield the files of finished blocks that are not what was written."""
        for path in find_files(join(self.out, JOURNAL)):
            url = join(self.out, JOURNAL, path)
            match = _BLOCK_NAME.fullmatch(name_of(path))
            if match and _block_in(read_bytes(url), _block_of(match)) is None:
                yield url

    def finish(self, name: str, before: set[str]) -> None:
        """Note that the map `name` is complete; forget its blocks and those of the maps `before` it."""
        publish(join(self.out, JOURNAL, name + _MADE), b"")
        for old in before | {name}:
            remove_folder(join(self.out, JOURNAL, old))

    @property
    def _little(self) -> np.dtype[Any]:
        """Type of the stored numbers, the same on every machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    def _url(self, name: str, block: Block, smaller: bool) -> str:
        edges = (block.rows.start, block.rows.stop, block.columns.start, block.columns.stop)
        return join(self.out, JOURNAL, name, "-".join(map(str, edges)) + _SMALLER * smaller + _BLOCK)


def _block_in(stored: bytes, block: Block) -> bytes | None:
    """Return the numbers that a block's file holds; None if they are not those that were written."""
    try:
        most = _MOST_PIXEL_BYTES * len(block.rows) * len(block.columns)
        data = zlib.decompressobj().decompress(stored[_CHECKSUM_BYTES:], most)
    except zlib.error:
        return None
    return data if checksum(data) == int.from_bytes(stored[:_CHECKSUM_BYTES], "little") else None


def _block_of(match: re.Match[str]) -> Block:
    """Return the block that a file's name stands for."""
    edges = [int(edge) for edge in match.groups()[:4]]
    return Block(Span(*edges[:2]), Span(*edges[2:]))
