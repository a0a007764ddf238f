"""The connection to Ray while a command runs; commands without workers start nothing."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import InputError

LOCAL_TOKEN = Path(".ray/auth_token")
"""File, below the home folder, in which Ray keeps the token that its clusters ask for."""
ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable that says "0" where Ray's clusters never have a second machine."""
CURRENT_CLUSTER = Path("ray/ray_current_cluster")
"""File, below the folder for temporary files, in which Ray keeps the address of this machine's cluster."""


def use_token_if_there_is_one() -> None:
    """Let this process authenticate to a cluster that asks for a token.

    Ray's clusters turn on token authentication by themselves. Its job client does not, and is refused.
    """
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / LOCAL_TOKEN).exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def keep_token_private() -> None:
    """See that only this user can read the token, and make one where there is none.

    Ray writes it with the permissions that files have by default: others of the machine could read it.

    Raises:
        InputError: the file cannot be written, or others can read it and its permissions cannot be changed.
    """
    elsewhere = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    token = Path.home() / LOCAL_TOKEN
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if token.stat().st_mode & 0o077:
                token.chmod(0o600)
            return
        with os.fdopen(file, "w") as target:
            target.write(secrets.token_hex(32))
    except OSError as error:
        raise InputError(
            f"{token}: cannot be kept from other users ({error.strerror}); set RAY_AUTH_TOKEN_PATH to a file "
            "that only you can read"
        ) from error


def may_be_there() -> bool:
    """Tell whether there may be a cluster to connect to, by the places that ray.init documents.

    It takes no time: Ray is not imported, and no cluster is asked.
    """
    loaded: Any = sys.modules.get("ray")
    if os.environ.get("RAY_ADDRESS") or (loaded and loaded.is_initialized()):
        return True
    # As get_default_system_temp_dir of Ray 2.60.
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - Ray's own
    return Path(folder, CURRENT_CLUSTER).exists()


@contextmanager
def connected(workers: int, check_alone: Callable[[], object] | None = None) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of this machine, or else start a temporary one.

    Args:
        workers: number of workers; without any nothing is connected or started.
        check_alone: called before a temporary cluster starts, which is this machine alone: what it refuses
            is refused at once.
    """
    if not workers:
        yield
        return
    if check_alone and not may_be_there():
        check_alone()
    # Ray reads it when it is imported; a value that the user set stays.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Its copy of what is printed would be a second line.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if not may_be_there():
        # A cluster of our own listens on this machine's loopback alone. Ray has no option for it: it takes
        # the machine's address even where it is told 127.0.0.1, unless it believes that clusters of several
        # machines are not supported here. It reads this when it is imported.
        os.environ.setdefault(ONE_MACHINE, "0")
        keep_token_private()
    use_token_if_there_is_one()
    import ray
    from ray.data import DataContext

    already = ray.is_initialized()
    if not already:
        # A cluster made for one command has no dashboard.
        # Ray's processes warn again and again that there is none.
        ray.init(
            logging_level=logging.WARNING,
            include_dashboard=False,
            logging_config=ray.LoggingConfig(log_level="ERROR"),
        )
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its file has the plans of its steps still
            handler.setLevel(logging.ERROR)
    # Our own bar shows progress.
    DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        if not already:
            ray.shutdown()
