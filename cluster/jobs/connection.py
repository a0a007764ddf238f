"""The connection to Ray while a command runs; commands without workers start nothing."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCAL_TOKEN = Path(".ray/auth_token")
"""File, below the home folder, in which Ray keeps the token that its clusters ask for."""


def use_token_if_there_is_one() -> None:
    """Let this process authenticate to a cluster that asks for a token.

    Ray's clusters turn on token authentication by themselves. Its job client does not, and is refused.
    """
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / LOCAL_TOKEN).exists():
        os.environ["RAY_AUTH_MODE"] = "token"


@contextmanager
def connected(workers: int) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of this machine, or else start a temporary one."""
    if not workers:
        yield
        return
    # Ray reads it when it is imported; a value that the user set stays.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    use_token_if_there_is_one()
    import ray
    from ray.data import DataContext

    already = ray.is_initialized()
    if not already:
        # A cluster made for one command stays on loopback, without a dashboard.
        ray.init(logging_level=logging.WARNING, include_dashboard=False)
    # Our own bar shows progress.
    DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        if not already:
            ray.shutdown()
