"""Where the time of an epoch's steps goes, as the device that computes sees it; nobody waits to find out.

clock = Clock(device)
clock.restart()
clock.start(WAITING); ...; clock.stop(WAITING)
clock.spent(chips)

On a CPU a moment is a reading of a clock that is handed in, by default the machine's. A GPU comes to what it
is asked some time after the process asked: there a moment is a CUDA event, which the GPU stamps when it comes
to it. So a process that waits for data while its GPU still has work costs nothing, and is not counted.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

WAITING, STEPPING, COMMUNICATION = "waiting", "stepping", "communication"
Moment = float | torch.cuda.Event


@dataclass(frozen=True)
class Spent:
    """Seconds of an epoch's steps in this process, scoring left out; what is in no share is saving."""

    chips: int = 0
    """Met meanwhile, over all ranks."""
    seconds: float = 0.0
    waiting: float = 0.0
    """Of these, with nothing to do until the next batch was on the device."""
    computing: float = 0.0
    """Of these, in steps, communication left out; pauses of a GPU that is asked too slowly are in it."""
    communication: float = 0.0
    """Of these, added by other ranks: sums of the loss, and gradients from when the last of this rank was
    there until all were averaged. What is sent while gradients are still computed takes no time; waiting
    for slower ranks does. What a sharded model sends between its blocks is in `computing`."""

    def share(self, seconds: float) -> float:
        """`seconds` as a share (0..1) of all."""
        return seconds / max(self.seconds, 1e-9)


class Clock:
    """Adds up spans of time by name."""

    def __init__(self, device: torch.device, seconds_now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._seconds_now = device, seconds_now
        self.restart()

    def restart(self) -> None:
        """Begin at nought."""
        self._began = self._seconds_now()
        self._seconds = dict.fromkeys((WAITING, STEPPING, COMMUNICATION), 0.0)
        self._open: dict[str, Moment] = {}
        self._unread: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self, name: str) -> None:
        """Here a span begins."""
        self._open[name] = self._now()

    def stop(self, name: str) -> None:
        """Here it ends, if it began."""
        start = self._open.pop(name, None)
        if start is None:
            return
        end = self._now()
        if isinstance(start, float) and isinstance(end, float):
            self._seconds[name] += end - start
        elif isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            self._unread.append((name, start, end))
            self._read()

    def spent(self, chips: int) -> Spent:
        """What was added up since `restart`, in which `chips` were met; a GPU is waited for."""
        if self._unread:
            self._unread[-1][2].synchronize()
            self._read()
        waiting, stepping, communication = self._seconds.values()
        seconds = self._seconds_now() - self._began
        return Spent(chips, seconds, waiting, max(0.0, stepping - communication), communication)

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return self._seconds_now()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        """Add up what the GPU has come to; what it has not stays for later."""
        while self._unread and self._unread[0][2].query():
            name, start, end = self._unread.popleft()
            self._seconds[name] += start.elapsed_time(end) / 1e3  # CUDA says milliseconds
