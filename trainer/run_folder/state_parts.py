"""Training states on storage: tensors in parts of at most a gigabyte, and one small object that names them.

state.json                                      names of the parts, and all that is not a tensor
state/step-00000500-.../00001-0000.safetensors  first part that the second rank wrote

Each rank writes the rows of tensors that it holds; none writes everything. state.json is published when all
parts are there, and only then are older parts removed, so a run killed at any moment has one whole state. A
part's header says which rows of which tensor it has, so any number of ranks can read what others wrote.

state.json has a checksum of itself, and of each part the size and two checksums, of the whole and of its
header; the header has one of each tensor's rows. So each byte is compared when it is read, by the rank that
needs it, and nothing is read twice.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from shards.errors import DatasetError, InputError
from shards.format.path_names import check_name
from shards.format.sealed import sealed, unsealed
from shards.storage.checksum import hexadecimal
from shards.storage.json_marks import HEXADECIMAL, AtLeast
from shards.storage.json_text import parsed, read_json_bytes
from shards.storage.objects import (
    exists,
    find_files,
    join,
    publish,
    remove_file,
    remove_folder,
    remove_unfinished,
    size_of,
)
from shards.storage.ranges import Fetcher
from shards.storage.typed_json import typed
from trainer.devices.ranks import Meeting
from trainer.devices.sharding import Rows
from trainer.weights.weights_file import header_bytes

STATE = "state.json"
PARTS = "state"
FORMAT = "treeline-training-state"
VERSION = 4
"""Layout of states; 3 had no checksums, and in 2 names of moments said a parameter's place, not its name."""
READABLE = (2, 3, VERSION)
SUMS = "sums"
"""Entry of state.json with the sizes and checksums of parts."""
START_OVER = "delete it to start over"
"""Advice about a state that cannot be understood."""
PART_BYTES = 10**9
"""Bytes of a part, at most: far below the 5 GB that one request to S3 takes. Memory holds one part."""
_ABOUT_PARTS = ("format", "version", "parts", SUMS)
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


@dataclass(frozen=True)
class PartSum:
    """What a part must be."""

    nbytes: Annotated[int, AtLeast(8)]
    xxh3: Annotated[str, HEXADECIMAL]
    header: Annotated[str, HEXADECIMAL]
    """Checksum of all that stands before the tensors."""

    @classmethod
    def of(cls, data: bytes) -> "PartSum":
        """Describe a part."""
        return cls(len(data), hexadecimal(data), hexadecimal(data[: 8 + header_bytes(data)]))


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
        folder, rank, own = join(PARTS, state.name), self._meeting.rank, dict[str, Any]()
        for number, part in enumerate(in_parts(state.tensors, self._part_bytes)):
            name, data = join(folder, _part(rank, number)), part_bytes(part)
            publish(join(self._out, name), data)
            own[name] = asdict(PartSum.of(data))
        # List before the other ranks can continue with the next state, whose parts must stay.
        there = find_files(join(self._out, PARTS)) if rank == 0 else []
        told = self._meeting.tell_text(json.dumps(own))
        if rank == 0:
            sums = {name: one for text in told for name, one in json.loads(text).items()}
            about = {"format": FORMAT, "version": VERSION, "parts": list(sums), SUMS: sums, **state.values}
            publish(join(self._out, STATE), sealed(about))
            _remove(self._out, there, list(sums))


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
    tensors = {name: rows.tensor.contiguous() for name, rows in part.items()}
    about = {
        name: {"first": rows.first, "shape": rows.shape, "xxh3": hexadecimal(_bytes_of(tensors[name]))}
        for name, rows in part.items()
    }
    # One entry, since safetensors writes several in any order, and equal states must have equal bytes.
    return save(tensors, {_ROWS: json.dumps(about)})


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.flatten().view(torch.uint8).numpy()


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
    xxh3: str
    """Checksum of the rows; "" in states of before."""


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
        self.has_sums = SUMS in about
        """Whether damage to it is seen; a state of before has no checksums."""
        self._stored = dict[str, list[_Stored]]()
        self._fetcher = Fetcher()
        sums = typed(about.get(SUMS, {}), dict[str, PartSum], self.url, START_OVER)
        for part in about["parts"]:
            if self.has_sums and part not in sums:
                raise InputError(f"{self.url}: has no checksum of {part}; {START_OVER}")
            self._read_header(join(out, part), sums.get(part))

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
                piece = into[(begin - first) * row_bytes : (end - first) * row_bytes]
                self._read_rows(name, part, (begin - part.first) * row_bytes, piece, part.count * row_bytes)
                missing -= end - begin
        if missing:
            raise InputError(f"{self.url}: rows of {name} are missing; delete it to start over")
        shape, dtype = (count, *of_row) if shape else (), stored[0].dtype
        # torch cannot view zero bytes as numbers.
        return torch.from_numpy(into).view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)

    def _read_rows(self, name: str, part: _Stored, start: int, into: NDArray[np.uint8], nbytes: int) -> None:
        """Fill `into` with the bytes of a part's rows from `start` on; all `nbytes` have the checksum."""
        whole = into if into.size == nbytes or not part.xxh3 else np.empty(nbytes, np.uint8)
        at = start if whole is into else 0
        self._read(part.url, part.start + at, whole)
        if part.xxh3 and hexadecimal(whole) != part.xxh3:
            raise InputError(f"{part.url}: its rows of {name} are not what was written; {self._copy_again}")
        if whole is not into:
            into[:] = whole[start : start + into.size]

    @property
    def _copy_again(self) -> str:
        return f"copy it again, or delete {self.url} to start over"

    def _read_header(self, url: str, stated: PartSum | None) -> None:
        if stated and (nbytes := size_of(url)) != stated.nbytes:
            raise InputError(f"{url}: {nbytes:,} bytes instead of {stated.nbytes:,}; {self._copy_again}")
        before = np.empty(8, np.uint8)
        self._read(url, 0, before)
        try:
            length = header_bytes(before.tobytes())
            text = np.empty(length, np.uint8)
            self._read(url, 8, text)
            if stated and hexadecimal(before.tobytes() + text.tobytes()) != stated.header:
                raise ValueError("its header is not what was written")
            header = parsed(text.tobytes(), url)
            rows = parsed(header.pop("__metadata__")[_ROWS].encode(), url)
            for name, entry in header.items():
                self.shapes[name] = tuple(rows[name]["shape"])
                start, count = 8 + length + entry["data_offsets"][0], (*entry["shape"], 1)[0]
                xxh3 = rows[name]["xxh3"] if stated else ""
                found = _Stored(url, start, rows[name]["first"], count, _DTYPES[entry["dtype"]], xxh3)
                self._stored.setdefault(name, []).append(found)
        except (ArithmeticError, AttributeError, InputError, LookupError, TypeError, ValueError) as error:
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
    data = read_json_bytes(url)
    about = parsed(data, url, START_OVER)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{url}: not a training state; {START_OVER}")
    if about.get("version") not in READABLE:
        raise InputError(f"{url}: not a training state of this version; {START_OVER}")
    about, is_sealed = unsealed(url, data, about, START_OVER)
    if is_sealed != (about["version"] == VERSION) or is_sealed != (SUMS in about):
        raise InputError(f"{url}: is not what was written (it has lost its checksums); {START_OVER}")
    parts = about.get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"{url}: names no parts; {START_OVER}")
    try:
        for part in parts:
            check_name(part)
    except InputError as error:
        raise InputError(f"{url}: {error}; {START_OVER}") from error
    return about
