"""What of the maps in a folder is done: what a stopped run leaves there and resumes from.

OUT/predict.json                     what the maps here are made with; maps made otherwise are refused
OUT/NAME.chm.tif                     a map that is complete
OUT/.predict/NAME-1a2b3c4d.made      says what that map is of: the digits stand for scene and options
OUT/.predict/NAME-1a2b3c4d/          a map in the making
    0-2048-4096-6144.block           a block that is done: its first and last rows and columns
"""

import re
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.tiling.windows import Block, Span
from shards.errors import DatasetError
from shards.storage.checksum import checksum
from shards.storage.objects import find_files, join, publish, read_bytes, remove_file, remove_folder

JOURNAL = ".predict"
_BLOCK, _MADE = ".block", ".made"
_BLOCK_NAME = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)\.block")
_CHECKSUM_BYTES = 8


@dataclass(frozen=True)
class Entries:
    """What the ledger holds, by the names of maps in it."""

    blocks: dict[str, set[Block]]
    """Blocks that are done, of maps in the making."""
    made: set[str]
    """Maps that are complete."""


@dataclass(frozen=True)
class Ledger:
    """The record of what is done of the maps below `out`."""

    out: str

    def entries(self) -> Entries:
        """Find what is done so far, by one listing."""
        entries = Entries({}, set())
        for path in find_files(join(self.out, JOURNAL)):
            name, _, file = path.rpartition("/")
            if match := _BLOCK_NAME.fullmatch(file):
                edges = [int(edge) for edge in match.groups()]
                entries.blocks.setdefault(name, set()).add(Block(Span(*edges[:2]), Span(*edges[2:])))
            elif file.endswith(_MADE) and not file.startswith("."):
                entries.made.add(file.removesuffix(_MADE))
        return entries

    def write(self, name: str, block: Block, stored_CHW: NDArray[np.int16]) -> None:
        """Keep the stored_CHW of a block that is done, whole or not at all."""
        data = stored_CHW.astype("<i2").tobytes()
        # The quickest level: it lies there until the map is complete.
        digest = checksum(data).to_bytes(_CHECKSUM_BYTES, "little")
        publish(self._url(name, block), digest + zlib.compress(data, 1))

    def read(self, name: str, block: Block) -> NDArray[np.int16]:
        """Read the stored_CHW of a block that is done.

        Raises:
            DatasetError: it is not what was written.
        """
        url = self._url(name, block)
        stored = read_bytes(url)
        try:
            data = zlib.decompress(stored[_CHECKSUM_BYTES:])
        except zlib.error:
            data = b""
        if checksum(data) != int.from_bytes(stored[:_CHECKSUM_BYTES], "little"):
            remove_file(url)
            raise DatasetError(f"{url}: was damaged, and is removed; the same command computes it again")
        shape = -1, len(block.rows), len(block.columns)
        return np.frombuffer(data, "<i2").astype(np.int16).reshape(shape)

    def replace(self, names: set[str]) -> None:
        """Forget that maps called `names` were made: another is about to take their place."""
        for name in names:
            remove_file(join(self.out, JOURNAL, name + _MADE))

    def finish(self, name: str, before: set[str]) -> None:
        """Note that the map `name` is in its place; forget its blocks, and those of `before` it."""
        publish(join(self.out, JOURNAL, name + _MADE), b"")
        for old in before | {name}:
            remove_folder(join(self.out, JOURNAL, old))

    def _url(self, name: str, block: Block) -> str:
        edges = (block.rows.start, block.rows.stop, block.columns.start, block.columns.stop)
        return join(self.out, JOURNAL, name, "-".join(map(str, edges)) + _BLOCK)
