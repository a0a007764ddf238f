"""Reading from S3 when things go wrong, and how much is fetched when they do not; on real servers.

- what is transient is tried again and counted; all else stops at once; whatever happens, no wrong bytes
- ranks share no bytes, a few chips cost little, the first batch comes after one shard
- what is in the cache is not fetched, by no epoch and no process
- ranks that are killed and started again, in another number, meet exactly the rest
- an object is never seen in part; mistakes in the environment are one line
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import numpy as np
import pytest
from numpy.typing import NDArray
from servers import BUCKET, Kind, Proxy, S3Server, client_of, environment_of, proxy

import shards.read.shard_loader
import shards.storage.ranges
import shards.storage.s3
from cluster import cli
from shards.errors import DatasetError, InputError
from shards.format.manifest import MANIFEST, Manifest
from shards.format.schema import Chip, Schema
from shards.format.tar import stride_of
from shards.read.chip_reader import ChipReader
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Part, reads_alone, stream_count
from shards.read.read_options import ReadOptions
from shards.read.row_stream import Schedule
from shards.storage.objects import exists, join, publish, read_bytes, remove_file, remove_folder, staged
from shards.storage.ranges import ATTEMPTS, Fetcher
from shards.write.writer import DatasetWriter

ROOT = Path(__file__).parents[3]
SCHEMA = Schema(("grey",), dtype="uint8", nodata=None, chip_size=16)
SHARDS, SHARD_CHIPS = 12, 64
CHIPS = SHARDS * SHARD_CHIPS
BATCH = 32
_numbers = itertools.count()


@dataclass(frozen=True)
class Stored:
    """A dataset of small chips on a server: 12 shards of 64 chips, which have 8 streams."""

    url: str
    manifest: Manifest
    server: S3Server
    image_NCHW: NDArray[np.uint8]

    def assert_own_pixels(self, batch: Any) -> None:
        np.testing.assert_array_equal(batch.image_BCHW, self.image_NCHW[batch.chips])
        np.testing.assert_array_equal(batch.height_BHW[:, 0, 0], batch.chips + 1)

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.manifest.shards)


def images() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(1, 255, (CHIPS, *SCHEMA.image_shape), np.uint8)


def write(url: str, image_NCHW: NDArray[np.uint8]) -> Manifest:
    with DatasetWriter(url, SCHEMA, {"treeline": "test"}, SHARD_CHIPS) as writer:
        for number, image_CHW in enumerate(image_NCHW):
            height_HW = np.full(SCHEMA.label_shape, number + 1, np.float32)
            writer.add(Chip(f"chip_{number:05d}", image_CHW, height_HW), "train")
        return writer.finish()


@pytest.fixture(scope="module", params=["moto", "rclone"])
def stored(request: pytest.FixtureRequest) -> Iterator[Stored]:
    yield from _stored(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def stored_once(moto: S3Server) -> Iterator[Stored]:
    """For what does not depend on the server."""
    yield from _stored(moto)


def _stored(server: S3Server) -> Iterator[Stored]:
    url, image_NCHW = f"s3://{BUCKET}/fetch-{next(_numbers)}/set", images()
    with environment_of(server):
        manifest = write(url, image_NCHW)
    yield Stored(url, manifest, server, image_NCHW)
    with environment_of(server):
        remove_folder(url)


@pytest.fixture(scope="module")
def _proxy(stored: Stored) -> Iterator[Proxy]:
    with proxy(stored.server) as started:
        yield started


@pytest.fixture(scope="module")
def _proxy_once(stored_once: Stored) -> Iterator[Proxy]:
    with proxy(stored_once.server) as started:
        yield started


@pytest.fixture
def front(_proxy: Proxy) -> Iterator[Proxy]:
    """A proxy before the server of `stored`, to which all that speaks S3 speaks."""
    _proxy.forget()
    with environment_of(_proxy.server):
        yield _proxy


@pytest.fixture
def front_once(_proxy_once: Proxy) -> Iterator[Proxy]:
    _proxy_once.forget()
    with environment_of(_proxy_once.server):
        yield _proxy_once


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.storage.ranges, "FIRST_WAIT_SECONDS", 0.002)


def shard_requests(front: Proxy) -> dict[str, list[tuple[int, int]]]:
    """By shard: the (start, stop) of each GET."""
    found = defaultdict(list)
    for method, path, asked in front.requests:
        name = path.partition("?")[0].rpartition("/")[2]
        if method == "GET" and name.endswith(".tar"):
            assert asked, "a shard is always asked for in ranges"
            first, last = asked.removeprefix("bytes=").split("-")
            found[name].append((int(first), int(last) + 1))
    return found


def bytes_asked(front: Proxy) -> int:
    return sum(stop - start for ranges in shard_requests(front).values() for start, stop in ranges)


def read_epoch(stored: Stored, dataset: Dataset, part: Part = Part()) -> list[int]:
    """The chips of one epoch, whose pixels are checked."""
    met: list[int] = []
    for batch in ChipReader(dataset, dataset.chips("train"), BATCH, seed=5, part=part).epoch():
        stored.assert_own_pixels(batch)
        met += batch.chips.tolist()
    return met


NAMES = {
    "500": "InternalError",
    "503": "503",
    "slow_down": "SlowDown",
    "reset": "ConnectionClosedError",
    "cut": "IncompleteReadError",
}


class TestFailures:
    """What is tried again, and what is not."""

    @pytest.fixture
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(shards.storage.s3, "READ_SECONDS", 1.0)
        shards.storage.s3._client.cache_clear()
        yield
        shards.storage.s3._client.cache_clear()

    @pytest.mark.parametrize("kind", NAMES)
    def test_a_transient_failure_is_tried_again_and_counted(
        self, stored: Stored, front: Proxy, kind: Kind
    ) -> None:
        dataset, shard = open_dataset(stored.url), stored.manifest.shards[2]
        front.fail_next(kind, 3, containing=shard.name)
        stored.assert_own_pixels(dataset.gather(dataset.chips_of_shard(2)))
        assert dataset.loader.fetcher.retried == {NAMES[kind]: 3}
        assert len(shard_requests(front)[Path(shard.name).name]) == 4

    @pytest.mark.usefixtures("_impatient")
    def test_a_server_that_hangs_is_asked_again(self, stored: Stored, front: Proxy) -> None:
        dataset = open_dataset(stored.url)
        front.fail_next("hang", containing=".tar", seconds=1.5)
        stored.assert_own_pixels(dataset.gather(dataset.chips_of_shard(2)))
        assert dataset.loader.fetcher.retried["ReadTimeoutError"] >= 1

    @pytest.mark.parametrize("kind", ["slow_down", "reset", "cut"])
    def test_tries_end(self, stored: Stored, front: Proxy, kind: Kind) -> None:
        dataset, shard = open_dataset(stored.url), stored.manifest.shards[1]
        front.fail_next(kind, 1000, containing=shard.name)
        with pytest.raises(DatasetError) as caught:
            dataset.gather(dataset.chips_of_shard(1))
        said = str(caught.value)
        assert f"{join(stored.url, shard.name)}: bytes 0 to {shard.nbytes:,}" in said
        assert f"after {ATTEMPTS} tries" in said
        assert len(shard_requests(front)[Path(shard.name).name]) == ATTEMPTS
        assert dataset.loader.fetcher.retried == {NAMES[kind]: ATTEMPTS - 1}

    def test_the_tables_of_a_dataset_are_tried_again_too(self, stored: Stored, front: Proxy) -> None:
        for kind in ("reset", "cut"):
            for name in (MANIFEST, "index.parquet"):
                front.fail_next(kind, 1, containing=name)  # type: ignore[arg-type]
        assert open_dataset(stored.url).index.num_rows == CHIPS

    def test_a_missing_shard_stops_at_once(self, stored: Stored, front: Proxy) -> None:
        dataset, url = open_dataset(stored.url), join(stored.url, stored.manifest.shards[3].name)
        data = read_bytes(url)
        front.forget()
        remove_file(url)
        try:
            with pytest.raises(DatasetError) as caught:
                dataset.gather(dataset.chips_of_shard(3))
        finally:
            publish(url, data)
        assert f"{url}: bytes 0 to {len(data):,}" in str(caught.value)
        assert shard_requests(front) == {Path(url).name: [(0, len(data))]}
        assert not dataset.loader.fetcher.retried

    def test_a_wrong_secret_stops_at_once_and_is_not_told(
        self, rclone: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = "not-the-secret-of-anyone"
        for stored in _stored(rclone):
            with proxy(rclone) as front, environment_of(front.server):
                dataset = open_dataset(stored.url)
                shard = stored.manifest.shards[0]
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
                with pytest.raises(DatasetError) as caught:
                    dataset.gather(np.arange(4))
                assert f"{join(stored.url, shard.name)}: bytes 0 to " in str(caught.value)
                assert len(shard_requests(front)[Path(shard.name).name]) == 1
                with pytest.raises(InputError, match="access denied") as refused:
                    open_dataset(stored.url)
                assert stored.url in str(refused.value)
                monkeypatch.undo()
            for message in (str(caught.value), str(refused.value)):
                assert wrong not in message
                assert rclone.environment["AWS_SECRET_ACCESS_KEY"] not in message
                assert rclone.environment["AWS_ACCESS_KEY_ID"] not in message
                assert len(message.splitlines()) == 1

    @pytest.mark.parametrize("on_bad_shard", ["stop", "skip"])
    def test_a_server_that_ignores_ranges_gives_no_wrong_chip(
        self, stored: Stored, front: Proxy, monkeypatch: pytest.MonkeyPatch, on_bad_shard: Any
    ) -> None:
        monkeypatch.setattr(shards.storage.ranges, "PART_BYTES", 100_000)
        dataset = open_dataset(stored.url, ReadOptions(on_bad_shard=on_bad_shard, check=False))
        name = stored.manifest.shards[4].name
        front.fail_next("ignore_range", 1000, containing=name)
        if on_bad_shard == "stop":
            with pytest.raises(DatasetError, match=f"{name}.*ignores ranges"):
                read_epoch(stored, dataset)
        else:
            met = read_epoch(stored, dataset)
            assert sorted(met) == sorted({*range(CHIPS)} - {*dataset.chips_of_shard(4).tolist()})
            assert list(dataset.bad_shards) == [name]

    def test_after_an_error_nothing_more_is_written(
        self, stored: Stored, front: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The memory is unmapped then: a part that is still on its way would end the process.
        monkeypatch.setattr(shards.storage.ranges, "PART_BYTES", 50_000)
        fetcher, url = Fetcher(), join(stored.url, stored.manifest.shards[0].name)
        front.fail_next("404", 1, containing=".tar")
        front.fail_next("hang", 10, containing=".tar", seconds=0.3)
        into = np.zeros(stored.manifest.shards[0].nbytes, np.uint8)
        with pytest.raises(DatasetError, match=r"bytes [0-9,]+ to [0-9,]+ cannot be read"):
            fetcher.read_into(url, 0, into)
        after = into.copy()
        time.sleep(0.5)
        np.testing.assert_array_equal(into, after)

    def test_a_name_may_hold_what_ends_a_path_elsewhere(self, stored: Stored, front: Proxy) -> None:
        url, data = f"s3://{BUCKET}/fetch-names/run#1? ä+%20/0.tar", bytes(range(256))
        publish(url, data)
        into = np.zeros(100, np.uint8)
        Fetcher().read_into(url, 50, into)
        assert into.tobytes() == data[50:150]
        remove_file(url)


class TestAmounts:
    """Which bytes are fetched, and when."""

    @pytest.mark.parametrize("world_size", [1, 2, 4])
    def test_ranks_share_no_bytes(self, stored: Stored, front: Proxy, world_size: int) -> None:
        assert reads_alone(world_size, stream_count(np.arange(CHIPS) // SHARD_CHIPS))
        met = []
        for rank in range(world_size):
            met += read_epoch(stored, open_dataset(stored.url), Part(rank, world_size))
        assert sorted(met) == list(range(CHIPS))
        requests = shard_requests(front)
        assert len(requests) == SHARDS
        assert {len(ranges) for ranges in requests.values()} == {world_size}
        assert 0.99 * stored.nbytes < bytes_asked(front) <= stored.nbytes
        assert front.bytes_sent < 1.1 * stored.nbytes + world_size * 300_000  # of index and manifest

    def test_three_ranks_share_bytes_and_say_so(
        self, stored_once: Stored, front_once: Proxy, capsys: pytest.CaptureFixture[str]
    ) -> None:
        met = []
        for rank in range(3):
            met += read_epoch(stored_once, open_dataset(stored_once.url), Part(rank, 3))
        assert sorted(met) == list(range(CHIPS))
        assert capsys.readouterr().err.count("3 ranks do not divide the 8 streams") == 1
        assert bytes_asked(front_once) <= 3 * stored_once.nbytes

    def test_a_few_chips_cost_little(
        self, stored: Stored, front: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shard = stored.manifest.shards[0]
        stride = stride_of(shard.nbytes, shard.samples, SCHEMA)
        monkeypatch.setattr(shards.read.shard_loader, "GAP_BYTES", 2 * stride)
        dataset = open_dataset(stored.url)
        chips = dataset.chips("train", limit=20)
        for batch in dataset.batches(dataset.epoch(chips, 0, 0), 8):
            stored.assert_own_pixels(batch)
        assert 20 * stride <= bytes_asked(front) <= 20 * 3 * stride

    def test_the_first_batch_comes_after_one_shard(self, stored_once: Stored) -> None:
        with proxy(stored_once.server, delay_seconds=0.05) as front, environment_of(front.server):
            dataset = open_dataset(stored_once.url, ReadOptions(shards_ahead=1))
            epoch = ChipReader(dataset, dataset.chips("train"), 16, seed=1).epoch()
            stored_once.assert_own_pixels(next(epoch))
            assert 1 <= len(shard_requests(front)) <= 2
            time.sleep(0.3)
            assert len(shard_requests(front)) <= 2
            epoch.close()  # type: ignore[attr-defined]

    def test_a_consumer_that_sleeps_is_not_run_away_from(
        self, stored_once: Stored, front_once: Proxy
    ) -> None:
        options, batches_ahead = ReadOptions(shards_ahead=2), 2
        dataset = open_dataset(stored_once.url, options)
        reader = ChipReader(dataset, dataset.chips("train"), 8, seed=1)
        order, epoch = reader.order(0), reader.epoch(batches_ahead)
        next(epoch)
        time.sleep(0.5)
        shard = dataset.shard_of(order)
        schedule = Schedule.of(shard, order)
        made = 8 * (1 + batches_ahead + 1)  # the one given, those ready, one in the thread's hands
        in_use = int(np.searchsorted(schedule.first, made))
        asked = len(shard_requests(front_once))
        assert in_use <= asked <= in_use + options.shards_ahead < SHARDS
        epoch.close()  # type: ignore[attr-defined]
        assert len(shard_requests(front_once)) == asked


READ = """
import json, os, signal, sys
from pathlib import Path
from shards.read.chip_reader import ChipReader
from shards.read.dataset import open_dataset
from shards.read.order import Part
from shards.read.read_options import ReadOptions
from shards.read.reader_state import ReaderState
url, rank, ranks, batch_size, stop, state, out, cache = sys.argv[1:]
dataset = open_dataset(url, ReadOptions(cache=cache))
part = Part(int(rank), int(ranks))
def read(stop=0):
    reader = ChipReader(dataset, dataset.chips("train"), int(batch_size), seed=5, part=part)
    if state:
        reader.restore(ReaderState.from_json(json.loads(state)))
    met = []
    for batch in reader.epoch():
        met.append([batch.start, batch.size, batch.chips.tolist()])
        assert (batch.height_BHW[:, 0, 0] == batch.chips + 1).all()
        if len(met) == stop:
            break
    return {"met": met, "state": reader.state.to_json()}
Path(out).write_text(json.dumps({"whole": read(), "stopped": read(int(stop)) if int(stop) else None}))
# Killed: with batches and shards still on their way, and no chance to end in order.
os.kill(os.getpid(), signal.SIGKILL)
"""


def start(url: str, part: Part, out: Path, **options: Any) -> subprocess.Popen[str]:
    """A process that reads an epoch, and `stop` batches of it again, and writes what it met to `out`."""
    values = {"batch_size": BATCH, "stop": 0, "state": "", "out": out, "cache": "", **options}
    words = [url, part.rank, part.world_size, *values.values()]
    command = [sys.executable, "-c", READ, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said


class TestCache:
    """A local disk between the ranks and the server."""

    def test_nothing_is_fetched_twice(self, stored_once: Stored, front_once: Proxy, tmp_path: Path) -> None:
        options = ReadOptions(cache=str(tmp_path / "cache"))
        dataset = open_dataset(stored_once.url, options)
        for _ in range(2):
            assert sorted(read_epoch(stored_once, dataset)) == list(range(CHIPS))
            assert len(shard_requests(front_once)) == SHARDS
        assert sorted(read_epoch(stored_once, open_dataset(stored_once.url, options))) == list(range(CHIPS))
        finish(start(stored_once.url, Part(), tmp_path / "met.json", cache=options.cache))
        assert bytes_asked(front_once) == stored_once.nbytes

    def test_each_rank_keeps_its_own_ranges(
        self, stored_once: Stored, front_once: Proxy, tmp_path: Path
    ) -> None:
        options = ReadOptions(cache=str(tmp_path / "cache"))
        for _ in range(2):
            met = []
            for rank in range(2):
                met += read_epoch(stored_once, open_dataset(stored_once.url, options), Part(rank, 2))
            assert sorted(met) == list(range(CHIPS))
            assert bytes_asked(front_once) <= stored_once.nbytes

    def test_a_damaged_entry_is_fetched_again(
        self, stored_once: Stored, front_once: Proxy, tmp_path: Path
    ) -> None:
        options = ReadOptions(cache=str(tmp_path / "cache"))
        read_epoch(stored_once, open_dataset(stored_once.url, options))
        flipped, cut = sorted((tmp_path / "cache").glob("*.cached"))[:2]
        data = bytearray(flipped.read_bytes())
        data[5000] ^= 1
        flipped.write_bytes(data)
        os.truncate(cut, 10_000)
        front_once.forget()
        assert sorted(read_epoch(stored_once, open_dataset(stored_once.url, options))) == list(range(CHIPS))
        assert len(shard_requests(front_once)) == 2
        front_once.forget()
        read_epoch(stored_once, open_dataset(stored_once.url, options))
        assert not shard_requests(front_once)

    def test_deleting_the_folder_in_the_middle_does_no_harm(
        self, stored_once: Stored, front_once: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ReadOptions(cache=str(tmp_path / "cache"), shards_ahead=1)
        dataset, met = open_dataset(stored_once.url, options), []
        for number, batch in enumerate(ChipReader(dataset, dataset.chips("train"), BATCH).epoch()):
            stored_once.assert_own_pixels(batch)
            met += batch.chips.tolist()
            if number == 3:
                # In one step, or it could be filled while it is being emptied.
                os.rename(options.cache, tmp_path / "gone")
                shutil.rmtree(tmp_path / "gone")
        assert sorted(met) == list(range(CHIPS))
        assert bytes_asked(front_once) == stored_once.nbytes
        assert "were not kept" in capsys.readouterr().err


@pytest.mark.slow
def test_four_processes_are_killed_and_two_meet_the_rest(stored_once: Stored, tmp_path: Path) -> None:
    url, stop = stored_once.url, 7

    def run(ranks: int, name: str, **options: Any) -> list[Any]:
        outs = [tmp_path / f"{name}-{rank}.json" for rank in range(ranks)]
        for process in [start(url, Part(rank, ranks), out, **options) for rank, out in enumerate(outs)]:
            finish(process)
        return [json.loads(out.read_text()) for out in outs]

    with environment_of(stored_once.server):
        dataset = open_dataset(url)
        order = ChipReader(dataset, dataset.chips("train"), BATCH, seed=5).order(0)
        four = run(4, "four", stop=stop)
        whole, before = ([rank[name] for rank in four] for name in ("whole", "stopped"))
        states = [rank["state"] for rank in before]
        assert states == [{**states[0], "epoch": 0, "seen": stop * BATCH}] * 4
        two = run(2, "two", state=json.dumps(states[0]), batch_size=40)
        after = [rank["whole"] for rank in two]

    def assert_in_order(ranks: list[Any], first: int, end: int) -> None:
        """Each global batch is the order's: rank r has the places that leave r when divided by the ranks."""
        assert len({len(rank["met"]) for rank in ranks}) == 1
        place = first
        for parts in zip(*(rank["met"] for rank in ranks), strict=True):
            (begin, size), *others = {(begin, size) for begin, size, _ in parts}
            assert not others
            assert begin == place
            union = np.zeros(size, np.int64)
            for rank, (_, _, chips) in enumerate(parts):
                union[(rank - begin) % len(ranks) :: len(ranks)] = chips
            np.testing.assert_array_equal(union, order[begin : begin + size])
            place += size
        assert place == end

    assert sorted(order.tolist()) == list(range(CHIPS))
    assert_in_order(whole, 0, CHIPS)
    assert_in_order(before, 0, stop * BATCH)
    assert_in_order(after, stop * BATCH, CHIPS)
    assert all(rank["state"]["epoch"] == 1 for rank in whole + after)


LARGE = 30 * 10**6
SMALLEST_PART = 5 * 2**20
"""Of an upload, that S3 takes."""


def sizes_seen(look: Callable[[], list[int | None]], work: Callable[[], None]) -> Counter[int | None]:
    """What `look` finds, again and again, while `work` goes on and once after it."""
    seen: Counter[int | None] = Counter()
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        while not working.done():
            seen.update(look())
        working.result()
    seen.update(look())
    return seen


class TestWholeOrNot:
    """An object is not seen before all of it is there."""

    @pytest.fixture
    def url(self) -> str:
        return f"s3://{BUCKET}/fetch-whole-{next(_numbers)}/large.bin"

    @pytest.fixture(params=["moto", "rclone"])
    def slow(self, request: pytest.FixtureRequest) -> Iterator[Proxy]:
        with proxy(request.getfixturevalue(request.param), 0.1) as started, environment_of(started.server):
            yield started

    def look_on(self, server: S3Server, url: str) -> Callable[[], list[int | None]]:
        """Looks with two requests, for which a server need not answer from one moment."""
        client, key = client_of(server), url.removeprefix(f"s3://{BUCKET}/")

        def look() -> list[int | None]:
            sizes = [item["Size"] for item in client.list_objects_v2(**where).get("Contents", [])]
            with suppress(client.exceptions.ClientError):
                sizes.append(client.head_object(Bucket=BUCKET, Key=key)["ContentLength"])
            return sizes or [None]

        where = {"Bucket": BUCKET, "Prefix": key}
        return look

    @pytest.fixture(params=["publish", "publish in parts", "staged"])
    def way(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """How it is uploaded; in parts as small as S3 allows."""
        if request.param == "publish in parts":
            monkeypatch.setattr(shards.storage.s3, "ONE_PUT_BYTES", LARGE - 1)
            monkeypatch.setattr(shards.storage.s3, "UPLOAD_PART_BYTES", SMALLEST_PART)
        return str(request.param)

    def test_an_upload_is_not_seen_in_part(self, slow: Proxy, url: str, way: str) -> None:
        data = np.random.default_rng(0).bytes(LARGE)

        def work() -> None:
            if way != "staged":
                publish(url, data)
                return
            with staged(url) as path:
                for start in range(0, LARGE, 10**7):
                    with open(path, "ab") as file:
                        file.write(data[start : start + 10**7])

        slow.fail_next("slow_down", 1, method="PUT", containing="partNumber=2")
        seen = sizes_seen(self.look_on(slow.upstream, url), work)
        assert set(seen) == {None, LARGE}
        assert seen[None] > 2
        assert read_bytes(url) == data
        remove_file(url)

    @pytest.mark.parametrize(("kind", "size"), [("503", 1000), ("reset", LARGE)])
    def test_a_failed_upload_leaves_nothing(
        self, slow: Proxy, url: str, way: str, kind: Kind, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shards.storage.s3.S3FileSystem, "attempts", 2)
        in_parts = size == LARGE and way != "publish"
        slow.fail_next(kind, 1000, method="PUT", containing="partNumber=3" if in_parts else "")

        def upload() -> None:
            if way == "staged":
                with staged(url) as path:
                    path.write_bytes(bytes(size))
            else:
                publish(url, bytes(size))

        def work() -> None:
            with pytest.raises(OSError, match=r"large\.bin") as caught:
                upload()
            assert url in str(caught.value)

        assert set(sizes_seen(self.look_on(slow.upstream, url), work)) == {None}
        if slow.upstream.name == "moto":  # parts that nobody sees are paid for all the same
            assert "Uploads" not in client_of(slow.upstream).list_multipart_uploads(Bucket=BUCKET)

    def test_no_request_holds_more_than_the_limit(
        self, slow: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shards.storage.s3, "ONE_PUT_BYTES", SMALLEST_PART)
        monkeypatch.setattr(shards.storage.s3, "UPLOAD_PART_BYTES", SMALLEST_PART)
        for size, requests in ((0, 1), (SMALLEST_PART, 1), (SMALLEST_PART + 1, 2), (3 * SMALLEST_PART, 3)):
            data = np.random.default_rng(size).bytes(size)
            slow.forget()
            publish(url, data)
            assert [method for method, *_ in slow.requests].count("PUT") == requests
            assert read_bytes(url) == data

    @pytest.mark.parametrize("rewritten", [False, True])
    def test_a_broken_download_resumes_if_the_object_is_still_the_same(
        self, slow: Proxy, url: str, rewritten: bool
    ) -> None:
        old, new = (np.random.default_rng(seed).bytes(LARGE) for seed in range(2))
        publish(url, old)
        slow.forget()
        slow.fail_next("cut", 1, method="GET", containing="large.bin")
        events = shards.storage.s3.client(shards.storage.s3.S3FileSystem.attempts).meta.events

        def before_the_second(**_: object) -> None:
            if rewritten and len(slow.requests) == 1:
                client_of(slow.upstream).put_object(
                    Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"), Body=new
                )

        events.register("before-send.s3.GetObject", before_the_second)
        try:
            assert read_bytes(url) == (new if rewritten else old)
        finally:
            events.unregister("before-send.s3.GetObject", before_the_second)
        asked = [asked for _, _, asked in slow.requests]
        assert asked[0] is None
        assert asked[1] == f"bytes={LARGE // 2}-"
        assert asked[2:] == ([None] if rewritten else [])

    def test_a_local_file_is_not_seen_in_part(self, tmp_path: Path) -> None:
        target = tmp_path / "large.bin"

        def work() -> None:
            with staged(str(target)) as path, open(path, "wb") as file:
                for _ in range(15):
                    file.write(bytes(LARGE // 15))
                    time.sleep(0.01)

        def look() -> list[int | None]:
            return [target.stat().st_size if target.exists() else None]

        def fail() -> None:
            with suppress(ZeroDivisionError), staged(str(target)) as path:
                path.write_bytes(b"half")
                raise ZeroDivisionError

        assert set(sizes_seen(look, fail)) == {None}
        assert set(sizes_seen(look, work)) == {None, LARGE}
        assert [path.name for path in tmp_path.iterdir()] == ["large.bin"]


class TestEnvironment:
    """Mistakes outside of Treeline: one line, soon."""

    @pytest.fixture(autouse=True)
    def _bare(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    def refused(self, url: str) -> str:
        waits: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            # What botocore would sleep before it tries again.
            patch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=waits.append))
            with pytest.raises(InputError) as caught:
                open_dataset(url)
        message = str(caught.value)
        assert sum(waits) < 15
        assert url in message
        assert len(message.splitlines()) == 1
        return message

    def test_no_credentials(self, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
        assert "credentials" in self.refused(f"s3://{BUCKET}/set")

    def test_a_profile_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        assert "nobody" in self.refused(f"s3://{BUCKET}/set")

    def test_nobody_at_the_endpoint(self, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in moto.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert "127.0.0.1:9" in self.refused(f"s3://{BUCKET}/set")

    def test_a_server_that_fails_is_not_an_empty_place(
        self, moto: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Else a dataset would be written over another one.
        with proxy(moto) as front, environment_of(front.server):
            monkeypatch.setattr(shards.storage.s3.S3FileSystem, "attempts", 2)
            front.fail_next("500", 1000, method="HEAD")
            with pytest.raises(InputError, match="500"):
                exists(f"s3://{BUCKET}/set/{MANIFEST}")

    @pytest.mark.parametrize("server", ["moto", "rclone"])
    def test_no_such_bucket(
        self, request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        with environment_of(request.getfixturevalue(server)):
            assert "no dataset here" in self.refused("s3://nosuch/set")
            with pytest.raises(OSError, match="nosuch"):
                publish("s3://nosuch/set/x", b"x")
            monkeypatch.setattr(sys, "argv", ["treeline", "inspect", "s3://nosuch/set"])
            monkeypatch.setattr(sys, "excepthook", sys.excepthook)
            with pytest.raises(SystemExit) as stop:
                cli.main()
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "s3://nosuch/set" in said
        assert len(said.splitlines()) == 1


def test_threads_end_with_the_dataset(stored_once: Stored) -> None:
    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("treeline-")]

    with environment_of(stored_once.server):
        before = len(ours())
        dataset = open_dataset(stored_once.url)
        epoch = ChipReader(dataset, dataset.chips("train"), BATCH).epoch()
        next(epoch)
        epoch.close()  # type: ignore[attr-defined]
        assert not [name for name in ours() if "prefetch" in name or "shards" in name]
        dataset.loader.fetcher.close()
        assert len(ours()) <= before
