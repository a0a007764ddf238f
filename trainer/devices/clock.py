"""Clock of an epoch's steps: where time goes, as the computing device sees it, measured without waiting.

clock = Clock(device)
clock.restart()
clock.start(WAITING); ...; clock.stop(WAITING)
clock.passes_queued(); ...; clock.step_queued()
clock.spent(chips)

On a CPU a moment is a reading of the clock that is handed in, by default the machine's. A GPU runs its work
some time after the process queued it, so there a moment is a CUDA event, which the GPU stamps when it gets
there. A process that waits for data while its GPU still has work costs nothing, so that is not counted.

No event tells how long a GPU pauses between two kernels because the process queues them too slowly. But an
event that the GPU has not reached tells that the GPU still has work.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

WAITING, STEPPING, COMMUNICATION = "waiting", "stepping", "communication"
Moment = float | torch.cuda.Event


@dataclass(frozen=True)
class TimeSpent:
    """Seconds that an epoch's steps took in this process, without scoring.

    Time that is neither waiting, computing nor communication went into saving.
    """

    chips: int = 0
    """Chips seen in that time, over all ranks."""
    seconds: float = 0.0
    """All seconds."""
    waiting: float = 0.0
    """Seconds without work, until the next batch was on the device."""
    computing: float = 0.0
    """Seconds in steps without communication, including pauses of a GPU whose process queues work too slowly
    (see `busy`)."""
    communication: float = 0.0
    """Seconds that other ranks added: for sums of the loss and of batch norm, and for gradients, from this
    rank's last one until all are averaged. Sending while gradients are still computed takes no time; waiting
    for slower ranks does. Traffic between a sharded model's blocks counts as `computing`."""
    busy: float | None = None
    """Share (0..1) of steps that kept the GPU busy: when the process had queued the whole step, the GPU had
    yet to finish the backward pass. In other steps the GPU keeps up with the process and pauses between
    kernels; for how long, only a profiler tells. None on a CPU, and if no step was queued."""

    def share(self, seconds: float) -> float:
        """Return `seconds` as a share (0..1) of all seconds."""
        return seconds / max(self.seconds, 1e-9)


class Clock:
    """Clock that adds up spans of time by name."""

    def __init__(self, device: torch.device, seconds_now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._seconds_now = device, seconds_now
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self._began = self._seconds_now()
        self._seconds = dict.fromkeys((WAITING, STEPPING, COMMUNICATION), 0.0)
        self._open: dict[str, Moment] = {}
        self._unread: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._passes: torch.cuda.Event | None = None
        self._steps = self._busy_steps = 0

    def start(self, name: str) -> None:
        """Begin a span."""
        self._open[name] = self._now()

    def stop(self, name: str) -> None:
        """End a span; do nothing if it did not begin."""
        start = self._open.pop(name, None)
        if start is None:
            return
        end = self._now()
        if isinstance(start, float) and isinstance(end, float):
            self._seconds[name] += end - start
        elif isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            self._unread.append((name, start, end))
            self._read()

    def passes_queued(self) -> None:
        """Mark the end of a step's passes; the optimiser's work follows until `step_queued`."""
        now = self._now()
        self._passes = now if isinstance(now, torch.cuda.Event) else None

    def step_queued(self) -> None:
        """Note whether the GPU is still busy with the passes, now that the whole step is queued."""
        if self._passes is not None:
            self._steps += 1
            # `query` does not wait. Queueing the optimiser's work took far longer than an event's delay.
            self._busy_steps += not self._passes.query()
            self._passes = None

    def spent(self, chips: int) -> TimeSpent:
        """Return the time since `restart`, in which `chips` were seen; wait for the GPU first."""
        if self._unread:
            self._unread[-1][2].synchronize()
            self._read()
        waiting, stepping, communication = self._seconds.values()
        seconds = self._seconds_now() - self._began
        computing = max(0.0, stepping - communication)
        busy = self._busy_steps / self._steps if self._steps else None
        return TimeSpent(chips, seconds, waiting, computing, communication, busy)

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return self._seconds_now()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        """Add up the spans that the GPU has finished; the others stay for later."""
        while self._unread and self._unread[0][2].query():
            name, start, end = self._unread.popleft()
            self._seconds[name] += start.elapsed_time(end) / 1e3  # CUDA gives milliseconds
