"""Speed of clients that fetch large objects from S3: boto3, obstore, s3fs, from two servers on loopback.

    python benchmarks/s3_clients.py [--objects 8] [--megabytes 54] [--repeats 3]

Whole objects, one at a time and four at a time; the last column says whether a ranged request works. obstore
and s3fs are skipped where they are not installed. Clients take turns; medians are printed.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import botocore.exceptions

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from servers import environment_of, moto_server, rclone_server  # noqa: E402

from shards.storage.s3 import client  # noqa: E402

Get = Callable[[str, int | None], bytes]
"""Client's get(key, end): the object, or its first `end` bytes."""


def boto3_get() -> Get:
    s3 = client(attempts=1)

    def get(key: str, end: int | None) -> bytes:
        part = {} if end is None else {"Range": f"bytes=0-{end - 1}"}
        return bytes(s3.get_object(Bucket="bucket", Key=key, **part)["Body"].read())

    return get


def obstore_get() -> Get:
    import obstore
    import obstore.exceptions
    from obstore.store import S3Store

    options: dict[str, Any] = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
    store = S3Store("bucket", endpoint=os.environ["AWS_ENDPOINT_URL"], **options)

    def get(key: str, end: int | None) -> bytes:
        if end is None:
            return bytes(obstore.get(store, key).bytes())
        try:
            return bytes(obstore.get_range(store, key, start=0, end=end))
        except obstore.exceptions.BaseError as error:
            raise OSError(f"{key}: {error}") from error

    return get


def s3fs_get() -> Get:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    return lambda key, end: bytes(files.cat_file(f"bucket/{key}", start=0 if end else None, end=end))


CLIENTS = {"boto3": boto3_get, "obstore": obstore_get, "s3fs": s3fs_get}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=54)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    content = os.urandom(options.megabytes * 10**6)
    keys = [f"object-{number}" for number in range(options.objects)]
    with tempfile.TemporaryDirectory() as scratch:
        for server_of in (moto_server, lambda: rclone_server(Path(scratch), etags=False)):
            with server_of() as server, environment_of(server):
                for key in keys:
                    client(attempts=1).put_object(Bucket="bucket", Key=key, Body=content)
                measure(server.name, keys, content, options.repeats)


def measure(server: str, keys: list[str], content: bytes, repeats: int) -> None:
    gets = {name: make() for name, make in CLIENTS.items() if importlib.util.find_spec(name)}
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for name, get in gets.items():
            for at_a_time in (1, 4):
                with ThreadPoolExecutor(at_a_time) as threads:
                    start = time.perf_counter()
                    fetched = sum(threads.map(lambda key, get=get: len(get(key, None)), keys))
                    rates.setdefault((name, at_a_time), []).append(
                        fetched / 1e6 / (time.perf_counter() - start)
                    )
    for name, get in gets.items():
        try:
            ranges = "ranges work" if get(keys[0], 1000) == content[:1000] else "ranges give other bytes"
        except (OSError, botocore.exceptions.ClientError) as error:
            ranges = f"ranges fail ({type(error.__cause__ or error).__name__})"
        one, four = (statistics.median(rates[name, at_a_time]) for at_a_time in (1, 4))
        version = metadata.version(name)
        print(f"{server:8}{name} {version:12} one {one:6.0f} MB/s, four at a time {four:6.0f} MB/s, {ranges}")


if __name__ == "__main__":
    main()
