"""A training state on storage: tensors in parts of at most a gigabyte, and one small object that names them.

state.json                                      which parts there are, and all that is no tensor
state/step-00000500-.../00001-0000.safetensors  the first part of what the second rank wrote

Each rank writes the rows of tensors that it holds, none the whole. state.json is published when all parts
are there, and only then are older ones removed: a run that is killed anywhere finds the one or the other.
Which rows of which tensor a part has stands in its header, so any number of ranks reads what others wrote.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from shards.errors import DatasetError, InputError
from shards.format.manifest import json_bytes
from shards.storage.objects import (
    exists,
    find_files,
    join,
    publish,
    read_bytes,
    remove_file,
    remove_folder,
    remove_unfinished,
)
from shards.storage.ranges import Fetcher
from trainer.devices.ranks import Meeting
from trainer.devices.sharding import Rows

STATE = "state.json"
PARTS = "state"
FORMAT = "treeline-training-state"
VERSION = 2
PART_BYTES = 10**9
"""Of a part, at most: far below the 5 GB that one request to S3 takes, and held in memory while written."""
LONGEST_HEADER = 10**8
"""Bytes of a safetensors file's header, at most (safetensors 0.8, MAX_HEADER_SIZE)."""
_ABOUT_PARTS = ("format", "version", "parts")
_ROWS = "rows"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
"""What safetensors calls the types of what learns and counts."""


@dataclass(frozen=True)
class TrainingState:
    """What is known of a run at one step, as one rank has it."""

    name: str
    """Tells the step; no two states of a run have the same."""
    tensors: dict[str, Rows]
    """What this rank holds, in memory of its own."""
    values: dict[str, Any]
    """Plain JSON values; the same on every rank, or known to the first."""


class StateWriter:
    """Writes the states of one run, on every rank that holds a part of them."""

    def __init__(self, out: str, meeting: Meeting | None = None, part_bytes: int = PART_BYTES) -> None:
        """Args:
        out: the run's folder.
        meeting: of the ranks that write; default: this one alone.
        part_bytes: what a part holds at most, unless a single row is larger.
        """
        self._out, self._meeting, self._part_bytes = out, meeting or Meeting(), part_bytes

    def write(self, state: TrainingState) -> None:
        """Write `state`; every rank of the meeting does, in any thread, for the same states in order."""
        folder, count = join(PARTS, state.name), 0
        for part in in_parts(state.tensors, self._part_bytes):
            publish(join(self._out, folder, _part(self._meeting.rank, count)), part_bytes(part))
            count += 1
        is_first = self._meeting.rank == 0
        # Listed before the others may go on to the next state, whose parts are not to be removed.
        there = find_files(join(self._out, PARTS)) if is_first else []
        counts = self._meeting.tell(count)
        if is_first:
            parts = [
                join(folder, _part(rank, number)) for rank, n in enumerate(counts) for number in range(n)
            ]
            about = {"format": FORMAT, "version": VERSION, "parts": parts, **state.values}
            publish(join(self._out, STATE), json_bytes(about))
            _remove(self._out, there, parts)


def _part(rank: int, number: int) -> str:
    return f"{rank:05d}-{number:04d}.safetensors"


def in_parts(tensors: dict[str, Rows], limit: int) -> Iterator[dict[str, Rows]]:
    """The same rows, in parts of at most `limit` bytes; a tensor that is larger is cut between rows."""
    part, room = dict[str, Rows](), limit
    for name, rows in _in_pieces(tensors.items(), limit):
        if part and rows.tensor.nbytes > room:
            yield part
            part, room = {}, limit
        part[name], room = rows, room - rows.tensor.nbytes
    if part:
        yield part


def _in_pieces(tensors: Iterable[tuple[str, Rows]], limit: int) -> Iterator[tuple[str, Rows]]:
    for name, rows in tensors:
        if rows.tensor.nbytes <= limit or not rows.shape:
            if rows.tensor.numel():
                yield name, rows
            continue
        step = max(1, limit // rows.tensor[0].nbytes)
        for at in range(0, len(rows.tensor), step):
            yield name, Rows(rows.tensor[at : at + step], rows.first + at, rows.shape)


def part_bytes(part: dict[str, Rows]) -> bytes:
    """A part as one safetensors file."""
    about = {name: {"first": rows.first, "shape": rows.shape} for name, rows in part.items()}
    # One entry: safetensors writes several in any order, and the same state is to be the same bytes.
    header = {_ROWS: json.dumps(about)}
    return save({name: rows.tensor.contiguous() for name, rows in part.items()}, header)


def remove_leftovers(out: str) -> None:
    """Remove the parts below `out` that state.json does not name; no process may be writing there."""
    remove_unfinished(join(out, PARTS))
    if exists(join(out, STATE)):
        _remove(out, find_files(join(out, PARTS)), _read_about(out)["parts"])
    else:
        remove_folder(join(out, PARTS))


def _remove(out: str, there: list[str], parts: list[str]) -> None:
    for name in {join(PARTS, name) for name in there} - set(parts):
        remove_file(join(out, name))


@dataclass(frozen=True)
class _Stored:
    """Where rows of a tensor lie on storage."""

    url: str
    start: int
    """The first row's first byte."""
    first: int
    count: int
    dtype: torch.dtype


class StoredState:
    """A state on storage, of which each rank reads the rows that it needs; to be used with `with`."""

    def __init__(self, out: str) -> None:
        """Args:
        out: the folder of a run that has one.

        Raises:
            InputError: it is damaged, or something else.
        """
        self.url = join(out, STATE)
        about = _read_about(out)
        self.values = {name: about[name] for name in about if name not in _ABOUT_PARTS}
        self.shapes = dict[str, tuple[int, ...]]()
        """Of every tensor, by name."""
        self._stored = dict[str, list[_Stored]]()
        self._fetcher = Fetcher()
        for part in about["parts"]:
            self._read_header(join(out, part))

    def __enter__(self) -> "StoredState":
        return self

    def __exit__(self, *error: object) -> None:
        self._fetcher.close()

    def rows(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """Rows `first` to `first + count` of a tensor, by default all, on the CPU.

        Raises:
            InputError: they are not all there.
        """
        shape, stored = self.shapes[name], self._stored[name]
        rows, of_row = (*shape, 1)[0], shape[1:]
        count = rows - first if count is None else count
        row_bytes = prod(of_row) * stored[0].dtype.itemsize
        into, missing = np.empty(count * row_bytes, np.uint8), count
        for piece in stored:
            begin, end = max(first, piece.first), min(first + count, piece.first + piece.count)
            if begin < end:
                start = piece.start + (begin - piece.first) * row_bytes
                self._read(piece.url, start, into[(begin - first) * row_bytes : (end - first) * row_bytes])
                missing -= end - begin
        if missing:
            raise InputError(f"{self.url}: rows of {name} are missing; delete it to start over")
        shape, dtype = (count, *of_row) if shape else (), stored[0].dtype
        # torch cannot see no bytes as numbers.
        return torch.from_numpy(into).view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)

    def _read_header(self, url: str) -> None:
        before = np.empty(8, np.uint8)
        self._read(url, 0, before)
        length = int.from_bytes(before.tobytes(), "little")
        text = np.empty(min(length, LONGEST_HEADER), np.uint8)
        self._read(url, 8, text)
        try:
            header = json.loads(text.tobytes())
            rows = json.loads(header.pop("__metadata__")[_ROWS])
            for name, entry in header.items():
                self.shapes[name] = tuple(rows[name]["shape"])
                start, count = 8 + length + entry["data_offsets"][0], (*entry["shape"], 1)[0]
                found = _Stored(url, start, rows[name]["first"], count, _DTYPES[entry["dtype"]])
                self._stored.setdefault(name, []).append(found)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{url}: not a part of a training state; delete {self.url} to start over"
            ) from error

    def _read(self, url: str, start: int, into: NDArray[np.uint8]) -> None:
        try:
            self._fetcher.read_into(url, start, into)
        except DatasetError as error:
            raise InputError(
                f"{self.url}: a part cannot be read ({error}); if it is lost, delete {self.url} to start over"
            ) from error


def _read_about(out: str) -> dict[str, Any]:
    url = join(out, STATE)
    try:
        about = json.loads(read_bytes(url))
        known = (about["format"], about["version"]) == (FORMAT, VERSION)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: not a training state ({error}); delete it to start over") from error
    if not known:
        raise InputError(f"{url}: not a training state of this version; delete it to start over")
    return dict(about)
