"""Reading of .safetensors files without a second copy in memory. Nothing is unpickled.

found = read_tensors(url)         tensors by name: a local file is mapped, others are downloaded once
fill(model, found.tensors)        parts of the model on the device "meta" take the tensors themselves
release(tensor)                   drops the pages of a mapped tensor, once there is a copy

A mapped tensor takes no memory of the process: its pages are the file's, and are read when they are used. A
tensor from another store has memory of its own, which is freed as soon as it is rounded or on a GPU. A
temporary file to map would take as much disk, which containers may not have. trainer.weights.weights_bytes
writes such files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from shards.errors import DatasetError, InputError
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.json_text import parsed
from shards.storage.mapped import PIECE_BYTES, MappedFile
from shards.storage.objects import Bytes, is_local, map_file, read_pieces, size_of, version_of
from shards.storage.ranges import Fetcher

DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types by safetensors' names, in the order of their tensors in a file."""
LONGEST_HEADER = 2**22
"""Bytes of a file's header, at most: DINOv3 7B's takes 2 % of it. safetensors itself allows 10**8."""
HEADER_PIECE_BYTES = 2**17
"""Bytes that are read at a time of a file's header."""
_ADDRESSES: WeakKeyDictionary[MappedFile, int] = WeakKeyDictionary()
"""Mapped files, with the address of their first byte. A tensor keeps its file mapped."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset behind its last byte."""


@dataclass(frozen=True)
class Found:
    """Tensors of a file."""

    tensors: dict[str, Tensor]
    checksum: str
    """Checksum of the whole file; empty unless it was asked for."""


def entries_of(first: bytes) -> list[Entry]:
    """List the tensors of a .safetensors file in the order of their bytes, from the file's first bytes.

    Raises:
        ValueError: the bytes do not begin as such a file does.
    """
    length = header_bytes(first)
    if len(first) < 8 + length:
        raise ValueError(f"is cut off within its list of tensors, which takes {length:,} bytes")
    entries, at = list[Entry](), 8 + length
    try:
        described = parsed(first[8 : 8 + length], "its list of tensors")
        for name, values in described.items():
            if name != "__metadata__":
                start, end = (8 + length + int(offset) for offset in values["data_offsets"])
                shape = tuple(map(int, values["shape"]))
                entries.append(Entry(name, DTYPES[values["dtype"]], shape, start, end))
    except (ArithmeticError, AttributeError, InputError, LookupError, TypeError, ValueError) as error:
        raise ValueError("its list of tensors cannot be understood") from error
    entries.sort(key=lambda entry: (entry.start, entry.end))
    for entry in entries:
        fits = entry.end - at == entry.dtype.itemsize * prod(entry.shape) and min(entry.shape, default=0) >= 0
        if entry.start != at or not fits:
            raise ValueError(f"{entry.name} is not where the list of tensors says")
        at = entry.end
    return entries


def header_bytes(first: Bytes) -> int:
    """Return the length of a .safetensors file's header, in bytes, from the file's first bytes.

    Raises:
        ValueError: the file is empty or cut off, or begins with something else.
    """
    if len(first) < 8:
        raise ValueError(f"is cut off after {len(first)} bytes" if first else "is empty")
    length = int.from_bytes(first[:8], "little")
    if length > LONGEST_HEADER:
        raise ValueError(
            f"does not begin as a .safetensors file: its list of tensors would take {length:,} bytes"
        )
    return length


def check_size(entries: list[Entry], first: bytes, found_bytes: int) -> None:
    """Refuse a file that is cut off, or longer than its tensors.

    Raises:
        ValueError: says how long it is, and how long it should be.
    """
    expected = entries[-1].end if entries else 8 + int.from_bytes(first[:8], "little")
    if found_bytes != expected:
        raise ValueError(f"{found_bytes:,} bytes, not {expected:,}")


def read_entries(url: str) -> list[Entry]:
    """List the tensors of the file at `url`, whose length is compared with the list; no tensor is read.

    Raises:
        InputError: the file cannot be read.
        ValueError: it is damaged.
    """
    nbytes, first, pieces = size_of(url), b"", read_pieces(url, HEADER_PIECE_BYTES)
    while len(first) < 8 or len(first) < 8 + header_bytes(first):
        piece = next(pieces, b"")
        if not piece:
            break
        first += piece
    entries = entries_of(first)
    check_size(entries, first, nbytes)
    return entries


def read_tensors(url: str, prefix: str = "", with_checksum: bool = False) -> Found:
    """Read the tensors of the .safetensors file at `url` whose names begin with `prefix`; names lose it.

    Raises:
        InputError: the file cannot be read.
        ValueError: it is damaged.
    """
    found = (_mapped if is_local(url) else _downloaded)(url, prefix, with_checksum)
    return Found({name.removeprefix(prefix): one for name, one in found.tensors.items()}, found.checksum)


def _mapped(url: str, prefix: str, with_checksum: bool) -> Found:
    file = map_file(url)
    first = file[: 8 + header_bytes(file[:8])]
    entries = entries_of(first)
    check_size(entries, first, len(file))
    checksum = hexadecimal_of_pieces(file.pieces())[0] if with_checksum else ""
    _ADDRESSES[file] = torch.frombuffer(file, dtype=torch.uint8).data_ptr()
    tensors = {}
    for entry in entries:
        count = prod(entry.shape)
        if entry.name.startswith(prefix):
            if count:
                flat_N = torch.frombuffer(file, dtype=entry.dtype, count=count, offset=entry.start)
                tensors[entry.name] = flat_N.view(entry.shape)
            else:  # a backbone without registers has an empty tensor of them
                tensors[entry.name] = torch.empty(entry.shape, dtype=entry.dtype)
    return Found(tensors, checksum)


def _downloaded(url: str, prefix: str, with_checksum: bool) -> Found:
    before = version_of(url)
    first = next(read_pieces(url), b"")
    entries = entries_of(first)
    check_size(entries, first, size_of(url))
    tensors = {
        entry.name: torch.empty(entry.shape, dtype=entry.dtype)
        for entry in entries
        if entry.name.startswith(prefix)
    }
    fetcher = Fetcher()
    try:
        wanted = [entry for entry in entries if entry.name in tensors and entry.end > entry.start]
        fetcher.read_pieces(url, [(entry.start, _bytes_of(tensors[entry.name])) for entry in wanted])
        pieces = _pieces(url, fetcher, first, entries, tensors)
        checksum = hexadecimal_of_pieces(pieces)[0] if with_checksum else ""
    except DatasetError as error:
        raise InputError(str(error)) from error
    finally:
        fetcher.close()
    if version_of(url) != before:
        raise InputError(f"{url}: was written anew while it was read; run the command again")
    return Found(tensors, checksum)


def _bytes_of(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the bytes of a contiguous tensor, in its own memory."""
    return tensor.view(-1).view(torch.uint8).numpy()


def _pieces(
    url: str, fetcher: Fetcher, first: bytes, entries: list[Entry], tensors: Mapping[str, Tensor]
) -> Iterator[Bytes]:
    """Yield a file from start to end; tensors that are in memory are not read again."""
    yield first[: entries[0].start if entries else len(first)]
    for entry in entries:
        if entry.name in tensors:
            yield _bytes_of(tensors[entry.name]).data
            continue
        for start in range(entry.start, entry.end, PIECE_BYTES):
            piece = np.empty(min(PIECE_BYTES, entry.end - start), np.uint8)
            fetcher.read_into(url, start, piece)
            yield piece.data


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model all of its weights, in its own types. Parameters on "meta" become the tensors themselves.

    The others, such as a decoder's, keep their memory and layout.

    Raises:
        RuntimeError: a tensor is missing, unknown, or has another shape.
    """
    there = model.state_dict()

    def fitted(name: str, value: Tensor) -> Tensor:
        own = there.get(name)
        if own is None or own.shape != value.shape:
            return value  # load_state_dict names it
        return value.to(own.dtype) if own.is_meta else own.copy_(value)

    model.load_state_dict({name: fitted(name, value) for name, value in tensors.items()}, assign=True)
    left = [name for name, one in (*model.named_parameters(), *model.named_buffers()) if one.is_meta]
    if left:
        raise RuntimeError(f"{left[0]} has no weights")


def release(tensor: Tensor) -> None:
    """Drop the pages of a mapped tensor that has been copied; do nothing with any other tensor.

    What was written to the tensor is lost.
    """
    for file, first in list(_ADDRESSES.items()):
        start = tensor.data_ptr() - first
        if tensor.device.type == "cpu" and 0 <= start < len(file):
            file.release(start, start + tensor.nbytes)
