"""Runs an iterator ahead of its consumer, in a thread, by a bounded number of items."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    An error in `items` is raised here. Leaving the loop early ends the thread.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed over, and raised again where items are consumed
            put("error", error)
            return
        put("end", None)

    thread = threading.Thread(target=produce, name="treeline-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
