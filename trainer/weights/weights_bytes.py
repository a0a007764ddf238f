"""Bytes of .safetensors files, piece by piece, without a copy in memory: made of tensors, or merged.

    pieces_of(tensors)          the bytes that safetensors.torch.save returns
    merged_pieces(files)        the bytes of one file with the tensors of several

A file is the length of its header, the header, and the tensors' bytes. safetensors (0.8, `prepare` in
safetensors/src/tensor.rs) orders tensors by type, then name, so a file has the same bytes whoever wrote it.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.weights.weights_file import DTYPES, Entry, entries_of, header_bytes

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PLACES = {dtype: place for place, dtype in enumerate(DTYPES.values())}
_ALIGNED = 8
"""Multiple of bytes at which the tensors start."""


def pieces_of(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file of these tensors on the CPU: the header, then a piece for each tensor."""
    entries = [
        Entry(name, tensor.dtype, tuple(tensor.shape), 0, tensor.nbytes) for name, tensor in tensors.items()
    ]
    entries.sort(key=_place)
    yield _header_of(entries)
    for entry in entries:
        flat = tensors[entry.name].detach().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data


def _place(entry: Entry) -> tuple[int, str]:
    """Return the key by which tensors are ordered in a file."""
    return _PLACES[entry.dtype], entry.name


def _header_of(entries: Iterable[Entry]) -> bytes:
    """Return the bytes before the tensors, which follow in the order of `entries`."""
    described, end = dict[str, Any](), 0
    for entry in entries:
        start, end = end, end + entry.end - entry.start
        described[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def merged_pieces(files: dict[str, Iterable[bytes]]) -> Iterator[bytes]:
    """Yield the bytes of one file with the tensors of several.

    Args:
        files: bytes of each file, piece by piece, by the file's name, which errors state.

    Raises:
        ValueError: one is cut off, or is no file of weights; says which.
    """
    sources = [_Source(name, pieces) for name, pieces in files.items()]
    entries = [(entry, source) for source in sources for entry in source.entries()]
    entries.sort(key=lambda pair: _place(pair[0]))
    yield _header_of(entry for entry, _ in entries)
    for entry, source in entries:
        yield from source.take(entry.end - entry.start)
    for source in sources:
        source.finish()


class _Source:
    """A file that is read once, from its beginning."""

    def __init__(self, name: str, pieces: Iterable[bytes]) -> None:
        self._name, self._pieces, self._left = name, iter(pieces), b""

    def entries(self) -> list[Entry]:
        """Read the header."""
        length = b"".join(self.take(8))
        try:
            first = length + b"".join(self.take(header_bytes(length)))
            return entries_of(first)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from error

    def take(self, count: int) -> Iterator[bytes]:
        """Yield the next `count` bytes."""
        while count:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    raise ValueError(f"{self._name}: is cut off")
            piece, self._left = self._left[:count], self._left[count:]
            count -= len(piece)
            yield piece

    def finish(self) -> None:
        """Refuse bytes behind the tensors; read to the end, where the pieces may check themselves."""
        if self._left or next(self._pieces, b""):
            raise ValueError(f"{self._name}: is longer than its list of tensors says")
