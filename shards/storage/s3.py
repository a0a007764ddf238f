"""S3 through boto3, as an fsspec file system. Credentials, region, endpoint and profile come only from the
standard environment and files (AWS_*, ~/.aws).

boto3 was chosen by measurement (docs/benchmarks.md): fetching objects of 54 MB, four at a time, it reached
704 MB/s from rclone and 1,300 from moto, obstore 512 and 734, s3fs 314 and 320. It also accepts servers that
answer a ranged request with status 200, which obstore refuses, and its listings are never cached.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, ClassVar

import boto3
import boto3.exceptions
import botocore.exceptions
import fsspec
from boto3.s3.transfer import S3Transfer, TransferConfig
from botocore.config import Config

from shards.errors import one_line

CONNECTIONS = 32
CONNECT_SECONDS, READ_SECONDS = 10, 60
ONE_PUT_BYTES = 2**30
"""Size above which an object is uploaded in parts; S3 takes at most 5 GB in one request."""
UPLOAD_PART_BYTES = 32 * 2**20
"""Size of a part. About ten parts are copied at a time. Parts are larger where an object would need more than
S3's 10,000."""
READ_BYTES = 2**20
"""Bytes taken from a connection at a time; if it breaks, those taken before are kept."""

_ERRORS = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)
_NOT_MET = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict", "404", "NoSuchKey")
"""Answers to a write whose condition does not hold; 404: the object that it is to replace is gone."""
_NO_CONDITIONS = ("501", "NotImplemented")
"""Answers of a server that knows no conditions of writes."""


@dataclass(frozen=True)
class Tagged:
    """An object's bytes, and what the server says of them."""

    data: bytes
    tag: str
    """Tag (ETag) that changes with the bytes."""
    age: float | None
    """Seconds since it was written, by the server's own clock; None if the server does not say."""


def client(attempts: int) -> Any:
    """Return a client that makes each request up to `attempts` times. Threads may share it."""
    # Each process, and each setting of the environment, needs its own client.
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(attempts, os.getpid(), settings)


def endpoint_url() -> str:
    """Return the endpoint of requests: AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, the profile's, or AWS's own."""
    return str(client(S3FileSystem.attempts).meta.endpoint_url)


@lru_cache(maxsize=16)
def _client(attempts: int, process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    config = Config(
        max_pool_connections=CONNECTIONS,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Not every server knows the newer checksums of whole objects.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=config)


class S3FileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Objects by bucket/key. A missing object is a FileNotFoundError, as on a disk."""

    protocol: ClassVar[tuple[str, ...]] = ("s3",)
    cachable = False
    attempts = 4
    """Number of tries of each request; their waits add up to 3.5 seconds on average."""

    @property
    def _client(self) -> Any:
        return client(self.attempts)

    def exists(self, path: str, **options: Any) -> bool:
        """Tell whether something is at `path`; if that cannot be known, raise an error instead of False."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return name, size and type ("file" or "directory") of the object or folder at `path`."""
        path, bucket, key = self._place(path)
        if key:
            try:
                head = self._call("head_object", path, Bucket=bucket, Key=key)
                return {"name": path, "size": head["ContentLength"], "type": "file", "ETag": head["ETag"]}
            except FileNotFoundError:
                pass
        prefix = f"{key}/" if key else ""
        page = self._call("list_objects_v2", path, Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if not page.get("KeyCount"):
            raise FileNotFoundError(path)
        return {"name": path, "size": 0, "type": "directory"}

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """List what is directly below `path`."""
        found = self._list(path, "/")
        if not found and (alone := self.info(path))["type"] == "file":
            found = [alone]
        return found if detail else [item["name"] for item in found]

    def beginning_with(self, path: str, most: int = 100) -> list[str]:
        """List objects, at most this many, whose names begin so, with one request."""
        path, bucket, start = self._place(path)
        page = self._call("list_objects_v2", path, Bucket=bucket, Prefix=start, MaxKeys=most)
        return [f"{bucket}/{item['Key']}" for item in page.get("Contents", ())]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        """Find all files below `path`, sorted, with one listing."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth, withdirs, **options)
        found = {item["name"]: item for item in self._list(path, "")}
        return found if options.get("detail") else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Read the object's bytes, or those from `start` to before `end`.

        With `most` among the options, one byte more than that is read of a larger object.
        """
        path, bucket, key = self._place(path)
        first, last = (start, end - 1) if start is not None and end is not None else (0, "")

        def ask(done: int) -> Any:
            span = {"Range": f"bytes={first + done}-{last}"} if done or last != "" else {}
            return self._call("get_object", path, Bucket=bucket, Key=key, **span)

        found, begun = io.BytesIO(), None
        # The client itself retries only until the answer's head; the rest of a body is requested again here.
        for attempt in range(self.attempts):
            answer = ask(found.tell())
            if (most := options.get("most")) is not None and answer["ContentLength"] > most:
                with answer["Body"] as body:
                    return bytes(body.read(most + 1))
            if (answer.get("ETag"), found.tell() + answer["ContentLength"]) != begun or not begun[0]:
                if found.tell():  # the object changed, or the server lacks tags or ranges
                    answer["Body"].close()
                    found, answer = io.BytesIO(), ask(0)
                begun = answer.get("ETag"), answer["ContentLength"]
            try:
                for piece in answer["Body"].iter_chunks(READ_BYTES):
                    found.write(piece)
                return found.getvalue()
            except botocore.exceptions.BotoCoreError as error:
                if attempt == self.attempts - 1:
                    raise _as_os_error(error, path) from error
        raise AssertionError("unreachable")

    def put_file(self, lpath: str, rpath: str, *args: Any, **options: Any) -> None:
        """Upload a local file, in parts if it is large. The object appears once it is complete."""
        path, bucket, key = self._place(rpath)
        with _uploading(path):
            S3Transfer(self._client).upload_file(os.fspath(lpath), bucket, key)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **options: Any) -> None:
        """Write an object in one request, or in parts above `ONE_PUT_BYTES`.

        The object appears once it is complete. A process that is killed during one request leaves nothing
        behind; parts stay, unseen, until the bucket's rule for incomplete uploads removes them.
        """
        path, bucket, key = self._place(path)
        if len(value) <= ONE_PUT_BYTES:
            self._call("put_object", path, Bucket=bucket, Key=key, Body=value)
            return
        in_parts = TransferConfig(multipart_threshold=1, multipart_chunksize=UPLOAD_PART_BYTES)
        with _uploading(path):  # BytesIO shares the memory of bytes
            self._client.upload_fileobj(io.BytesIO(value), bucket, key, Config=in_parts)

    def read_tagged(self, path: str) -> Tagged:
        """Read a small object, its tag and its age."""
        path, bucket, key = self._place(path)
        answer = self._call("get_object", path, Bucket=bucket, Key=key)
        now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        written, age = answer.get("LastModified"), None
        if now and written:
            age = (parsedate_to_datetime(now) - written).total_seconds()
        return Tagged(answer["Body"].read(), answer["ETag"], age)

    def write_if(self, path: str, value: bytes, tag: str | None) -> bool:
        """Write a small object if the one that is there has this tag, or for None if none is there.

        Returns:
            Whether it was written. A server that knows no conditions writes in any case.
        """
        path, bucket, key = self._place(path)
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=value, **condition)
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code in _NO_CONDITIONS:
                self.pipe_file(path, value)
            elif code in _NOT_MET:
                return False
            else:
                raise _as_os_error(error, path) from error
        except botocore.exceptions.BotoCoreError as error:
            raise _as_os_error(error, path) from error
        return True

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Let the server copy the object, in parts if it is large. The copy appears once it is complete."""
        path, bucket, key = self._place(path1)
        _, to_bucket, to_key = self._place(path2)
        with _uploading(path):
            self._client.copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)

    def rm_file(self, path: str) -> None:
        """Delete the object."""
        path, bucket, key = self._place(path)
        self._call("delete_object", path, Bucket=bucket, Key=key)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        raise NotImplementedError("objects are read and written whole, or in ranges")

    def _place(self, path: str) -> tuple[str, str, str]:
        """Return `path` without s3://, its bucket and its key."""
        path = str(self._strip_protocol(path))
        bucket, _, key = path.partition("/")
        return path, bucket, key

    def _list(self, path: str, delimiter: str) -> list[dict[str, Any]]:
        path, bucket, key = self._place(path)
        found: list[dict[str, Any]] = []
        options = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": delimiter}
        while True:
            page = self._call("list_objects_v2", path, **options)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # some tools store folders as empty objects
                    found.append({"name": f"{bucket}/{item['Key']}", "size": item["Size"], "type": "file"})
            for item in page.get("CommonPrefixes", ()):
                name = f"{bucket}/{item['Prefix']}".rstrip("/")
                found.append({"name": name, "size": 0, "type": "directory"})
            if not page.get("IsTruncated"):
                return found
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _call(self, operation: str, path: str, **options: Any) -> Any:
        try:
            return getattr(self._client, operation)(**options)
        except _ERRORS as error:
            raise _as_os_error(error, path) from error


@contextmanager
def _uploading(path: str) -> Iterator[None]:
    """Turn any error of an upload to `path` into an OSError."""
    try:
        yield
    except (boto3.exceptions.Boto3Error, *_ERRORS) as error:
        # The transfer's own error replaces the client's, and lacks its code.
        cause = error.__context__ if isinstance(error, boto3.exceptions.Boto3Error) else error
        raise _as_os_error(cause or error, path) from error


def _as_os_error(error: BaseException, path: str) -> OSError:
    where = f"s3://{path}"
    if not isinstance(error, botocore.exceptions.ClientError):
        return OSError(5, one_line(error), where)
    code, message = (error.response["Error"].get(name, "") for name in ("Code", "Message"))
    if code in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
        return FileNotFoundError(2, "no such object or bucket", where)
    # Bad credentials say nothing about this object. A PermissionError would count as the object's own fault.
    if code in ("403", "AccessDenied"):
        return PermissionError(13, f"access denied ({code})", where)
    return OSError(5, f"{code} {message}".strip(), where)


fsspec.register_implementation("s3", S3FileSystem, clobber=True)
