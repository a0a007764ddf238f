"""The servers and the proxy that other tests stand on: requests go through, failures are what they say."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from ray_machines import wait_until
from servers import (
    BUCKET,
    Kind,
    Proxy,
    S3Server,
    client_of,
    environment_of,
    moto_server,
    proxy,
    rclone_server,
)

BODY = bytes(range(256)) * 12_289
"""Three pieces of the proxy's and a bit, so that no boundary is met by chance."""
KEY = "a folder/ä+chip.tar"
"""Needs percent-encoding, which SigV4 signs: the proxy must not touch it."""


@pytest.fixture(scope="module", params=["moto", "rclone"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("rclone")
    with moto_server() if request.param == "moto" else rclone_server(folder) as started:
        client = client_of(started)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        client.close()
        yield started


@pytest.fixture
def front(server: S3Server) -> Iterator[Proxy]:
    with proxy(server) as started:
        yield started


@pytest.fixture
def client(front: Proxy) -> Iterator[Any]:
    made = client_of(front.server, read_timeout=0.5)
    yield made
    made.close()


def get(client: Any, **more: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=KEY, **more)["Body"].read())


def test_signed_requests_go_through_and_are_counted(client: Any, front: Proxy) -> None:
    client.put_object(Bucket=BUCKET, Key="put", Body=BODY)
    assert client.get_object(Bucket=BUCKET, Key="put")["Body"].read() == BODY
    client.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert client.head_object(Bucket=BUCKET, Key="empty")["ContentLength"] == 0
    assert front.bytes_sent == len(BODY)

    answer = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=1000-1999")
    assert answer["Body"].read() == BODY[1000:2000]
    assert answer["ContentRange"] == f"bytes 1000-1999/{len(BODY)}"
    expected = {"moto": 206, "rclone": 200}[front.server.name]
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == expected
    assert front.bytes_sent == len(BODY) + 1000

    listed = {one["Key"]: one["Size"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed == {KEY: len(BODY), "put": len(BODY), "empty": 0}
    client.delete_object(Bucket=BUCKET, Key="put")
    client.delete_object(Bucket=BUCKET, Key="empty")

    methods = [method for method, _, _ in front.requests]
    assert methods == ["PUT", "GET", "PUT", "HEAD", "GET", "GET", "DELETE", "DELETE"]
    assert front.requests[1] == ("GET", "/bucket/put", None)
    assert front.requests[4] == ("GET", "/bucket/a%20folder/%C3%A4%2Bchip.tar", "bytes=1000-1999")


def test_rclone_checks_the_signature(server: S3Server, front: Proxy) -> None:
    """Else the test above would not show that the proxy leaves signed requests as they are."""
    if server.name == "moto":
        pytest.skip("moto takes any signature")
    wrong = S3Server(
        "wrong", front.server.endpoint, front.server.environment | {"AWS_SECRET_ACCESS_KEY": "no"}
    )
    client = client_of(wrong)
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        get(client)
    client.close()


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("500", 500, "InternalError"),
        ("503", 503, "503"),
        ("slow_down", 503, "SlowDown"),
        ("404", 404, "NoSuchKey"),
    ],
)
def test_an_error_is_answered_count_times(
    client: Any, front: Proxy, kind: Kind, status: int, code: str
) -> None:
    front.fail_next(kind, count=2)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            get(client)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert caught.value.response["Error"]["Code"] == code
    assert get(client) == BODY
    assert len(front.requests) == 3


def test_only_requests_that_match_fail(client: Any, front: Proxy) -> None:
    front.fail_next("500", method="PUT", containing="other")
    front.fail_next("404", method="HEAD")
    assert get(client) == BODY
    client.put_object(Bucket=BUCKET, Key="one", Body=b"1")
    with pytest.raises(ClientError, match="InternalError"):
        client.put_object(Bucket=BUCKET, Key="another", Body=BODY)
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="one")
    client.delete_object(Bucket=BUCKET, Key="one")
    with pytest.raises(ValueError, match="unknown kind"):
        front.fail_next("teapot")  # type: ignore[arg-type]


def test_reset_is_a_reset(client: Any, front: Proxy) -> None:
    front.fail_next("reset")
    with pytest.raises(ConnectionClosedError):
        get(client)
    assert get(client) == BODY

    front.fail_next("reset")
    with socket.create_connection(("127.0.0.1", front.server.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: anyone\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_cut_sends_all_headers_and_half_of_the_body(client: Any, front: Proxy) -> None:
    front.fail_next("cut")
    answer = client.get_object(Bucket=BUCKET, Key=KEY)
    assert answer["ContentLength"] == len(BODY)
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        answer["Body"].read()
    assert front.bytes_sent == len(BODY) // 2
    assert get(client) == BODY


def test_hang_answers_late(client: Any, front: Proxy) -> None:
    front.fail_next("hang", seconds=20)
    with pytest.raises(ReadTimeoutError):
        get(client)
    front.fail_next("hang", seconds=0.2)
    began = time.monotonic()
    assert get(client) == BODY
    assert time.monotonic() - began >= 0.2


def test_ignore_range_sends_the_whole_object(client: Any, front: Proxy) -> None:
    front.fail_next("ignore_range")
    answer = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=1000-1999")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "ContentRange" not in answer
    assert answer["Body"].read() == BODY
    assert front.requests[0][2] == "bytes=1000-1999"
    assert get(client, Range="bytes=1000-1999") == BODY[1000:2000]


def test_a_request_is_delayed(server: S3Server) -> None:
    with proxy(server, delay_seconds=0.2) as front:
        client = client_of(front.server)
        began = time.monotonic()
        assert get(client, Range="bytes=0-9") == BODY[:10]
        assert time.monotonic() - began >= 0.2
        client.close()


def test_parallel_requests_are_delayed_in_parallel(server: S3Server) -> None:
    """All have come before any is answered."""
    with ThreadPoolExecutor(8) as pool:
        with proxy(server, delay_seconds=100) as front:
            client = client_of(front.server, read_timeout=100)
            answers = [pool.submit(get, client) for _ in range(8)]
            wait_until(lambda: len(front.requests) == 8, seconds=50)
            assert not any(answer.done() for answer in answers)
        for answer in answers:
            with pytest.raises(HTTPClientError):  # the proxy has ended
                answer.result()
        client.close()


def test_forget_empties_the_record_and_the_orders(client: Any, front: Proxy) -> None:
    get(client)
    front.fail_next("500", count=3)
    front.forget()
    assert (front.requests, front.bytes_sent) == ([], 0)
    assert get(client) == BODY


def test_environment_is_set_and_restored(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
    before = dict(os.environ)
    with suppress(KeyError), environment_of(server):
        assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & os.environ.keys()
        assert server.environment.items() <= os.environ.items()
        os.environ["LEFT_BEHIND"] = "1"
        raise KeyError("restored after a failure as well")
    assert dict(os.environ) == before


@pytest.mark.parametrize("make", [lambda _: moto_server(), rclone_server], ids=["moto", "rclone"])
def test_nothing_is_left(make: Callable[[Path], AbstractContextManager[S3Server]], tmp_path: Path) -> None:
    num_threads = threading.active_count()
    with make(tmp_path) as server, proxy(server) as front:
        client = client_of(front.server)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=b"1")
        assert get(client) == b"1"  # Its connection is kept alive beyond the servers' end.
        ports = (server.port, front.server.port)
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    client.close()
    assert threading.active_count() == num_threads


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.free_port", lambda: 99_999)
    with pytest.raises(RuntimeError, match=r"rclone exited .*\n(.*\n)*.*99999"), rclone_server(tmp_path):
        pass
