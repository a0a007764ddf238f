"""Writes in a thread of its own, one thing after the other, so that training does not wait for storage.

with Background() as background:
    background.do(lambda: publish(url, data))    # waits only while the thing before is still being written
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """What is done is done in order; an error is raised by the next call, or at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="treeline-write")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self.wait()

    def do(self, work: Callable[[], None]) -> None:
        """Do `work` after what is under way; at most one waits, so memory is bounded."""
        self.wait()
        self._last = self._pool.submit(work)

    def wait(self) -> None:
        """Until all is written.

        Raises:
            OSError: storage failed.
        """
        if self._last is not None:
            self._last.result()
            self._last = None
