"""`treeline view`: maps in a browser, from a server on this machine.

options -> layers, all checked      inference.view.plan.plan
-> a socket on 127.0.0.1            _listening (here)
-> page, tiles, values              inference.view.server.application
-> the browser                      inference/view/map_view.js
"""

import contextlib
import secrets
import socket
import threading
import webbrowser

from inference.config import ViewConfig
from inference.view.plan import plan
from shards.errors import InputError
from shards.raster.opening import bound_cache
from shards.said import tell
from shards.storage.objects import name_of

HOST = "127.0.0.1"
MOST_PORT = 65535
LAST_SECONDS = 1
"""Seconds that requests under way have to end after Ctrl-C."""


def view(config: ViewConfig) -> None:
    """Show maps until Ctrl-C.

    Raises:
        InputError: a raster or an option cannot be used, or treeline[view] is not installed.
    """
    _refuse_missing_packages()
    if not 0 <= config.port <= MOST_PORT:
        raise InputError(f"--port {config.port}: give 1 to {MOST_PORT}, or 0 for any that is free")
    bound_cache()
    planned = plan(config)

    import uvicorn

    from inference.view.server import application

    token = secrets.token_urlsafe(16)
    with _listening(config.port) as listening:
        port = listening.getsockname()[1]
        address = f"http://{HOST}:{port}/{token}/"
        title = f"{name_of(config.maps[0])} - Treeline"
        server = uvicorn.Server(
            uvicorn.Config(
                application(planned, token, port, title),
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )
        tell(f"{address}\nonly for this machine; Ctrl-C ends it")
        if config.browser:
            # Some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended
            server.run(sockets=[listening])
        tell("stopped")


def _listening(port: int) -> socket.socket:
    """Open a socket that listens on this machine alone; a browser may ask before the server answers.

    Raises:
        InputError: the port is taken.
    """
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
    except OSError as error:
        opened.close()
        raise InputError(f"--port {port}: cannot be used ({error.strerror}); give another") from error
    opened.listen()
    return opened


def _refuse_missing_packages() -> None:
    try:
        import rio_tiler.utils
        import starlette
        import uvicorn
    except ImportError as error:
        raise InputError(
            f"view needs {error.name}, which is not installed: pip install 'treeline[view]'"
        ) from error
    del rio_tiler, starlette, uvicorn
