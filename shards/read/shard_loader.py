"""Loading of shards into memory: mapped, fetched or decoded, and checked.

Whatever the format, the result are rows of equal length in an `Arena`, each with its arrays at the offsets of
`shards.format.tar.row_layout`.

- a local tar is mapped; a remote one is fetched, whole or in the ranges that hold the requested rows
- a Zarr shard is fetched whole and decoded
- the arrays of a foreign tar are copied from the offsets in the index

A shard that was fetched whole is checked against its own checksum, rows that were fetched against the chips'.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DatasetChangedError, DatasetError, InputError
from shards.format import zarr_v3
from shards.format.file_names import home_name
from shards.format.manifest import Manifest, Shard, StoredObject, is_current
from shards.format.tar import BLOCK, arrays_of, row_layout, stride_of
from shards.read.arena import Arena
from shards.read.order import Chips
from shards.storage.checksum import chip_checksum
from shards.storage.disk_cache import DiskCache
from shards.storage.objects import is_local, join, local_path
from shards.storage.ranges import Fetcher

GAP_BYTES = 2**20
"""Gap up to which rows are fetched in one range: a request takes about as long as a megabyte."""
WHOLE_SHARE = 0.9
"""Share of a shard above which it is fetched whole."""

Column = Callable[[str], NDArray[Any]]
"""column(name): return a column of the index."""


class ShardLoader:
    """Loads the shards of one dataset. Safe to use from many threads."""

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        column: Column,
        cache: DiskCache | None = None,
        check: bool = True,
    ) -> None:
        self._url, self._manifest, self._column = url, manifest, column
        self._cache, self._check = cache, check
        self._layout = row_layout(manifest.schema)
        self.fetcher = Fetcher()
        self._versions: dict[str, tuple[int, ...]] = {}
        # The system keeps or drops mapped files: they stay mapped, also for the next epochs.
        is_mapped = manifest.shard_format == "tar" and is_local(url)
        self._mapped = self._new_arena() if is_mapped else None

    def arena(self) -> Arena:
        """Return an arena with a place for every shard, for one reader."""
        return self._mapped or self._new_arena()

    def is_mapped(self, number: int) -> bool:
        """Tell whether shard `number` is a local tar that is mapped, checked and unchanged since."""
        if self._mapped is None or not self._mapped.holds(number):
            return False
        stored = self._manifest.shards[number].objects[0]
        try:
            return self._versions.get(stored.name) == _version(stored, join(self._url, stored.name))
        except (OSError, DatasetError):
            return False  # loading it will name the fault

    def drop(self, arena: Arena, number: int) -> None:
        """Free the memory of shard `number`, which is no longer needed."""
        if arena is not self._mapped:
            arena.empty(number)

    def _new_arena(self) -> Arena:
        sizes = [
            shard.nbytes if self._manifest.shard_format == "tar" else shard.samples * self._layout.span
            for shard in self._manifest.shards
        ]
        return Arena(len(sizes), max(sizes, default=0), self._layout.span)

    def blocks_per_row(self) -> Chips:
        """Return (shards,) the length of a row in an arena, in blocks of 512 bytes."""
        if self._manifest.shard_format != "tar":
            return np.full(len(self._manifest.shards), self._layout.span // BLOCK)
        schema, shards = self._manifest.schema, self._manifest.shards
        strides = [stride_of(shard.nbytes, shard.samples, schema) for shard in shards]
        return np.array(strides, np.int64) // BLOCK

    def load(self, arena: Arena, number: int, rows: Chips, whole: bool = False) -> None:
        """Load `rows` (ascending) of shard `number`, or all of it if `whole`, to its place in `arena`.

        More rows than asked for may come.

        Raises:
            DatasetChangedError: another command has changed the dataset since, and perhaps moved the shard.
            DatasetError: the rows cannot be read, or are not those that were written.
        """
        shard = self._manifest.shards[number]
        with unless_changed(self._url, self._manifest):
            self._load(arena, number, shard, rows, whole)

    def _load(self, arena: Arena, number: int, shard: Shard, rows: Chips, whole: bool) -> None:
        try:
            if self._manifest.shard_format == "tar":
                self._load_rows(arena, number, shard, rows, whole)
            else:
                place = arena.fill(number, dense=True)[: shard.samples * self._layout.span]
                arrays = arrays_of(place.reshape(shard.samples, -1), self._manifest.schema)
                if self._manifest.shard_format == "zarr":
                    self._decode_zarr(shard, *arrays)
                else:
                    self._copy_arrays(number, shard, *arrays)
        except (OSError, ValueError) as error:
            url = join(self._url, shard.name)
            raise DatasetError(f"{url}: a shard of the dataset cannot be read ({error})") from error

    def _load_rows(self, arena: Arena, number: int, shard: Shard, rows: Chips, whole: bool) -> None:
        """Map the rows of a local tar, or fetch the needed rows of a remote one."""
        stored, url = shard.objects[0], join(self._url, shard.name)
        if is_local(url):
            version = _version(stored, url)
            if not (arena.holds(number) and self._versions.get(stored.name) == version):
                # If the new file is bad, a reader that uses the shard keeps the old file's pages.
                check = partial(self._checked_once, stored, url, version)
                arena.map_file(number, local_path(url), check)
            return None
        stride = stride_of(shard.nbytes, shard.samples, self._manifest.schema)
        ranges = _ranges(rows, stride)
        whole = whole or sum(stop - start for start, stop in ranges) > WHOLE_SHARE * stored.nbytes
        place = arena.fill(number)
        if whole:
            return self._fetch(stored, 0, place[: stored.nbytes])
        pieces = [(start, place[start:stop]) for start, stop in ranges]
        arrays = arrays_of(
            place[: shard.samples * stride].reshape(shard.samples, stride), self._manifest.schema
        )
        if self._cache is not None:
            for start, into in pieces:
                self._fetch(stored, start, into)
            try:
                return self._check_chips(number, rows, *arrays)
            except DatasetError:  # the cached or the stored bytes are wrong
                for start, into in pieces:
                    self._cache.discard(self._entry(stored, start, into.size))
        self.fetcher.read_pieces(url, pieces)
        return self._check_chips(number, rows, *arrays)

    def _decode_zarr(self, shard: Shard, image_BCHW: NDArray[Any], height_BHW: NDArray[Any]) -> None:
        schema, shard_chips = self._manifest.schema, self._manifest.shard_chips
        objects = {
            array: self._object(stored)
            for array, stored in zip(zarr_v3.array_names(schema), shard.objects, strict=True)
        }
        try:
            zarr_v3.decode(objects, shard.samples, shard_chips, schema, image_BCHW, height_BHW)
        except DatasetError as error:
            raise DatasetError(f"{join(self._url, shard.name)}: {error}") from error

    def _copy_arrays(
        self, number: int, shard: Shard, image_BCHW: NDArray[Any], height_BHW: NDArray[Any]
    ) -> None:
        data = self._object(shard.objects[0])
        first, url = self._manifest.first_chip[number], join(self._url, shard.name)
        arrays = [("image_at", image_BCHW), ("height_at", height_BHW)]
        for row in range(shard.samples):
            for name, array_BX in arrays:
                start = int(self._column(name)[first + row])
                bytes_of_array = data[start : start + array_BX[row].nbytes]
                if start < 0 or bytes_of_array.size != array_BX[row].nbytes:
                    raise DatasetError(f"{url}: ends before byte {start + array_BX[row].nbytes:,}")
                array_BX[row] = bytes_of_array.view(array_BX.dtype).reshape(array_BX[row].shape)

    def _object(self, stored: StoredObject) -> NDArray[np.uint8]:
        """Return the whole object, mapped or fetched, and checked."""
        url = join(self._url, stored.name)
        if is_local(url):
            version = _version(stored, url)
            return self._checked_once(stored, url, version, np.memmap(local_path(url), np.uint8, "r"))
        data = np.empty(stored.nbytes, np.uint8)
        self._fetch(stored, 0, data)
        return data

    def _checked_once(
        self, stored: StoredObject, url: str, version: tuple[int, ...], data: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return `data`, a local file's bytes; check them unless this was done since the file was written."""
        if self._check and self._versions.pop(stored.name, None) != version:
            stored.check(url, data)
        self._versions[stored.name] = version
        return data

    def _fetch(self, stored: StoredObject, start: int, into: NDArray[np.uint8]) -> None:
        """Fill `into` from the cache or from storage; check it if it is a whole object."""
        url, is_whole = join(self._url, stored.name), into.size == stored.nbytes

        def get(buffer: NDArray[np.uint8]) -> None:
            self.fetcher.read_into(url, start, buffer)
            if self._check and is_whole:
                stored.check(url, buffer)

        if self._cache is None:
            return get(into)
        name = self._entry(stored, start, into.size)
        kept = self._cache.fetch(name, into, get)
        if kept and is_whole and self._check and not stored.is_of(into):
            self._cache.discard(name)  # cached by a reader that did not check
            get(into)
        return None

    def _entry(self, stored: StoredObject, start: int, size: int) -> str:
        """Return the cache's name for these bytes, which never change, also where their shard moves."""
        return f"{join(self._url, home_name(stored.name))} {stored.xxh3} {start} {size}"

    def _check_chips(
        self, number: int, rows: Chips, image_BCHW: NDArray[Any], height_BHW: NDArray[Any]
    ) -> None:
        if not self._check:
            return
        expected = self._column("xxh3")[self._manifest.first_chip[number] + rows]
        for row, wanted in zip(rows, expected, strict=True):
            if chip_checksum(image_BCHW[row], height_BHW[row]) != wanted:
                url = join(self._url, self._manifest.shards[number].name)
                raise DatasetError(f"{url}: chip {row} is not the one that was written; copy the shard again")


@contextmanager
def unless_changed(url: str, manifest: Manifest) -> Iterator[None]:
    """Read a part of the dataset at `url`, which was opened with `manifest`.

    Raises:
        DatasetChangedError: the part cannot be read, and another command has changed the dataset since.
    """
    try:
        yield
    except (DatasetError, InputError) as error:
        if isinstance(error, DatasetChangedError) or is_current(url, manifest):
            raise
        raise DatasetChangedError(
            f"{url}: was changed by another command (treeline split moves shards) while this one read it; "
            "start this one again"
        ) from error


def _version(stored: StoredObject, url: str) -> tuple[int, ...]:
    """Return values that change when the local file at `url` is written again."""
    facts = os.stat(local_path(url))
    if facts.st_size != stored.nbytes:
        raise DatasetError(f"{url}: {facts.st_size:,} bytes instead of {stored.nbytes:,}; copy it again")
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _ranges(rows: Chips, stride: int) -> list[tuple[int, int]]:
    """Return the byte ranges that hold `rows` (ascending) of `stride` bytes; near ones are joined."""
    if not rows.size:
        return []
    breaks = np.flatnonzero((np.diff(rows) - 1) * stride > GAP_BYTES)
    firsts, lasts = rows[[0, *(breaks + 1)]], rows[[*breaks, -1]]
    return [(int(a) * stride, (int(b) + 1) * stride) for a, b in zip(firsts, lasts, strict=True)]
