"""Page around maps: their style and script, whole pages, and the policy that lets nothing else in.

The style (map_view.css) and the script stand in the page itself or are served beside it. The script pans and
zooms maps, with a swipe between two layers and values under the pointer. Every element of class treeline-map
holds a JSON description (inference.view.description). Places in it are metres on the ground, x to the right
and y down, from a corner that it names. The script asks for nothing but tiles and values named there.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATE, STYLE, SCRIPT = "map_view.html.j2", "map_view.css", "map_view.js"
SCRIPT_PARTS = ("map_pixels", "map_tiles", "map_frame", "map_legends", "map_values", "map_input", "map_view")
"""Files (.js) that the script is made of, in this order; what they define is seen by each other alone."""

_HERE = Path(__file__).parent


@cache
def style() -> str:
    """Read the style."""
    return (_HERE / STYLE).read_text()


@cache
def script() -> str:
    """Join the parts of the script."""
    parts = "\n".join((_HERE / f"{name}.js").read_text() for name in SCRIPT_PARTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def head_in_page() -> Markup:
    """Return style and script as elements for a page's head; one of each serves all maps of the page."""
    return Markup("<style>{}</style>\n<script>{}</script>").format(_raw(style()), _raw(script()))


def served_head() -> Markup:
    """Return links to style and script that are served beside the page."""
    return Markup('<link rel="stylesheet" href="{}">\n<script src="{}"></script>').format(STYLE, SCRIPT)


def script_source() -> str:
    """Name the script of `head_in_page` for the script-src of a Content-Security-Policy."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def map_element(about: dict[str, Any], label: str, is_alone: bool = False) -> Markup:
    """Return the element of a map.

    Args:
        about: its description, see `description`.
        label: name of the map for those who do not see it.
        is_alone: whether it fills the window.
    """
    # Text in a script element ends at </, whatever is written there.
    text = json.dumps({**about, "is_alone": is_alone}, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(  # noqa: S704 - what a template gives that escapes
        _pieces().map(_raw(text), label, is_alone)
    )


def whole_page(title: str, content: Markup, head: Markup, policy: str) -> str:
    """Return a page; `policy` is its Content-Security-Policy."""
    return f"{str(_pieces().page(title, content, head, policy)).lstrip()}\n"


def _raw(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - our own files, and JSON without "<"


@cache
def _pieces() -> Any:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).module
