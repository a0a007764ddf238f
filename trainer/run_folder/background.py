"""Writing in a background thread, one job after another, so that training does not wait for storage.

with Background() as background:
    background.do(lambda: publish(url, data))    # waits only while the job before is still running
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Background thread that runs jobs in order; the next call, or the end, raises a job's error.

    `look` is a call that waits for nothing.
    """

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
        """Start `work` when the job before is done; only one runs at a time, so memory is bounded."""
        self.wait()
        self._last = self._pool.submit(work)

    def look(self) -> None:
        """Raise the error of a job that has failed, without waiting for one that runs.

        Raises:
            OSError: storage failed.
        """
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: storage failed.
        """
        if self._last is not None:
            self._last.result()
            self._last = None
