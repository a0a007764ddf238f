"""Parallel ranged requests that read pieces of remote objects into memory, with counted retries.

Several threads read S3 with the client of `shards.storage.s3`, and other stores through fsspec.

    fetcher = Fetcher()
    fetcher.read_into("s3://bucket/chips/train/000000.tar", start=0, into=buffer)
    fetcher.retried                # Counter({"SlowDown": 2})
    RemoteFile("s3://bucket/weights.pth")       # an open file that fetches only what is read
"""

import io
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions
import fsspec
import numpy as np
import urllib3.exceptions
from numpy.typing import NDArray

from shards.errors import DatasetError
from shards.storage.objects import size_of
from shards.storage.s3 import client

PART_BYTES = 16 * 2**20
"""Size above which a piece is fetched in parts, which have this size, in parallel."""
READ_AHEAD_BYTES = 2**20
"""Least number of bytes that a `RemoteFile` fetches at a time."""
REQUESTS = 8
"""Number of requests at a time."""
ATTEMPTS = 6
"""Number of tries of a request. Waits between them are 0.1, 0.2, 0.4, ... seconds, each times 0.5 to 1.5."""
FIRST_WAIT_SECONDS = 0.1

_TRANSIENT_STATUS = (429, 500, 502, 503, 504)
_TRANSIENT_CODES = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling")
_TRANSIENT = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    ConnectionError,
    TimeoutError,
)
"""Transient errors: time-outs, refused, reset or closed connections, truncated bodies. Others are final."""


class Fetcher:
    """Threads that fetch. Other threads may share one, also after a fork."""

    def __init__(self, requests: int = REQUESTS) -> None:
        self._requests = requests
        self._start()
        self.retried: Counter[str] = Counter()
        """Number of requests made again, by name of the transient error."""

    def _start(self) -> None:
        self._process = os.getpid()
        self._threads = ThreadPoolExecutor(self._requests, thread_name_prefix="treeline-fetch")
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def read_into(self, url: str, start: int, into: NDArray[np.uint8]) -> None:
        """Fill `into` with the bytes of the object at `url` from `start` on.

        Raises:
            DatasetError: the bytes cannot be read; the message names them.
        """
        self.read_pieces(url, [(start, into)])

    def read_pieces(self, url: str, pieces: Sequence[tuple[int, NDArray[np.uint8]]]) -> None:
        """Fill each (start, into) with the bytes of the object from `start` on, in parallel.

        Raises:
            DatasetError: some bytes cannot be read; the message names them.
        """
        if self._process != os.getpid():  # forked: a child does not inherit threads
            self._start()
        reading = [
            self._threads.submit(self._read_part, url, start + at, into[at : at + PART_BYTES])
            for start, into in pieces
            for at in range(0, into.size, PART_BYTES)
        ]
        try:
            wait(reading, return_when=FIRST_EXCEPTION)
        finally:
            # No thread may write to `into` any more: after an error its memory is freed.
            for part_read in reading:
                part_read.cancel()
            wait(reading)
        for part_read in sorted(reading, key=Future.cancelled):  # the error is in a request that ran
            part_read.result()

    def _read_part(self, url: str, start: int, into: NDArray[np.uint8]) -> None:
        where = f"{url}: bytes {start:,} to {start + into.size:,}"
        read = self._read_s3 if urlsplit(url).scheme == "s3" else _read_fsspec
        for attempt in range(ATTEMPTS):
            try:
                return read(url, start, into)
            except (*_TRANSIENT, botocore.exceptions.ClientError) as error:
                name = _transient_name(error)
                if name is None or attempt == ATTEMPTS - 1:
                    tries = f" after {ATTEMPTS} tries" if name else ""
                    raise DatasetError(f"{where} cannot be read{tries} ({error})") from error
                with self._lock:
                    self.retried[name] += 1
                time.sleep(FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
            except (OSError, botocore.exceptions.BotoCoreError) as error:
                raise DatasetError(f"{where} cannot be read ({error})") from error
        raise AssertionError("unreachable")

    def _read_s3(self, url: str, start: int, into: NDArray[np.uint8]) -> None:
        # Not urlsplit: object names may contain ? and #.
        bucket, _, key = url.removeprefix("s3://").partition("/")
        asked = f"bytes={start}-{start + into.size - 1}"
        answer = self._s3().get_object(Bucket=bucket, Key=key, Range=asked)
        with answer["Body"] as body:
            if answer["ContentLength"] != into.size:
                raise DatasetError(
                    f"{url}: {answer['ContentLength']:,} bytes came where {asked} were asked for; "
                    "the object was cut, or its server ignores ranges"
                )
            _fill(into, body.readinto)

    def _s3(self) -> Any:
        with self._lock:
            return client(attempts=1)  # retried here, where it is counted


class RemoteFile(io.BufferedReader):
    """Remote object as an open file, which fetches only what is read and keeps none of it."""

    def __init__(self, url: str) -> None:
        super().__init__(_Ranged(url), READ_AHEAD_BYTES)


class _Ranged(io.RawIOBase):
    """Remote object whose every read is a request."""

    def __init__(self, url: str) -> None:
        self._url, self._size, self._at, self._fetcher = url, size_of(url), 0, Fetcher()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, into: Any) -> int:
        bytes_N = np.frombuffer(into, np.uint8)[: max(0, self._size - self._at)]
        if bytes_N.size:
            self._fetcher.read_into(self._url, self._at, bytes_N)
        self._at += bytes_N.size
        return int(bytes_N.size)

    def close(self) -> None:
        self._fetcher.close()
        super().close()


def _read_fsspec(url: str, start: int, into: NDArray[np.uint8]) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    data = filesystem.cat_file(path, start=start, end=start + into.size)
    if len(data) != into.size:
        raise DatasetError(f"{url}: ends at byte {start + len(data):,}, before {start + into.size:,}")
    into[:] = np.frombuffer(data, np.uint8)


def _fill(into: NDArray[np.uint8], readinto: Callable[[memoryview], int]) -> None:
    view, done = into.data, 0
    while done < len(view):
        count = readinto(view[done : done + 2**20])
        if not count:
            raise botocore.exceptions.IncompleteReadError(actual_bytes=done, expected_bytes=len(view))
        done += count


def _transient_name(error: Exception) -> str | None:
    """Return the name of a transient error, or None for any other error."""
    if not isinstance(error, botocore.exceptions.ClientError):
        return type(error).__name__
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return code or str(status) if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES else None
