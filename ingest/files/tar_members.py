"""Members of a tar by key and ending, where their bytes begin, and why some cannot be used.

A key is a member's name up to the first dot after the last slash, as WebDataset has it. Links lead to the
file they name. Tars joined by `cat` are read as one.
"""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from shards.errors import InputError, one_line
from shards.format.tar import BLOCK

COMPRESSIONS = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
    "lzip": b"LZIP",
    "compress": b"\x1f\x9d",
    "zip": b"PK\x03\x04",
    "7z": b"7z\xbc\xaf\x27\x1c",
}
"""First bytes of compressed files, by the format's own specification (IANA media types, file(1))."""
TWICE = "is there twice"
_ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class Member:
    """An array's file in a tar."""

    data: bytes
    offset: int
    """Byte of the tar at which the data begin."""
    problem: str = ""
    """Reason why it cannot be used; "" if it can."""


@dataclass(frozen=True)
class Members:
    """Files of a tar."""

    by_key: dict[str, dict[str, Member]] = field(default_factory=dict)
    """Members by key, then by ending."""
    hidden: list[str] = field(default_factory=list)
    """Names that begin with a dot, such as the ._ files that macOS adds; they are passed over."""


def compression_of(data: bytes) -> str:
    """Name the compression of a file by its first bytes; "" if it is none that is known."""
    return next((name for name, start in COMPRESSIONS.items() if data.startswith(start)), "")


def members_of(data: bytes, where: str) -> Members:
    """List the members of a tar; links have the bytes of the files they lead to.

    Raises:
        InputError: the bytes are no tar, or its end is missing.
    """
    files: dict[str, Member] = {}
    links: dict[str, str] = {}
    found = Members()
    for entry in _entries(data, where):
        name = entry.name
        if entry.isdir():
            continue
        if name.rpartition("/")[2].startswith("."):
            found.hidden.append(name)
        elif name in files or name in links:
            if not (entry.islnk() and entry.linkname == name):  # tar's own mark of a file given twice
                files[name] = Member(b"", entry.offset_data, TWICE)
        elif entry.islnk():
            links[name] = entry.linkname
        elif entry.issym():
            links[name] = posixpath.join(posixpath.dirname(name), entry.linkname)
        else:
            files[name] = _member(entry, data, where)
    at_path = {posixpath.normpath(name): name for name in [*links, *files]}
    for name in dict.fromkeys([*files, *links]):
        folder, slash, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        member = files[name] if name in files else _followed(name, links, files, at_path)
        found.by_key.setdefault(folder + slash + stem, {})[ending] = member
    return found


def _entries(data: bytes, where: str) -> Iterator[tarfile.TarInfo]:
    """Yield what a tar holds, and what tars behind its end hold."""
    file, start = io.BytesIO(data), 0
    while start < len(data) or not start:
        file.seek(start)
        try:
            # An index is UTF-8: a name in another encoding is written as its bytes.
            with tarfile.open(
                fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace"
            ) as archive:
                yield from archive
                end = archive.offset
        except (tarfile.TarError, ArithmeticError, EOFError, RecursionError, ValueError) as error:
            if compression := compression_of(data):
                raise InputError(
                    f"{where}: is compressed ({compression}), not a plain tar; unpack it"
                ) from error
            raise InputError(f"{where}: cannot be read as a tar ({one_line(error)[:200]})") from error
        if start == end > 0:
            raise InputError(
                f"{where}: its tar ends before byte {end:,}, and what follows is no tar; unpack it, and pack "
                "its files again"
            )
        # tarfile takes a damaged or missing header for the end, and would silently leave out what follows.
        if data[end : end + BLOCK] != _ZEROS:
            raise InputError(f"{where}: is damaged or cut at byte {end:,}; copy it again")
        start = end
        while start < len(data) and not data[start : start + BLOCK].strip(b"\0"):
            start += BLOCK


def _member(entry: tarfile.TarInfo, data: bytes, where: str) -> Member:
    start, stop = entry.offset_data, entry.offset_data + entry.size
    if entry.issparse():
        return Member(b"", start, "is stored without its holes (tar --sparse)")
    if not entry.isfile():
        return Member(b"", start, "is no file")
    if stop > len(data):
        raise InputError(f"{where}: ends within {entry.name}; copy it again")
    return Member(data[start:stop], start)


def _followed(name: str, links: dict[str, str], files: dict[str, Member], at_path: dict[str, str]) -> Member:
    """Follow a link, and links that it leads to, to a file of the tar."""
    met = {name}
    target = links[name]
    while (there := at_path.get(posixpath.normpath(target), "")) in links and there not in met:
        met.add(there)
        target = links[there]
    if there in files:
        return files[there]
    return Member(b"", 0, f"is a link to {links[name]}, which is no file of this tar")
