"""How much memory a call takes."""

from collections.abc import Callable
from pathlib import Path

import pytest

_RESET = Path("/proc/self/clear_refs")
needs_peak = pytest.mark.skipif(not _RESET.exists(), reason="only Linux tells the peak of memory")


def peak_bytes_of(call: Callable[[], object]) -> int:
    """Bytes that this process holds during `call`, at most, beside those that it has already."""
    _RESET.write_text("5")  # the peak begins anew
    before = _peak_bytes()
    call()
    return _peak_bytes() - before


def _peak_bytes() -> int:
    """The most memory that this process had since it was last reset."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) * 1024


def own_bytes() -> int:
    """Memory of this process that is no file's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) * 1024
