"""The disk cache: whatever processes, disks and other people's files do, everybody gets the right bytes.

- each content is fetched once by any number of processes and threads; if one is killed, the next fetches
- a damaged or cut entry is fetched again; a full, read-only or vanished folder is not an error
- the entries never exceed the limit, the least recently used go first, and files of others stay
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.errors import InputError
from shards.storage.disk_cache import ABANDONED_SECONDS, FOOTER, MAGIC, DiskCache

ROOT = Path(__file__).parents[3]
SIZE = 10_000
AMPLE = 10**9
PROLOGUE = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from shards.storage.disk_cache import DiskCache
folder = sys.argv[1]
def content(number, size=10_000):
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)
def fetch(cache, number, get, size=10_000):
    into = np.zeros(size, np.uint8)
    hit = cache.fetch(f"piece {number}", into, get)
    assert (into == content(number, size)).all()
    return hit
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs PROLOGUE and `script`."""
    command = [sys.executable, "-c", PROLOGUE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out, error


def content(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)


def fetch(cache: DiskCache, number: int, size: int = SIZE) -> bool:
    """Fetches and compares; whether it was a hit."""
    into = np.zeros(size, np.uint8)
    hit = cache.fetch(f"piece {number}", into, lambda into: np.copyto(into, content(number, size)))
    np.testing.assert_array_equal(into, content(number, size))
    return hit


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.cached"))


def temporaries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.part"))


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_miss_is_stored_and_then_hit_by_every_cache_of_the_folder(tmp_path: Path) -> None:
    first, second = DiskCache(str(tmp_path), AMPLE), DiskCache(f"file://{tmp_path}", AMPLE)
    for size in (SIZE, 0, 1):
        assert not fetch(first, size, size)
        assert fetch(first, size, size)
        assert fetch(second, size, size)
    assert (first.hits, first.misses, second.hits, second.misses) == (3, 3, 3, 0)
    assert first.evicted == first.not_kept == 0
    assert not temporaries(tmp_path)
    for entry in entries(tmp_path):
        assert entry.read_bytes().endswith(MAGIC)
    second.discard(f"piece {SIZE}")
    second.discard("never there")
    assert not fetch(first, SIZE)


def test_processes_fetch_each_content_once(tmp_path: Path) -> None:
    script = """
cache = DiskCache(folder, 10**9)
calls = []
def getter(number):
    def get(into):
        calls.append(number)
        time.sleep(0.01)
        into[:] = content(number)
    return get
Path(folder, f"ready-{os.getpid()}").touch()
while len(list(Path(folder).glob("ready-*"))) < 4:
    time.sleep(0.002)
for number in np.random.default_rng(int(sys.argv[2]) % 2).permutation(20).tolist():
    fetch(cache, number, getter(number))
print(json.dumps([calls, cache.hits, cache.misses, cache.not_kept]))
"""
    results = [json.loads(finish(p)[0]) for p in [start(script, tmp_path, seed) for seed in range(4)]]
    assert sorted(number for calls, *_ in results for number in calls) == list(range(20))
    for calls, hits, misses, not_kept in results:
        assert (hits, misses, not_kept) == (20 - len(calls), len(calls), 0)
    assert len(entries(tmp_path)) == 20
    assert not temporaries(tmp_path)


def test_threads_fetch_each_content_once_and_share_one_cache(tmp_path: Path) -> None:
    cache = DiskCache(str(tmp_path), AMPLE)
    with ThreadPoolExecutor(8) as threads:
        hits = list(threads.map(lambda number: fetch(cache, number % 10), range(200)))
    assert (hits.count(False), cache.misses, cache.hits) == (10, 10, 190)


def test_after_a_failed_fetch_the_next_one_fetches(tmp_path: Path) -> None:
    cache, failing = DiskCache(str(tmp_path), AMPLE), threading.Event()

    def fail(into: np.ndarray) -> None:
        failing.set()
        time.sleep(0.1)
        raise OSError(errno.ENOSPC, "the server's disk is full")  # an error of get's, not of the cache's

    with ThreadPoolExecutor(1) as thread:
        failed = thread.submit(cache.fetch, "piece 1", np.zeros(SIZE, np.uint8), fail)
        failing.wait()
        assert not fetch(cache, 1)  # waited for its turn
        with pytest.raises(OSError, match="the server's disk"):
            failed.result()
    assert not temporaries(tmp_path)
    assert fetch(cache, 1)
    assert (cache.misses, cache.not_kept) == (2, 0)


@pytest.mark.parametrize("has_child", [False, True], ids=["alone", "with a forked child that lives on"])
def test_a_killed_fetcher_leaves_no_entry_and_those_who_wait_go_on(tmp_path: Path, has_child: bool) -> None:
    killed = start(
        """
def get(into):
    into[:5000] = 1
    if sys.argv[2] == "True" and os.fork() == 0:
        for stream in (0, 1, 2):
            os.close(stream)
        Path(folder, "child").write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    Path(folder, "fetching").touch()
    time.sleep(60)
fetch(DiskCache(folder, 10**9), 1, get)
""",
        tmp_path,
        has_child,
    )
    wait_for((tmp_path / "fetching").exists, killed)
    if has_child:
        wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(), killed)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(fetch, DiskCache(str(tmp_path), AMPLE), 1)
        time.sleep(0.1)
        assert not waiting.done()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert waiting.result(timeout=10) is False
    if has_child:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert fetch(DiskCache(str(tmp_path), AMPLE), 1)
    assert not temporaries(tmp_path)


def test_killed_at_any_moment_the_folder_holds_whole_entries_only(tmp_path: Path) -> None:
    script = """
cache = DiskCache(folder, 2_000_000)
Path(folder, f"started-{os.getpid()}").touch()
rng = np.random.default_rng()
while True:
    number = int(rng.integers(8))
    fetch(cache, number, lambda into: np.copyto(into, content(number, 500_000)), 500_000)
"""
    rng = np.random.default_rng(0)
    for _ in range(3):
        process, other = start(script, tmp_path), start(script, tmp_path)
        for one in (process, other):
            wait_for((tmp_path / f"started-{one.pid}").exists, one)
        time.sleep(rng.uniform(0, 0.1))
        for one in (process, other):
            one.kill()
            assert one.communicate()[1] == ""
        for entry in entries(tmp_path):
            assert entry.stat().st_size == 500_000 + FOOTER.size
            assert entry.read_bytes().endswith(MAGIC)
        assert sum(entry.stat().st_size for entry in entries(tmp_path)) <= 2_000_000
    cache = DiskCache(str(tmp_path), 2_000_000)
    before = len(entries(tmp_path))
    assert sum(fetch(cache, number, 500_000) for number in range(8)) <= before
    assert cache.not_kept == 0


def test_what_was_published_just_before_the_turn_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = DiskCache(str(tmp_path), AMPLE), DiskCache(str(tmp_path), AMPLE)
    lock = DiskCache._lock

    def late_lock(self: DiskCache, byte: int) -> Any:
        monkeypatch.setattr(DiskCache, "_lock", lock)
        assert not fetch(other, 1)
        return lock(self, byte)

    monkeypatch.setattr(DiskCache, "_lock", late_lock)
    assert fetch(cache, 1)
    assert (cache.hits, cache.misses) == (1, 0)
    assert not temporaries(tmp_path)


def test_what_a_killed_fetcher_wrote_is_no_part_of_the_next_entry(tmp_path: Path) -> None:
    cache = DiskCache(str(tmp_path), AMPLE)
    cache._entry("piece 1").with_suffix(".part").write_bytes(b"x" * 3 * SIZE)
    assert not fetch(cache, 1)
    assert fetch(cache, 1)


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, command: int, argument: bytes) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def test_where_there_are_no_locks_all_fetch_and_one_entry_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    cache, together = DiskCache(str(tmp_path), AMPLE), threading.Barrier(2, timeout=10)

    def get(into: np.ndarray) -> None:
        together.wait()
        into[:] = content(1)

    with ThreadPoolExecutor(2) as threads:
        arrays = [np.zeros(SIZE, np.uint8) for _ in range(2)]
        assert not any(threads.map(lambda into: cache.fetch("piece 1", into, get), arrays))
    for array in arrays:
        np.testing.assert_array_equal(array, content(1))
    assert (len(entries(tmp_path)), cache.misses, cache.not_kept) == (1, 2, 0)
    assert fetch(cache, 1)


@pytest.mark.parametrize("has_locks", [True, False])
def test_damaged_and_cut_entries_are_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    if not has_locks:
        no_locks(monkeypatch)
    cache = DiskCache(str(tmp_path), AMPLE)
    fetch(cache, 1)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    flips = [0, SIZE // 2, SIZE - 1, SIZE, SIZE + 8, len(whole) - 1]
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in flips]
    damaged += [whole[:length] for length in (0, 1, FOOTER.size, SIZE, len(whole) - 1)]
    damaged += [whole + b"\0", whole[1:], bytes(len(whole))]
    for data in damaged:
        entry.write_bytes(data)
        assert not fetch(cache, 1)
        assert entry.read_bytes() == whole
        assert fetch(cache, 1)
    assert cache.not_kept == 0


def test_a_damaged_entry_is_replaced_at_the_cost_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    cache = DiskCache(str(tmp_path), 2 * (SIZE + FOOTER.size))
    fetch(cache, 1)
    fetch(cache, 2)
    damaged = cache._entry("piece 2")
    damaged.write_bytes(b"?" + damaged.read_bytes()[1:])
    assert [fetch(cache, number) for number in (2, 2, 1)] == [False, True, True]
    assert cache.evicted == 0


def test_an_entry_of_another_length_is_fetched_again(tmp_path: Path) -> None:
    cache = DiskCache(str(tmp_path), AMPLE)
    fetch(cache, 1, 100)
    assert not fetch(cache, 1, 200)
    assert fetch(cache, 1, 200)


def test_the_limit_holds_and_the_least_recently_used_go(tmp_path: Path) -> None:
    limit = 3 * (SIZE + FOOTER.size)
    cache, other = DiskCache(str(tmp_path), limit), DiskCache(str(tmp_path), limit)
    for number in (1, 2, 3):
        assert not fetch(cache, number)
    assert fetch(other, 1)  # 2 is the oldest now, whoever asks
    assert not fetch(cache, 4)
    assert [fetch(cache, number) for number in (1, 3, 4)] == [True] * 3
    assert not fetch(other, 2, 2 * SIZE)  # takes the room of two
    assert fetch(cache, 4)
    assert len(entries(tmp_path)) == 2
    assert (cache.evicted, other.evicted) == (1, 2)
    smaller = DiskCache(str(tmp_path), SIZE + FOOTER.size)  # a smaller limit holds from the start
    assert (len(entries(tmp_path)), smaller.evicted) == (1, 1)
    assert fetch(smaller, 4)


def test_what_is_larger_than_the_limit_is_delivered_but_evicts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = DiskCache(str(tmp_path), SIZE + FOOTER.size)
    fetch(cache, 1)
    assert not fetch(cache, 2, SIZE + 1)
    assert not fetch(cache, 2, SIZE + 1)
    assert fetch(cache, 1)
    assert (cache.not_kept, cache.evicted) == (2, 0)
    assert capsys.readouterr().err.count("\n") == 1


def test_random_operations_agree_with_a_plain_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(20_240_601)
    limit = 6_000
    caches = [DiskCache(str(tmp_path), limit) for _ in range(3)]
    sizes = [int(size) for size in rng.integers(0, 2_500, 11)] + [limit - FOOTER.size, limit]
    model: OrderedDict[int, int] = OrderedDict()  # bytes on disk, the least recently used first
    hits = misses = evicted = not_kept = 0
    for _ in range(800):
        number, cache = int(rng.choice(13, p=[0.085] * 11 + [0.05, 0.015])), caches[rng.integers(3)]
        on_disk = sizes[number] + FOOTER.size
        operation = rng.random()
        if operation < 0.05:
            cache.discard(f"piece {number}")
            model.pop(number, None)
            continue
        path = cache._entry(f"piece {number}")
        assert path.exists() == (number in model)
        if operation < 0.1 and number in model:
            data = bytearray(path.read_bytes())
            data[int(rng.integers(len(data) - len(MAGIC)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            del model[number]
        hit = fetch(cache, number, sizes[number])
        assert hit == (number in model)
        if hit:
            hits += 1
            model.move_to_end(number)
            continue
        misses += 1
        if on_disk > limit:
            not_kept += 1
            continue
        while sum(model.values()) + on_disk > limit:
            model.popitem(last=False)
            evicted += 1
        model[number] = on_disk
        assert sum(path.stat().st_size for path in entries(tmp_path)) == sum(model.values()) <= limit
    counted = [(cache.hits, cache.misses, cache.evicted, cache.not_kept) for cache in caches]
    assert tuple(map(sum, zip(*counted, strict=True))) == (hits, misses, evicted, not_kept)
    assert min(hits, misses, evicted, not_kept) > 5


def test_files_of_others_survive_any_eviction(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    sound = b"x" * 5_000 + FOOTER.pack(5_000, 0, MAGIC)
    old_part = f"treeline-{'e' * 64}.part"
    files = {
        folder / f"treeline-{'a' * 64}.cached": b"y" * 50_000,  # our pattern, no magic word
        folder / f"treeline-{'b' * 64}.cached": b"",
        folder / f"treeline-{'A' * 64}.cached": sound,
        folder / f"treeline-{'a' * 63}.cached": sound,
        folder / f"treeline-{'a' * 64}.cached.part": sound,
        folder / "notes.cached": sound,
        folder / "notes.part": sound,
        elsewhere / "target": sound,
        elsewhere / old_part: sound,
    }
    for path, data in files.items():
        path.write_bytes(data)
    folders = [folder / f"treeline-{'c' * 64}.cached", folder / f"treeline-{'c' * 64}.part", folder / "sub"]
    for inner in folders:
        inner.mkdir()
        (inner / f"treeline-{'d' * 64}.cached").write_bytes(sound)
    links = [folder / f"treeline-{'f' * 64}.cached", folder / f"treeline-{'f' * 64}.part"]
    links[0].symlink_to(elsewhere / "target")
    links[1].symlink_to(elsewhere / old_part)
    for link in links:
        os.utime(link, (0, 0), follow_symlinks=False)
    pipe = folder / f"treeline-{'9' * 64}.cached"
    os.mkfifo(pipe)
    for path in [*files, *folders, pipe]:
        os.utime(path, (0, 0))

    cache = DiskCache(str(folder), 2 * (SIZE + FOOTER.size))
    for number in range(10):
        assert not fetch(cache, number)
        assert fetch(cache, number)  # what others have there takes nothing of our limit
    assert (cache.evicted, cache.not_kept) == (8, 0)
    for path, data in files.items():
        assert path.read_bytes() == data
    for inner in folders:
        assert (inner / f"treeline-{'d' * 64}.cached").read_bytes() == sound
    assert all(link.is_symlink() for link in links)
    assert pipe.is_fifo()


@pytest.mark.parametrize("suffix", [".cached", ".part"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_stands_in_an_entrys_place_is_left_there(tmp_path: Path, suffix: str, kind: str) -> None:
    cache = DiskCache(str(tmp_path / "cache"), AMPLE)
    target, place = tmp_path / "target", cache._entry("piece 1").with_suffix(suffix)
    target.write_bytes(b"mine" + FOOTER.pack(4, 0, MAGIC))
    {"folder": place.mkdir, "link": lambda: place.symlink_to(target), "pipe": lambda: os.mkfifo(place)}[
        kind
    ]()
    before = place.lstat()
    assert not fetch(cache, 1)
    if suffix == ".cached":
        cache.discard("piece 1")
    assert os.path.samestat(before, place.lstat())
    assert target.read_bytes() == b"mine" + FOOTER.pack(4, 0, MAGIC)
    assert fetch(cache, 1) == (suffix == ".part")  # without the lock, but kept


def test_only_abandoned_temporary_files_are_removed(tmp_path: Path) -> None:
    unique = f".{'0' * 16}.part"
    old, young, older_layout = (
        tmp_path / f"treeline-{letter * 64}{ending}"
        for letter, ending in (("a", unique), ("b", unique), ("c", ".part"))
    )
    for path in (old, young, older_layout):
        path.write_bytes(b"half")
        if path != young:
            long_ago = time.time() - ABANDONED_SECONDS - 10
            os.utime(path, (long_ago, long_ago))
    fetch(DiskCache(str(tmp_path), AMPLE), 1)
    assert temporaries(tmp_path) == [young]


def test_a_fetch_that_takes_long_has_no_temporary_file_that_could_seem_abandoned(tmp_path: Path) -> None:
    cache = DiskCache(str(tmp_path), AMPLE)

    def get(into: np.ndarray) -> None:
        assert not temporaries(tmp_path)
        into[:] = content(1)

    assert not cache.fetch("piece 1", np.zeros(SIZE, np.uint8), get)
    assert fetch(cache, 1)


def test_a_full_disk_is_not_an_error(tmp_path: Path) -> None:
    script = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
cache = DiskCache(folder, 10**9)
for _ in range(2):
    for number, size in ((1, 10_000), (2, 4_990), (3, 1_000)):
        hit = fetch(cache, number, lambda into: np.copyto(into, content(number, size)), size)
        print(number, hit)
print(cache.hits, cache.misses, cache.not_kept)
"""
    out, error = finish(start(script, tmp_path))
    assert out.split("\n")[:-1] == ["1 False", "2 False", "3 False", "1 False", "2 False", "3 True", "1 5 4"]
    assert error.count("\n") == 1
    assert str(tmp_path) in error
    assert len(entries(tmp_path)) == 1
    assert not temporaries(tmp_path)
    assert fetch(DiskCache(str(tmp_path), AMPLE), 3, 1_000)


def test_a_vanished_folder_is_not_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = DiskCache(str(tmp_path / "cache"), AMPLE)
    fetch(cache, 1)
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert not fetch(cache, 1)
    assert not fetch(cache, 2)
    cache.discard("piece 1")
    assert (cache.hits, cache.misses, cache.not_kept) == (0, 3, 2)
    assert capsys.readouterr().err.count("\n") == 1

    def vanish(into: np.ndarray) -> None:
        into[:] = content(3)
        (tmp_path / "cache").rename(tmp_path / "moved again")

    (tmp_path / "moved").rename(tmp_path / "cache")
    assert not cache.fetch("piece 3", np.zeros(SIZE, np.uint8), vanish)
    assert cache.not_kept == 3


def test_a_read_only_folder_gives_hits_and_keeps_nothing_new() -> None:
    script = """
cache = DiskCache(folder, 10**9)
get = lambda number: lambda into: np.copyto(into, content(number))
fetch(cache, 1, get(1))
os.chmod(folder, 0o555)
if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
print(fetch(cache, 1, get(1)), fetch(cache, 2, get(2)), cache.hits, cache.misses, cache.not_kept)
try:
    DiskCache(folder, 10**9)
except Exception as error:
    print(type(error).__name__, error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        out, error = finish(start(script, folder))
        os.chmod(folder, 0o755)
        assert len(entries(Path(folder))) == 1
    first, second = out.splitlines()
    assert first == "True False 1 2 1"
    assert second.startswith(f"InputError {folder}: cannot hold a cache (Permission denied)")
    assert error.count("\n") == 1


def test_a_folder_or_limit_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cases: list[tuple[object, int]] = [
        (tmp_path / "file", 1),
        (tmp_path / "file" / "below", 1),
        ("s3://bucket/cache", 1),
        (tmp_path / "new", 0),
        (tmp_path / "new", -5),
    ]
    for folder, limit in cases:
        with pytest.raises(InputError, match=f"^{folder}: .*; (choose|give) .*$") as caught:
            DiskCache(str(folder), limit)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
