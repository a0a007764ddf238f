"""A source of chips in two folders; an image and its height have the same name, or patterns match them.

Without heights, chips have no label. With a table, only the images that it lists are taken, with its
attributes.
"""

import math
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rasterio.crs import CRS

from ingest.chips.check import NO_KEY, UNREADABLE, WRONG_DTYPE, WRONG_SHAPE, Rejected, Rules, checked
from ingest.chips.filled_chips import candidates_looked_at
from ingest.chips.source import Candidates, CommandSource, Raw, Refused
from ingest.config import PairsConfig
from ingest.files.chip_files import ENDINGS, ChipPlace, most_bytes, place_of, read_chip_file
from ingest.files.table import Listed, read_table_of_files
from shards.errors import InputError
from shards.format.schema import Schema
from shards.raster.gdal_advice import assign_crs
from shards.raster.grid import in_crs, known_crs
from shards.storage.objects import exists, is_local, join, list_files, stem_of
from shards.write.places import each_of

REQUESTS = 32
"""Number of chips read at a time from remote storage, where most time is spent waiting."""
SAME_PLACE = 0.01
"""Distance in pixels by which the centres of an image and its height may differ."""
MISSING = "missing partner"
LOOKED_AT = 8
"""Number of chips that are read first, to check the options."""
_PACKED = re.compile(r".+\.(npy|tiff?)\.(gz|bz2|xz|zst|lz4|z)", re.IGNORECASE)
NAMES_AT_ONCE = 16_384
"""Number of file names held as Python objects at a time."""


@dataclass(frozen=True)
class PairsSource(CommandSource):
    """The chips of two folders."""

    config: PairsConfig

    @cached_property  # asked for each pair
    def schema(self) -> Schema:
        """Schema of every chip, as the options describe it."""
        return self.config.schema(with_label=bool(self.config.heights))

    def candidates(self) -> Candidates:
        """List the pairs in the order of keys: columns key, `_image` and `_height` (names in the folders)."""
        config = self.config
        if config.out and config.out.rstrip("/") in (config.images.rstrip("/"), config.heights.rstrip("/")):
            raise InputError(f"--out {config.out}: holds the chips to be read; choose another folder")
        listed = read_table_of_files(config.table, config.file_column) if config.table else None
        names, packed = (listed.names, set[str]()) if listed else _files(config.images)
        table, keyless = _by_key(names, config.image_name, "--image-name", "_image")
        refused: list[Refused] = []
        if config.heights:
            names, also_packed = _files(config.heights)
            packed |= also_packed
            heights, also_keyless = _by_key(names, config.height_name, "--height-name", "_height")
            # In a folder for both, images never match the pattern of heights, nor heights that of images.
            keyless = keyless & also_keyless if config.images == config.heights else keyless | also_keyless
            table, images_alone, heights_alone = _paired(table, heights)
            missing = [(key, config.heights) for key in images_alone]
            # A table lists the wanted chips, so a height without a listed image is not missing its partner.
            missing += [] if listed else [(key, config.images) for key in heights_alone]
            refused = [Refused(key, MISSING, f"not in {folder}") for key, folder in sorted(missing)]
        said = "see --image-name and --height-name"
        refused += [Refused(name, NO_KEY, said) for name in sorted(keyless)]
        refused += [Refused(name, "compressed", "unpack it") for name in sorted(packed)]
        if listed:
            table = _with_attributes(table, listed, config)
        if config.is_split_by_place and "x" not in table.column_names:
            table = self._with_places(table)
        self._look_at_some(table)
        return candidates_looked_at(self, table, refused, config.images)

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Read the pairs: one file after the other, or many at a time from remote storage."""
        images = table["_image"].to_pylist()
        heights = table["_height"].to_pylist() if self.config.heights else [None] * len(images)
        pairs = zip(images, heights, strict=True)
        if is_local(self.config.images) and is_local(self.config.heights):
            for pair in pairs:
                yield self._read_pair(pair)
            return
        yield from _ahead(self, pairs)

    def _read_pair(self, pair: tuple[str, str | None]) -> Raw | Rejected:
        config, (image, height), most = self.config, pair, most_bytes(self.schema)
        try:
            image_url = _below(config.images, image)
            image_array, place = read_chip_file(image_url, config.array, config.nodata, most)
            if place is None and image.lower().endswith((".tif", ".tiff")):
                raise Rejected("no CRS", f"{image}: its place is unknown; assign one ({assign_crs()})")
            height_array = None
            if height is not None:
                height_url = join(config.heights, height)
                height_array, of_height = read_chip_file(height_url, config.array, math.nan, most)
                _check_same_place(place, of_height, config.pixel_size)
        except Rejected as rejected:
            if rejected.reason == UNREADABLE:
                _check_still_there(config.images, config.heights)
            return rejected
        return Raw(image_array, height_array, vars(place) if place else {})

    def _look_at_some(self, table: pa.Table) -> None:
        """Refuse options that fit none of a few chips, before half a million are read.

        Raises:
            InputError: all of these chips have the same wrong type or shape.
        """
        rows = np.unique(np.linspace(0, table.num_rows - 1, LOOKED_AT).astype(np.int64))
        said: list[str] = []
        for row in rows.tolist() if table.num_rows >= LOOKED_AT else ():
            raw = next(self.read(table.slice(row, 1)))
            try:
                if isinstance(raw, Rejected):
                    return
                checked(raw.image, raw.height, self.schema, Rules(min_valid=0.0, min_height=None))
                return
            except Rejected as rejected:
                if rejected.reason not in (WRONG_DTYPE, WRONG_SHAPE):
                    return
                said.append(rejected.detail)
        if len(set(said)) == 1:
            raise InputError(
                f"{self.config.images}: {said[0]}, in {LOOKED_AT} of {LOOKED_AT} chips; see --dtype, --bands "
                "and --chip-size, and that --images and --heights are not swapped"
            )

    def _with_places(self, table: pa.Table) -> pa.Table:
        """Add x, y and crs of raster chips from the files' headers, for splits by geography."""
        urls = [_below(self.config.images, name) for name in each_of(table["_image"])]
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = list(pool.map(place_of, urls))
        for column, kind in (("x", pa.float64()), ("y", pa.float64()), ("crs", pa.string())):
            values = [getattr(place, column) if place else None for place in found]
            table = table.append_column(column, pa.array(values, kind))
        return table


def _files(folder: str) -> tuple[list[str], set[str]]:
    """List the names of the chips directly in a folder, sorted, and those of compressed ones."""
    listed = list_files(folder, "")
    found = (name for name in listed if name.lower().endswith(ENDINGS))
    # An index is UTF-8: a name in another encoding is written as its bytes, which make no valid key.
    names = [
        name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace") for name in found
    ]
    if not names:
        raise InputError(f"{folder}: no .npy, .npz or .tif chips in this folder")
    return names, {name for name in listed if _PACKED.fullmatch(name)}


def _by_key(names: list[str], pattern: str, flag: str, column: str) -> tuple[pa.Table, set[str]]:
    """Return a table of "key" (by `pattern`) and `column` (the name), sorted by key, and keyless names.

    In Arrow's memory, half a million names take a third of their size as Python objects.
    """
    try:
        expression = re.compile(pattern, re.DOTALL)  # DOTALL: a name with a line break is counted too
    except re.error as error:
        raise InputError(f"{flag} {pattern}: not a regular expression ({error})") from error
    if "key" not in expression.groupindex:
        raise InputError(f"{flag} {pattern}: has no group (?P<key>...), which names the chip")
    schema = pa.schema([("key", pa.string()), (column, pa.string())])
    batches: list[pa.RecordBatch] = []
    keyless: set[str] = set()
    for start in range(0, len(names), NAMES_AT_ONCE):
        found = [(expression.fullmatch(stem_of(name)), name) for name in names[start : start + NAMES_AT_ONCE]]
        keyless |= {name for match, name in found if not match or match["key"] is None}
        keyed = [(match["key"], name) for match, name in found if match and match["key"] is not None]
        batches.append(
            pa.record_batch(
                [pa.array(part, pa.string()) for part in zip(*keyed, strict=True)] or 2 * [[]], schema=schema
            )
        )
    table = pa.Table.from_batches(batches, schema).combine_chunks()
    if not table.num_rows:
        raise InputError(f"{flag} {pattern}: no name matches")
    keys = table["key"]
    if not pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1)), min_count=0).as_py():
        table = table.sort_by("key").combine_chunks()
    keys = table["key"]
    twice = pc.index(pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1)), True).as_py()
    if twice >= 0:
        first, second = table[column].slice(twice, 2).to_pylist()
        raise InputError(f"{second}: has the same key {keys[twice]} as {first}; see {flag}")
    return table, keyless


def _paired(images: pa.Table, heights: pa.Table) -> tuple[pa.Table, list[str], list[str]]:
    """Return the images that have a height, with its name, then the keys of images and heights left alone."""
    place = pc.index_in(images["key"], heights["key"].combine_chunks()).combine_chunks()
    has_height = pc.is_valid(place)
    names = heights["_height"].take(place.drop_null())
    alone = heights["key"].filter(pc.invert(pc.is_in(heights["key"], images["key"].combine_chunks())))
    images_alone = images["key"].filter(pc.invert(has_height)).to_pylist()
    return images.filter(has_height).append_column("_height", names), images_alone, alone.to_pylist()


def _check_still_there(*folders: str) -> None:
    """Raise OSError where a whole folder is missing, not just a chip: for example, a disk was unmounted."""
    for folder in folders:
        if folder and is_local(folder) and not exists(folder):
            raise OSError(f"{folder}: was listed, but cannot be found (any more, or from this machine)")


def _below(folder: str, name: str) -> str:
    """Return the URL of a file in `folder`; a table may name whole paths and URLs."""
    return name if "://" in name or name.startswith("/") else join(folder, name)


def _with_attributes(table: pa.Table, listed: Listed, config: PairsConfig) -> pa.Table:
    """Add the attributes and places that `listed` has for the table's images."""
    row_of = {name: row for row, name in enumerate(listed.names)}
    rows = np.array([row_of[name] for name in table["_image"].to_pylist()], np.int64)
    for name, values in zip(listed.attributes.column_names, listed.attributes.columns, strict=True):
        table = table.append_column(name, values.take(rows))
    if not np.isfinite(listed.x).any():
        return table
    x_N, y_N, crs = listed.x[rows], listed.y[rows], listed.crs or config.table_crs or None
    own = known_crs("--table-crs", crs) if crs else None
    if own and own.is_geographic and config.is_split_by_place:
        x_N, y_N = _on_ground(x_N, y_N, own, config.split_crs)
        crs = config.split_crs
    for name, numbers in (("x", x_N), ("y", y_N)):
        table = table.append_column(name, pa.array(numbers, pa.float64(), from_pandas=True))
    return table.append_column("crs", pa.array([crs] * table.num_rows, pa.string()))


def _on_ground(
    x_N: NDArray[np.float64], y_N: NDArray[np.float64], own: CRS, split_crs: str
) -> NDArray[np.float64]:
    """Transform places in degrees to x and y in `split_crs`, as chips are measured in metres."""
    if not split_crs:
        raise InputError("--table: its positions are in degrees; give --split-crs, e.g. EPSG:3338")
    return in_crs(np.stack([x_N, y_N]), own, known_crs("--split-crs", split_crs))


def _check_same_place(image: ChipPlace | None, height: ChipPlace | None, pixel_size: float) -> None:
    """Reject rasters whose centres differ by more than the rounding of their corners."""
    if image is None or height is None:
        return
    apart = max(abs(image.x - height.x), abs(image.y - height.y))
    if image.crs != height.crs or apart > SAME_PLACE * pixel_size:
        raise Rejected("not the same place", f"image at {image}, its height at {height}")


def _ahead(source: PairsSource, pairs: Iterator[tuple[str, str | None]]) -> Iterator[Raw | Rejected]:
    """Yield the pairs in their order while REQUESTS of them are read at a time."""
    waiting: deque[Future[Raw | Rejected]] = deque()
    with ThreadPoolExecutor(REQUESTS) as pool:
        for pair in pairs:
            waiting.append(pool.submit(source._read_pair, pair))
            if len(waiting) >= 2 * REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
