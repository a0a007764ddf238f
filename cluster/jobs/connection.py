"""The connection to Ray, held while a command runs; nothing is started without workers."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCAL_TOKEN = Path(".ray/auth_token")
"""Below the home folder: where Ray keeps the token that its clusters ask for."""


def use_token_if_there_is_one() -> None:
    """Let this process prove itself to a cluster that asks for a token.

    Ray's clusters turn token authentication on by themselves; its job client does not, and is refused.
    """
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / LOCAL_TOKEN).exists():
        os.environ["RAY_AUTH_MODE"] = "token"


@contextmanager
def connected(workers: int) -> Iterator[None]:
    """Connected to the cluster of RAY_ADDRESS or of this machine, or else to one made for the occasion."""
    if not workers:
        yield
        return
    # Environment of whoever asked, read by Ray when it is imported.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    use_token_if_there_is_one()
    import ray
    from ray.data import DataContext

    already = ray.is_initialized()
    if not already:
        # Loopback: a cluster made for one command is nobody else's.
        ray.init(logging_level=logging.WARNING, include_dashboard=False)
    # Our own bar shows the progress.
    DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        if not already:
            ray.shutdown()
