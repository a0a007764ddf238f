"""A mapped file has the bytes of the file, whatever is written to them or dropped; a remote one reads alike.

- It is read piece by piece with the file's checksum, in the memory of a piece.
- What is written stays in the process. Pages are dropped whole, so that neighbours at the edges keep theirs.
- A remote object opened as a file gives the bytes that were asked for, wherever one seeks.
"""

import io
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory import needs_peak, peak_bytes_of

from shards.errors import InputError
from shards.storage.checksum import hexadecimal, hexadecimal_of_pieces
from shards.storage.mapped import PIECE_BYTES
from shards.storage.objects import map_file, publish, remove_folder, size_of
from shards.storage.ranges import RemoteFile

STORE = "memory://treeline-mapped"


@pytest.fixture(autouse=True, scope="module")
def _other_store() -> Iterator[None]:
    yield
    remove_folder(STORE)


def written(folder: Path, count: int) -> tuple[str, bytes]:
    data = np.random.default_rng(count).integers(0, 256, count, np.uint8).tobytes()
    path = folder / "file"
    path.write_bytes(data)
    return str(path), data


@pytest.mark.parametrize("count", [1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 777])
def test_pieces_are_the_file(count: int, tmp_path: Path) -> None:
    url, data = written(tmp_path, count)
    file = map_file(url)
    assert b"".join(map(bytes, file.pieces())) == data
    assert hexadecimal_of_pieces(file.pieces()) == (hexadecimal(data), count)
    assert file[:] == data


@needs_peak
def test_pieces_take_the_memory_of_a_piece(tmp_path: Path) -> None:
    url, _ = written(tmp_path, 8 * PIECE_BYTES)
    assert peak_bytes_of(lambda: hexadecimal_of_pieces(map_file(url).pieces())) < 2.5 * PIECE_BYTES


def test_what_is_written_stays_here_until_its_pages_are_dropped(tmp_path: Path) -> None:
    page = mmap.PAGESIZE
    url, data = written(tmp_path, 6 * page)
    file, other = map_file(url), map_file(url)
    file[:] = bytes(6 * page)
    assert other[:] == data
    assert Path(url).read_bytes() == data
    file.release(page + 1, 5 * page - 1)  # no whole page but three
    zeros = bytes(2 * page)
    assert file[:] == zeros + data[2 * page : 4 * page] + zeros
    file.release(10, 20)
    assert file[:page] == bytes(page)


def test_a_mapped_file_outlives_its_name(tmp_path: Path) -> None:
    """A training replaces its best checkpoint in this way while the file is in use."""
    url, data = written(tmp_path, 3 * mmap.PAGESIZE)
    file = map_file(url)
    publish(url, b"another")
    assert file[:] == data
    Path(url).unlink()
    assert file[:] == data


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (map_file, size_of):
        with pytest.raises(InputError, match="nothing-here: no such file"):
            read(str(tmp_path / "nothing-here"))
    with pytest.raises(InputError, match="cannot be read"):
        map_file(str(tmp_path))


def test_a_remote_file_reads_what_was_asked_for(tmp_path: Path) -> None:
    _, data = written(tmp_path, 5_000_000)
    publish(f"{STORE}/file", data)
    assert size_of(f"{STORE}/file") == len(data)
    with RemoteFile(f"{STORE}/file") as file:
        for start, count in ((0, 10), (4_999_990, 100), (17, 3_000_000), (5_000_000, 1), (1_048_570, 20)):
            file.seek(start)
            assert file.read(count) == data[start : start + count]
        assert file.seek(-5, io.SEEK_END) == 4_999_995
        into = bytearray(2_500_000)
        file.seek(1_000_003)
        assert file.readinto(into) == len(into)
        assert into == data[1_000_003:3_500_003]


def test_an_archive_is_read_from_another_store(tmp_path: Path) -> None:
    """zipfile and torch.load seek to and fro."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}", bytes([number]) * 700_000)
    publish(f"{STORE}/archive.zip", path.read_bytes())
    with RemoteFile(f"{STORE}/archive.zip") as file, zipfile.ZipFile(file) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [
            bytes([number]) * 700_000 for number in range(5)
        ]
