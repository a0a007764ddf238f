"""Training states on storage: tensors in parts of at most a gigabyte, and one small object that names them.

state.json                                      names of the parts, and all that is not a tensor
state/step-00000500-.../00001-0000.safetensors  first part that the second rank wrote

Each rank writes the rows of tensors that it holds; none writes everything. state.json is published when all
parts are there, and only then are older parts removed, so a run killed at any moment has one whole state. A
part's header says which rows of which tensor it has, so any number of ranks can read what others wrote.
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
from trainer.weights.weights_file import header_bytes

STATE = "state.json"
PARTS = "state"
FORMAT = "treeline-training-state"
VERSION = 3
"""Layout of states; in layout 2 the names of moments say a parameter's place instead of its name."""
READABLE = (2, VERSION)
START_OVER = "delete it to start over"
"""Advice about a state that cannot be understood."""
PART_BYTES = 10**9
"""Bytes of a part, at most: far below the 5 GB that one request to S3 takes. Memory holds one part."""
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
"""Types in a state, by safetensors' names."""


@dataclass(frozen=True)
class TrainingState:
    """State of a run at one step, as one rank holds it."""

    name: str
    """Name that tells the step; no two states of a run share it."""
    tensors: dict[str, Rows]
    """Rows that this rank holds, in memory of their own."""
    values: dict[str, Any]
    """Plain JSON values; those of the first rank are written."""


class StateWriter:
    """Writer of the states of one run, on every rank that holds a part of them."""

    def __init__(self, out: str, meeting: Meeting | None = None, part_bytes: int = PART_BYTES) -> None:
        """Args:
        out: the run's folder.
        meeting: meeting of the ranks that write; default: this one alone.
        part_bytes: bytes of a part, at most, unless a single row is larger.
        """
        self._out, self._meeting, self._part_bytes = out, meeting or Meeting(), part_bytes

    def write(self, state: TrainingState) -> None:
        """Write `state`; every rank of the meeting must, in any thread, for the same states in order."""
        folder, count = join(PARTS, state.name), 0
        for part in in_parts(state.tensors, self._part_bytes):
            publish(join(self._out, folder, _part(self._meeting.rank, count)), part_bytes(part))
            count += 1
        is_first = self._meeting.rank == 0
        # List before the other ranks can continue with the next state, whose parts must stay.
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
    """Group rows into parts of at most `limit` bytes; a larger tensor is cut between rows."""
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
    """Return a part as the bytes of one safetensors file."""
    about = {name: {"first": rows.first, "shape": rows.shape} for name, rows in part.items()}
    # One entry, since safetensors writes several in any order, and equal states must have equal bytes.
    header = {_ROWS: json.dumps(about)}
    return save({name: rows.tensor.contiguous() for name, rows in part.items()}, header)


def remove_leftovers(out: str) -> None:
    """Remove the parts below `out` that state.json does not name; no process may be writing there."""
    remove_unfinished(join(out, PARTS))
    if exists(join(out, STATE)):
        _remove(out, find_files(join(out, PARTS)), read_about(out)["parts"])
    else:
        remove_folder(join(out, PARTS))


def _remove(out: str, there: list[str], parts: list[str]) -> None:
    for name in {join(PARTS, name) for name in there} - set(parts):
        remove_file(join(out, name))


@dataclass(frozen=True)
class _Stored:
    """Rows of a tensor in a part on storage."""

    url: str
    """Part that holds them."""
    start: int
    """Position of the first row's first byte."""
    first: int
    """Number of the first row in the whole tensor."""
    count: int
    """Number of rows."""
    dtype: torch.dtype


class StoredState:
    """State on storage, from which each rank reads the rows that it needs; use it with `with`."""

    def __init__(self, out: str) -> None:
        """Args:
        out: folder of a run that has a state.

        Raises:
            InputError: the state is damaged, or is not one.
        """
        self.url = join(out, STATE)
        about = read_about(out)
        self.values = {name: about[name] for name in about if name not in _ABOUT_PARTS}
        self.shapes = dict[str, tuple[int, ...]]()
        """Shapes of the whole tensors, by name."""
        self._stored = dict[str, list[_Stored]]()
        self._fetcher = Fetcher()
        for part in about["parts"]:
            self._read_header(join(out, part))

    def __enter__(self) -> "StoredState":
        return self

    def __exit__(self, *error: object) -> None:
        self._fetcher.close()

    def rows(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """Read rows `first` to `first + count` of a tensor, by default all, on the CPU.

        Raises:
            InputError: some of the rows are missing.
        """
        shape, stored = self.shapes[name], self._stored[name]
        rows, of_row = (*shape, 1)[0], shape[1:]
        count = rows - first if count is None else count
        row_bytes = prod(of_row) * stored[0].dtype.itemsize
        into, missing = np.empty(count * row_bytes, np.uint8), count
        for part in stored:
            begin, end = max(first, part.first), min(first + count, part.first + part.count)
            if begin < end:
                start = part.start + (begin - part.first) * row_bytes
                self._read(part.url, start, into[(begin - first) * row_bytes : (end - first) * row_bytes])
                missing -= end - begin
        if missing:
            raise InputError(f"{self.url}: rows of {name} are missing; delete it to start over")
        shape, dtype = (count, *of_row) if shape else (), stored[0].dtype
        # torch cannot view zero bytes as numbers.
        return torch.from_numpy(into).view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)

    def _read_header(self, url: str) -> None:
        before = np.empty(8, np.uint8)
        self._read(url, 0, before)
        try:
            length = header_bytes(before.tobytes())
            text = np.empty(length, np.uint8)
            self._read(url, 8, text)
            header = json.loads(text.tobytes())
            rows = json.loads(header.pop("__metadata__")[_ROWS])
            for name, entry in header.items():
                self.shapes[name] = tuple(rows[name]["shape"])
                start, count = 8 + length + entry["data_offsets"][0], (*entry["shape"], 1)[0]
                found = _Stored(url, start, rows[name]["first"], count, _DTYPES[entry["dtype"]])
                self._stored.setdefault(name, []).append(found)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
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


def read_about(out: str) -> dict[str, Any]:
    """Read what is no tensor of the state at `out`, and the names of its parts.

    Raises:
        InputError: the state is damaged, or is not one.
    """
    url = join(out, STATE)
    try:
        about = json.loads(read_bytes(url))
        known = about["format"] == FORMAT and about["version"] in READABLE
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{url}: not a training state ({_why(error)}); {START_OVER}") from error
    if not known:
        raise InputError(f"{url}: not a training state of this version; {START_OVER}")
    parts = about.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"{url}: names no parts; {START_OVER}")
    return dict(about)


def _why(error: Exception) -> str:
    """Say what is wrong with a state's JSON."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
