"""How a folder on S3 is held by one command: an object says by whom, and is written again while that lives.

A command that ends removes the object. One that is killed cannot: its hold ends ENDS_AFTER seconds after its
last sign of life. The next command

- takes the folder over at once if the holder was a process of this machine that is gone,
- is refused at once if that process lives,
- otherwise watches the object: it is refused at the holder's next sign of life, or goes on when the hold has
  ended. So a job that is submitted again on another machine waits ENDS_AFTER seconds at most, and works.

Writes are conditional on what was read (If-None-Match, If-Match). A server may ignore such conditions, as
rclone does; then the holder is whoever is read a second later, since the last one to write stays.
"""

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from shards.errors import InputError
from shards.said import say
from shards.storage.json_marks import AtLeast
from shards.storage.json_text import parsed
from shards.storage.s3 import S3FileSystem, Tagged
from shards.storage.typed_json import typed

RENEWED_EVERY = 30.0
"""Seconds between two signs of life."""
ENDS_AFTER = 120.0
"""Seconds after the last sign of life at which a hold ends."""
SETTLED_AFTER = 1.0
"""Seconds after which a write at the same moment is done; also between two looks at another's lease."""
MOST_TRIES = 10
"""Times that a lease is tried for while nobody is seen to hold it."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder, as its lease describes it."""

    owner: str
    """Digits of this hold alone."""
    host: str
    process: Annotated[int, AtLeast(0)]
    machine: str
    """Identity of the running machine and of the container, in which process numbers count."""
    started: str
    """Time at which the process began, since a number is used again; "" where unknown."""

    @classmethod
    def here(cls) -> "Holder":
        """Describe this process, for a new hold."""
        number = os.getpid()
        return cls(secrets.token_hex(8), socket.gethostname(), number, _machine(), _started(number))

    @classmethod
    def of(cls, data: bytes) -> "Holder":
        """Read a lease; what is no lease counts as one of an unknown process."""
        try:
            return typed(parsed(data, "lease"), cls, "lease", strict=False)
        except InputError:
            return cls("", "an unknown host", 0, "", "")

    def lives(self) -> bool | None:
        """Tell whether the process lives; None if it is of another machine, so that nobody here knows."""
        if not self.started or self.machine != _machine():
            return None
        return _started(self.process) == self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def no_lease(folder: str) -> bool:
    """Tell whether a lease cannot hold `folder`."""
    return not folder.startswith("s3://")


@contextmanager
def leased(folder: str, url: str) -> Iterator[None]:
    """Hold `folder` by the lease at `url`.

    Raises:
        InputError: another command holds it, or it cannot be written.
        OSError: storage failed, or another command took the folder over, since this one was not heard of.
    """
    lease = _Lease(folder, url)
    try:
        lease.take()
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{folder}: cannot be written ({why}); choose another output") from error
    keeper = threading.Thread(target=lease.keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if not lease.lost:
            raise
        failed = OSError(
            f"{folder}: {lease.lost} took it over, since nothing was heard of this command for "
            f"{ENDS_AFTER / 60:g} minutes"
        )
        for note in getattr(error, "__notes__", ()):
            failed.add_note(note)
        raise failed from error
    finally:
        lease.ended.set()
        keeper.join()
        lease.remove()


class _Lease:
    """The object at `url`, and this process as the one that wants to hold it."""

    def __init__(self, folder: str, url: str) -> None:
        self.folder, self.url = folder, url
        self.lost: Holder | None = None
        """Holder that took the lease from this process; None while it has it."""
        self.ended = threading.Event()
        self._storage, self._own, self._renewals = S3FileSystem(), Holder.here(), 0

    def take(self) -> None:
        """Become the holder.

        Raises:
            InputError: another command holds the folder.
        """
        first, since, tries = None, time.monotonic(), 0
        while tries < MOST_TRIES:
            there = self._read()
            if there is None:
                tries += 1
                if self._write(None) and self._is_alone():
                    return
                continue
            holder, watched = Holder.of(there.data), time.monotonic() - since
            unheard = watched if there.age is None else max(watched, there.age)
            lives = holder.lives()
            if holder.owner == self._own.owner:  # written, though its answer was lost
                return
            if lives is False or unheard >= ENDS_AFTER:
                tries += 1
                if self._write(there.tag) and self._is_alone():
                    return
                continue
            if lives or (first is not None and there.tag != first.tag):
                raise self._refused(holder, there)
            if first is None:
                first, since = there, time.monotonic()
                say(
                    f"{self.folder}: {holder} held this place {unheard:.0f} s ago; waiting for up "
                    f"to {max(ENDS_AFTER - unheard, 1):.0f} s to see whether it lives"
                )
            time.sleep(SETTLED_AFTER)
        raise OSError(f"{self.url}: cannot be written so that it stays; remove it, and run the command again")

    def keep(self) -> None:
        """Give signs of life until the hold ends; stop the command if another has taken it over."""
        while not self.ended.wait(RENEWED_EVERY):
            try:
                there = self._read()
                if there is None or Holder.of(there.data).owner == self._own.owner:
                    self._write(there.tag if there else None)
                    there = self._read()
            except OSError:  # an outage: whoever comes meanwhile waits, and takes over if it lasts
                continue
            if there is not None and (other := Holder.of(there.data)).owner != self._own.owner:
                self.lost = other
                _interrupt()
                return

    def remove(self) -> None:
        """Remove the lease, unless it is another's by now."""
        with suppress(OSError):  # then it ends by itself
            there = self._read()
            if there and Holder.of(there.data).owner == self._own.owner:
                self._storage.rm_file(self.url)

    def _read(self) -> Tagged | None:
        try:
            return self._storage.read_tagged(self.url)
        except FileNotFoundError:
            return None

    def _write(self, tag: str | None) -> bool:
        self._renewals += 1  # other bytes, so another tag
        text = json.dumps({**asdict(self._own), "renewals": self._renewals})
        return self._storage.write_if(self.url, text.encode(), tag)

    def _is_alone(self) -> bool:
        """Tell whether this process, which has written the lease, is its holder."""
        if self._write(None):  # an object is there: the server ignores conditions
            time.sleep(SETTLED_AFTER)
        there = self._read()
        return there is not None and Holder.of(there.data).owner == self._own.owner

    def _refused(self, holder: Holder, there: Tagged) -> InputError:
        age = there.age or 0.0
        ends = time.strftime("%H:%M:%S", time.gmtime(time.time() + ENDS_AFTER - age))
        return InputError(
            f"{self.folder}: another command writes here ({holder}, last heard of {age:.0f} s ago); wait "
            f"until it has ended, or choose another place; if it was killed, its hold ends at {ends} UTC, or "
            f"when {self.url} is removed"
        )


def _interrupt() -> None:
    """Stop this process's command as Ctrl-C does, also while it waits for something."""
    numbers = signal.SIGINT, signal.SIGTERM  # a shell's job in the background ignores the first
    number = next((one for one in numbers if callable(signal.getsignal(one))), signal.SIGTERM)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)


def _machine() -> str:
    """Identify this start of this machine, and the container in which this process has its number."""
    with suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(process: int) -> str:
    """Return the time at which a process of this machine began; "" if there is none, or it has ended."""
    with suppress(OSError):
        # proc(5): the name, in brackets, may hold anything; the state follows, the start is field 22.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
