"""Search for the number of windows that a device predicts at a time: as many as bring something, and fit."""

from collections.abc import Callable
from math import inf

from shards.errors import InputError, one_line

GAIN = 0.05
"""Share by which the time per window must fall when twice as many are predicted at a time."""
MOST_PIXELS = 1024 * 64 * 64
"""Pixels of the largest batch: 1,024 windows of 64. Larger ones meet limits of single kernels, such as 2^31
elements of an upsampled layer (pytorch/pytorch#185788), before they bring anything."""


def useful_batch(compute: Callable[[int], float], most: int) -> int:
    """Return the smallest power of 2 beyond which nothing is gained, at most half of what fits.

    Half, because other windows of a scene, and other programs, may take more memory than the trial did.

    Args:
        compute: function that predicts this many windows, waits for the device, and returns the seconds.
            It raises RuntimeError where they do not fit.
        most: largest number to return, a power of 2.

    Raises:
        InputError: the device does not compute any more after a failure, or not even one window.
    """
    size, before, failure = 1, inf, ""
    while size <= 2 * most:
        try:
            seconds = compute(size) / size
        except RuntimeError as error:  # of any kind: libraries have their own
            failure = one_line(error)
            break
        if size <= most and seconds > (1 - GAIN) * before:
            break
        size, before = 2 * size, seconds
    # Here `size` brought nothing, failed, or is beyond what is tried.
    found = max(1, size // 4 if failure or size > 2 * most else size // 2)
    if failure:
        try:
            compute(found)
        except RuntimeError as error:
            raise InputError(
                f"--batch-size 0: the device fails with {size} windows at a time ({failure[:200]}), and then "
                f"with {found} ({one_line(error)[:200]}); give --batch-size {found}, or a smaller --window"
            ) from error
    return found


def most_windows(side: int) -> int:
    """Return the largest number of windows of this side that are tried, a power of 2."""
    return 1 << max(0, (MOST_PIXELS // side**2).bit_length() - 1)
