"""Bytes of files of weights (.safetensors), piece by piece: of tensors, or of two files made one.

    pieces_of(tensors)          the bytes that safetensors.torch.save returns, without a copy in memory
    merged_pieces(files)        the bytes of one file that has the tensors of several

A file is the length of its header, the header, and the tensors' bytes. safetensors (0.8, `prepare` in
safetensors/src/tensor.rs) orders tensors by type, then name, so a file has the same bytes whoever wrote it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ORDER = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
"""safetensors' names of types, in the order of their tensors in a file."""
_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNED = 8
"""Number of bytes of which the tensors' start is a multiple."""


@dataclass(frozen=True)
class Entry:
    """What a file's header says of a tensor."""

    name: str
    dtype: str
    """Type by safetensors' name."""
    shape: tuple[int, ...]
    nbytes: int

    @property
    def rank(self) -> tuple[int, str]:
        """Place in a file, compared with other tensors."""
        return _ORDER.index(self.dtype), self.name


def pieces_of(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file of these tensors on the CPU: the header, then a piece for each tensor."""
    entries = [
        Entry(name, _NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes)
        for name, tensor in tensors.items()
    ]
    entries.sort(key=lambda entry: entry.rank)
    yield header_of(entries)
    for entry in entries:
        flat = tensors[entry.name].detach().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data


def header_of(entries: Iterable[Entry]) -> bytes:
    """Return the bytes before the tensors, which come in this order."""
    described, end = dict[str, Any](), 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        described[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def merged_pieces(files: dict[str, Iterable[bytes]]) -> Iterator[bytes]:
    """Yield the bytes of one file that has the tensors of several.

    Args:
        files: bytes of each file, piece by piece, by its name for errors.

    Raises:
        ValueError: one is cut off, or is no file of weights; says which.
    """
    streams = [_Stream(name, pieces) for name, pieces in files.items()]
    entries = [(entry, stream) for stream in streams for entry in stream.entries()]
    entries.sort(key=lambda pair: pair[0].rank)
    yield header_of(entry for entry, _ in entries)
    for entry, stream in entries:
        yield from stream.take(entry.nbytes)
    for stream in streams:
        stream.finish()


class _Stream:
    """A file that is read once, from its beginning."""

    def __init__(self, name: str, pieces: Iterable[bytes]) -> None:
        self._name, self._pieces, self._left = name, iter(pieces), b""

    def entries(self) -> list[Entry]:
        """Read the header."""
        length = int.from_bytes(b"".join(self.take(8)), "little")
        text = b"".join(self.take(length))
        try:
            described = json.loads(text)
            described.pop("__metadata__", None)
            found = [
                Entry(name, values["dtype"], tuple(values["shape"]), end - start)
                for name, values in described.items()
                for start, end in [values["data_offsets"]]
            ]
            return sorted(found, key=lambda entry: entry.rank)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._name}: its list of tensors cannot be understood") from error

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
        """See that nothing follows, and let the reader come to its end."""
        if self._left or next(self._pieces, b""):
            raise ValueError(f"{self._name}: is longer than its list of tensors says")
