"""A source of chips in datasets of Hugging Face's `datasets` library, or in Parquet or Arrow files.

    source = HuggingFaceSource(HuggingFaceConfig(out="chips", data="saved", dtype="float32"))
    table = source.candidates().table
    for raw in source.read(table.slice(0, 100)): ...

Of a folder that `save_to_disk` wrote, the files in its state.json are read; of any other folder, all .parquet
or .arrow files below it, sorted by name. Images and labels are nested lists, Array2D or Array3D. Local files
are memory-mapped; of remote files, one at a time is held in memory.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ingest.chips.attributes import as_attribute, attribute_name, plain_values
from ingest.chips.check import UNREADABLE, Rejected
from ingest.chips.filled_chips import candidates_looked_at
from ingest.chips.source import GROUP, Candidates, CommandSource, Raw, Refused
from ingest.config import HuggingFaceConfig
from ingest.files.nested import as_stored, nested_array, pixel_type
from shards.errors import InputError, one_line
from shards.format.key import MAX_KEY, as_day
from shards.format.path_names import check_name
from shards.format.schema import Schema
from shards.storage.chip_bytes import read_chip_bytes
from shards.storage.json_text import parsed, read_json_bytes
from shards.storage.objects import find_files, is_local, join, local_path
from shards.storage.typed_json import shown

LOOKED_AT = 8
"""Chips that are looked at before an ingest: each costs its whole group."""
SPLIT = "saved_split"
"""Attribute for the split of a DatasetDict that a row was in."""

_PARQUET_ROWS = 64  # rows of a row group to decode at a time: some MB
_GROUP_ROWS = 1024  # most rows of an Arrow record batch in one group: any part of a batch can be read alone
_ENDINGS = (".parquet", ".arrow")
_DAMAGED = (
    pa.ArrowException,
    OSError,
    UnicodeDecodeError,
    KeyError,
)  # raised by bytes that are in memory already
_TEXTS = ("source", "sensor", "acquired", "scene", "crs", "catalogue")
_ORIGIN = dict.fromkeys(_TEXTS, pa.string()) | {"x": pa.float64(), "y": pa.float64(), "number": pa.int64()}


@dataclass(frozen=True)
class HuggingFaceSource(CommandSource):
    """The rows of a dataset of nested lists.

    Its files are looked up once, when it is made (InputError: there are none); the list travels with it.
    """

    config: HuggingFaceConfig
    files: tuple[tuple[str, str], ...] = field(init=False)
    """URL of each file, and its split of a DatasetDict ("": no DatasetDict)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(_find(self.config.data)))

    @cached_property
    def schema(self) -> Schema:
        """Schema of every chip, as the options describe it."""
        return self.config.schema(with_label=bool(self.config.height_column))

    def candidates(self) -> Candidates:
        """List the rows: columns key, `_file`, `_row` (in the file), `_group`, and all that are no lists.

        A `_group` holds the rows of a Parquet row group, of an Arrow record batch (1024 at most), or of a
        remote file. Only the first row's pixels are read.

        Raises:
            InputError: a file cannot be read, a column is missing or unusable, or options do not fit them.
        """
        tables: list[pa.Table] = []
        rows_of_split: Counter[str] = Counter()
        groups = 0
        for number, (url, split) in enumerate(self.files):
            data = _contents(url)
            try:
                columns, counts = self._attributes(url, data)
                if any(counts) and not rows_of_split.total():
                    self._check_bands(url, data)
            except _DAMAGED as error:
                raise InputError(f"{url}: cannot be read ({one_line(error)}); write it again") from error
            rows = sum(counts)
            columns["_file"] = pa.array(np.full(rows, number, np.int32))
            columns["_row"] = pa.array(np.arange(rows))
            columns[GROUP] = pa.array(np.repeat(np.arange(len(counts)) + groups, counts))
            if split:
                columns[SPLIT] = pa.array([split] * rows, pa.string())
            if not self.config.key_column:
                columns["key"] = self._keys(split, rows_of_split[split], rows)
            tables.append(pa.table(columns))
            rows_of_split[split] += rows
            groups += len(counts)
        if not rows_of_split.total():
            raise InputError(f"{self.config.data}: has no rows; give data that has some")
        try:
            table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        except pa.ArrowException as error:
            raise InputError(
                f"{self.config.data}: columns of its files differ ({one_line(error)}); write them alike"
            ) from error
        keyed = np.asarray(table["key"].is_valid())
        refused = [
            Refused(f"row {row}", "unusable key", "--key-column is empty") for row in np.flatnonzero(~keyed)
        ]
        table = table.filter(pa.array(keyed)) if refused else table
        return candidates_looked_at(self, table, refused, self.config.data, LOOKED_AT)

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Read images and labels of rows of the candidates' table, in one pass if they ascend as there.

        Pixels get the schema's type: they are multiplied by --scaled-by, rounded to whole numbers unless that
        type is float32, and NaN becomes nodata.
        """
        files, rows, groups = (table[name].to_numpy() for name in ("_file", "_row", GROUP))
        ends = (np.diff(files) != 0) | (np.diff(rows) <= 0)
        if _is_parquet(self.files[0][0]):  # damage to a row group says nothing about the next
            ends |= np.diff(groups) != 0
        for start, stop in pairwise([0, *(np.flatnonzero(ends) + 1), rows.size] if rows.size else []):
            yield from self._read_run(self.files[files[start]][0], rows[start:stop])

    def _read_run(self, url: str, rows: NDArray[np.int64]) -> Iterator[Raw | Rejected]:
        """Read ascending `rows` of one file."""
        try:
            data = _contents(url)
        except InputError as error:
            yield from [Rejected(UNREADABLE, str(error))] * rows.size
            return
        done, why = 0, "the file has fewer rows than it had"
        try:
            for start, batch in _batches(url, data, self._arrays, rows):
                while done < rows.size and rows[done] < start + batch.num_rows:
                    yield self._raw(batch, int(rows[done]) - start)
                    done += 1
                if done == rows.size:
                    return
        except _DAMAGED as error:
            why = one_line(error)
        for row in rows[done:]:
            yield Rejected(UNREADABLE, f"row {row} of {url}: {why}")

    def _raw(self, batch: pa.RecordBatch, row: int) -> Raw | Rejected:
        try:
            image, *height = (nested_array(batch.column(name), row, name) for name in self._arrays)
            if image is None:
                return Rejected("missing partner", "no image")
            return Raw(as_stored(image, self.schema, self.config.scaled_by), height[0] if height else None)
        except Rejected as rejected:
            return rejected

    @property
    def _arrays(self) -> list[str]:
        """Columns of images and, if there are any, of labels."""
        return [name for name in (self.config.image_column, self.config.height_column) if name]

    def _attributes(self, url: str, data: pa.Buffer) -> tuple[dict[str, Any], list[int]]:
        """Return a file's columns that are no lists, in types of an index, and the rows in each group."""
        parquet = pq.ParquetFile(pa.BufferReader(data)) if _is_parquet(url) else None
        described, batches = (parquet.schema_arrow, []) if parquet else _arrow(data)
        self._check_columns(url, described)
        names = [column.name for column in described if _is_attribute(column.type)]
        if parquet:
            counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            table = parquet.read(names, use_threads=False)
        else:
            table = pa.Table.from_batches(batches := list(batches), described).select(names)
            table.validate(full=True)  # so that damaged offsets cannot reach other memory
            starts = [range(0, batch.num_rows, _GROUP_ROWS) for batch in batches]
            counts = [min(_GROUP_ROWS, at.stop - start) for at in starts for start in at]
        columns: dict[str, Any] = {}
        for given in names:
            # take copies: any view of a file's bytes would hold all of them.
            values = as_attribute(plain_values(table[given].take(np.arange(sum(counts)))))
            is_key = given == self.config.key_column
            name, values = ("key", values.cast(pa.string())) if is_key else _named(given, values)
            if name in columns or name == SPLIT:
                raise InputError(f"{url}: column {given!r} would become a second {name}; rename it")
            columns[name] = values
        return columns, counts if is_local(url) else [sum(counts)]

    def _check_columns(self, url: str, described: pa.Schema) -> None:
        config, there = self.config, described.names
        asked = {"--image-column": config.image_column, "--height-column": config.height_column}
        for flag, name in (asked | {"--key-column": config.key_column}).items():
            if name and there.count(name) != 1:
                raise InputError(f"{url}: not one column {name}; choose by {flag} from {', '.join(there)}")
        if config.key_column and not _is_attribute(kind := described.field(config.key_column).type):
            raise InputError(
                f"{url}: column {config.key_column} is {kind}; --key-column must name a column of text"
            )
        kinds = [pixel_type(f"{url}: column {name}", described.field(name).type) for name in self._arrays]
        pixel, stored, scales = kinds[0], np.dtype(config.dtype), config.scaled_by
        if pixel.kind == "f" and stored.kind != "f" and not scales:
            divided = "say what they were divided by (--scaled-by ...) or keep them (--dtype float32)"
            raise InputError(f"{url}: pixels are {pixel}: {divided}")
        if pixel.kind != "f" and scales:
            raise InputError(f"{url}: pixels are {pixel}, which is not scaled to 0..1; leave out --scaled-by")
        most = np.finfo(stored).max if stored.kind == "f" else np.iinfo(stored).max
        if not all(0 < scale <= most for scale in scales):
            raise InputError(f"--scaled-by {scales}: give numbers above 0 that --dtype {stored} can hold")

    def _check_bands(self, url: str, data: pa.Buffer) -> None:
        """Refuse a wrong number of bands by the first image, before half a million chips are rejected."""
        bands, scales = self.config.bands, self.config.scaled_by
        _, batch = next(_batches(url, data, self._arrays, np.zeros(1, np.int64)))
        image = None
        with suppress(Rejected):  # it is rejected again, and counted, when its turn comes
            image = nested_array(batch.column(self.config.image_column), 0, "image")
        if image is not None and len(bands) not in (image.shape[::2] if image.ndim == 3 else (1,)):
            asked = f"where {len(bands)} bands are expected ({' '.join(bands)}); name its bands with --bands"
            raise InputError(f"{url}: the first image is {image.shape} {asked}")
        if scales and len(scales) != len(bands):
            raise InputError(f"--scaled-by: {len(scales)} numbers for {len(bands)} bands; give one for each")

    def _keys(self, split: str, first: int, rows: int) -> pa.Array:
        """Make keys for `rows` rows of `split`, from `first` on: the data's name and the row's number."""
        url = self.config.data.rstrip("/")
        name = os.path.basename(os.path.abspath(local_path(url)) if is_local(url) else url)  # also for "."
        name = re.sub(r"\.(parquet|arrow)$", "", name, flags=re.IGNORECASE)
        name, end = (re.sub("[^A-Za-z0-9_-]", "_", text) for text in (name, f"_{split}" * bool(split)))
        start = name[: MAX_KEY - len(end) - len("_00000000")] + end
        return pa.array([f"{start}_{row:08d}" for row in range(first, first + rows)], pa.string())


def _find(url: str) -> list[tuple[str, str]]:
    """List the files of the data at `url`, in the order of their rows, each with its split."""
    if url.lower().endswith(_ENDINGS) and not (is_local(url) and local_path(url).is_dir()):
        return [(url, "")]
    names = find_files(url)
    if "dataset_dict.json" in names:
        splits = _listed(join(url, "dataset_dict.json"), "splits")
        files = [(file, split) for split in splits for file in _saved(join(url, split))]
    elif "state.json" in names:
        files = [(file, "") for file in _saved(url)]
    else:
        files = [(join(url, name), "") for name in names if name.lower().endswith(_ENDINGS)]
    if not files:
        raise InputError(
            f"{url}: no such folder, or no .arrow or .parquet files in it; give one that has some"
        )
    if len({_is_parquet(file) for file, _ in files}) > 1:
        raise InputError(f"{url}: has .arrow and .parquet files; give a folder of one kind, or one file")
    return files


def _saved(folder: str) -> list[str]:
    """List the files that `save_to_disk` wrote to `folder`."""
    state = join(folder, "state.json")
    if _listed(state, "_indices_data_files"):  # written by old versions
        raise InputError(f"{folder}: was saved as a selection of rows; save it again after flatten_indices()")
    names = [
        file.get("filename") if isinstance(file, dict) else file for file in _listed(state, "_data_files")
    ]
    try:
        for name in names:
            check_name(name)
    except InputError as error:
        raise InputError(f"{state}: {error}; save the data again") from error
    return [join(folder, str(name)) for name in names]


def _listed(url: str, name: str) -> list[Any]:
    """Return the list under `name` in the JSON at `url`."""
    values = parsed(read_json_bytes(url), url, "save the data again")
    listed = values.get(name) if isinstance(values, dict) else values
    if not isinstance(values, dict) or not isinstance(listed, list | None):
        raise InputError(f"{url}: {name} is {shown(listed)}, not a list; save the data again")
    return listed or []


def _contents(url: str) -> pa.Buffer:
    """Return the bytes of the file at `url`, memory-mapped if it is local."""
    if not is_local(url):
        return pa.py_buffer(read_chip_bytes(url))
    try:
        return pa.memory_map(str(local_path(url))).read_buffer()
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({one_line(error)})") from error


def _is_parquet(url: str) -> bool:
    return url.lower().endswith(".parquet")


def _arrow(data: pa.Buffer) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read Arrow's stream format, as `datasets` writes it, or file format; return schema and batches."""
    if bytes(data[:6]) != b"ARROW1":
        stream = pa.ipc.open_stream(pa.BufferReader(data))
        return stream.schema, iter(stream)
    file = pa.ipc.open_file(pa.BufferReader(data))
    return file.schema, map(file.get_batch, range(file.num_record_batches))


def _batches(url: str, data: pa.Buffer, columns: list[str], rows: NDArray[np.int64]) -> Iterator[Any]:
    """Yield the record batches of a file that hold its `rows`, each with the number of its first row."""
    start = 0
    if not _is_parquet(url):
        for batch in _arrow(data)[1]:
            batch.validate()  # buffers must be as long as the batch says
            yield start, batch
            start += batch.num_rows
        return
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if ((start <= rows) & (rows < end)).any():
            for batch in file.iter_batches(_PARQUET_ROWS, [group], columns, use_threads=False):
                yield start, batch
                start += batch.num_rows
        start = end


def _is_attribute(kind: pa.DataType) -> bool:
    """Tell whether values of this type can be attributes in an index, as a table's are."""
    with suppress(pa.ArrowException):
        as_attribute(plain_values(pa.chunked_array([], kind)))
        return not pa.types.is_null(kind)
    return False


def _named(name: str, values: pa.ChunkedArray) -> tuple[str, pa.ChunkedArray]:
    """Make a column a fact of a chip's origin if its name and type fit one, otherwise an attribute."""
    kind = _ORIGIN.get(name)
    if values.type == kind or (kind == pa.float64() and values.type == pa.int64()):
        if name == "acquired":
            days = [text and (as_day(re.split("[ T]", text)[0]) or text) for text in values.to_pylist()]
            return name, pa.chunked_array([days], kind)
        return name, values.cast(kind)
    return attribute_name(name), values
