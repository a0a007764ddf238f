"""Server of a page of maps: its files, tiles and values, for the one browser that knows its token.

It answers on this machine alone (127.0.0.1), only under /TOKEN/, and only to requests that name this machine
as their host: otherwise any page in the user's browser could look at maps, by guessing the port or by having
its own name point here (DNS rebinding). The page may fetch from nowhere else, but from its background.
"""

import math
import queue
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rio_tiler.utils import render
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from inference.view.layers import Place
from inference.view.page import SCRIPT, STYLE, map_element, script, served_head, style, whole_page
from inference.view.plan import Plan
from inference.view.tiles import is_near, tile_grid
from shards.draw.content_policy import content_policy
from shards.errors import InputError
from shards.raster.opening import OpenRasters
from shards.said import say

AT_ONCE = 4
"""Tiles that are made at a time."""
MOST_LEVELS = 40
"""Most levels that a tile may be finer or coarser than the frame."""
KEEP = "private, max-age=3600"
"""Cache-Control of tiles: a browser keeps one for an hour. The next server has another token."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def policy(background: str, is_header: bool = True) -> str:
    """Return the Content-Security-Policy of the page: this server, and the host of the background."""
    parts = urlsplit(background)
    pictures = f"'self' data: {parts.scheme}://{parts.netloc}" if background else "'self' data:"
    return content_policy("'self'", "'self'", pictures, "'self'", is_header)


class Guard:
    """Wall around the server: it lets through what names the token and this machine."""

    def __init__(self, inner: Any, token: str, port: int, background: str) -> None:
        self._inner, self._prefix = inner, f"/{token}/"
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._headers = {
            "content-security-policy": policy(background),
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        begins = scope["path"][: len(self._prefix)]
        is_known = secrets.compare_digest(begins.encode(), self._prefix.encode())
        if not is_known or len(hosts) != 1 or hosts[0] not in self._hosts:
            refusal = PlainTextResponse("403: open the address that treeline view printed\n", 403)
            await refusal(scope, receive, send)
            return
        inner = {**scope, "path": scope["path"][len(self._prefix) - 1 :], "raw_path": b""}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in self._headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self._inner(inner, receive, send_with_headers)


class Answers:
    """Answers to the requests that the guard lets through."""

    def __init__(self, plan: Plan, title: str) -> None:
        self._plan = plan
        element, own = (
            map_element(plan.about(), title, is_alone=True),
            policy(plan.background, is_header=False),
        )
        self._page = whole_page(title, element, served_head(), own)
        self._free = queue.LifoQueue[OpenRasters]()
        for _ in range(AT_ONCE):
            self._free.put(OpenRasters())

    @contextmanager
    def _borrowed(self) -> Iterator[OpenRasters]:
        """Lend open rasters to one request at a time: GDAL's are not for several threads at once."""
        rasters = self._free.get()
        try:
            yield rasters
        finally:
            self._free.put(rasters)

    async def page(self, request: Request) -> Response:
        """Send the page."""
        return HTMLResponse(self._page)

    async def script(self, request: Request) -> Response:
        """Send the page's script."""
        return Response(script(), media_type="text/javascript")

    async def style(self, request: Request) -> Response:
        """Send the page's style."""
        return Response(style(), media_type="text/css")

    def tile(self, request: Request) -> Response:
        """Draw a tile of a layer, in a thread of its own.

        Raises:
            HTTPException: there is no such layer, or no such tile (404).
        """
        grid, layers = self._plan.frame.grid, self._plan.layers
        layer, level, column, row = _asked_tile(request)
        if not (0 <= layer < len(layers) and abs(level) <= MOST_LEVELS and is_near(grid, level, column, row)):
            raise HTTPException(404)
        with self._borrowed() as rasters:
            rgba_4HW = layers[layer].rgba(rasters, tile_grid(grid, level, column, row))
        return Response(png(rgba_4HW), media_type="image/png", headers={"cache-control": KEEP})

    def values(self, request: Request) -> Response:
        """Say what each layer has at a place of the frame, in a thread of its own.

        Raises:
            HTTPException: the request names no place (404).
        """
        x, y = _asked_place(request)
        grid, (wide, high) = self._plan.frame.grid, self._plan.frame.pixel
        in_crs = grid.transform @ (x / wide, y / high)
        place = Place(in_crs[0], in_crs[1], grid.crs)
        with self._borrowed() as rasters:
            texts = [layer.text(rasters, place) for layer in self._plan.layers]
        return JSONResponse({"texts": texts, "place": place.in_crs(self._plan.map_grid.crs)})


def _asked_tile(request: Request) -> tuple[int, int, int, int]:
    """Return layer, level, column and row of the tile that is asked for."""
    try:
        layer, level, column, row = (
            int(request.path_params[name]) for name in ("layer", "level", "column", "row")
        )
    except ValueError:
        raise HTTPException(404) from None
    return layer, level, column, row


def _asked_place(request: Request) -> tuple[float, float]:
    """Return x and y in the frame, in metres."""
    try:
        x, y = (float(request.query_params[name]) for name in ("x", "y"))
    except (KeyError, ValueError):
        raise HTTPException(404) from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise HTTPException(404)
    return x, y


def _damaged(request: Request, error: Exception) -> Response:
    """Say which raster cannot be read, here and in the browser."""
    say(error)
    return PlainTextResponse(f"{error}\n", 500)


def application(plan: Plan, token: str, port: int, title: str) -> Guard:
    """Make the server's application.

    Args:
        plan: what is shown.
        token: word that every address must hold.
        port: port that requests must name.
        title: title of the page.
    """
    answers = Answers(plan, title)
    routes = [
        Route("/", answers.page),
        Route(f"/{SCRIPT}", answers.script),
        Route(f"/{STYLE}", answers.style),
        Route("/tiles/{layer}/{level}/{column}/{row}.png", answers.tile),
        Route("/values", answers.values),
    ]
    inner = Starlette(routes=routes, exception_handlers={InputError: _damaged})
    return Guard(inner, token, port, plan.background)


def png(rgba_4HW: np.ndarray[Any, Any]) -> bytes:
    """Encode a tile."""
    return bytes(render(rgba_4HW[:3], mask=rgba_4HW[3], img_format="PNG", zlevel=1))
