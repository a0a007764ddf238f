"""Self-contained HTML pages: one skeleton, and the tables, figures, sentences and listings that fill it.

    page("Dataset chips", {"In short": table(("", ""), rows) + figure(png_bytes, "Some chips")})

Pieces are Markup: the template escapes every title, name and cell, and a plain string added to a piece is
escaped too. The page's policy is a second wall: a browser fetches nothing, and runs
only scripts that it names.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shards.draw.content_policy import content_policy
from shards.wording import number

TEMPLATE = "page.html.j2"

_NOTHING = Markup()

Cell = str | int | float | None
"""Content of a table's cell; None leaves it empty."""


class Numeral(str):
    """A number or range already written out ("12.5%", "0 to 40"); a table aligns it like other numbers."""

    __slots__ = ()


def page(
    title: str,
    sections: Mapping[str, Markup],
    lead: str = "",
    footer: str = "",
    head: Markup = _NOTHING,
    script_source: str = "'none'",
) -> str:
    """Return the whole page.

    Args:
        title: heading, and name of the browser's tab.
        sections: content of each section by its heading, in order.
        lead: a sentence below the title.
        footer: a sentence at the end.
        head: styles and scripts for the page's head.
        script_source: which scripts the page's policy allows, such as 'sha256-...'; default: none.
    """
    return f"{_pieces().page(title, sections, lead, footer, head, content_policy(script_source))}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], strong: int | None = None) -> Markup:
    """Lay out rows below a head; a head of empty strings is left out.

    Numbers, and the heads of columns that hold one, are aligned at the right.

    Args:
        head: name of each column.
        rows: cells by row.
        strong: index of the row in bold type.
    """
    numeric = [any(_is_number(row[column]) for row in rows) for column in range(len(head))]
    heads = list(zip(head, numeric, strict=True)) if any(head) else []
    cells = [[(_shown(cell), _is_number(cell)) for cell in row] for row in rows]
    return _piece("table", heads, cells, strong)


def figure(png: bytes, alt: str) -> Markup:
    """Embed a PNG; `alt` says what it shows."""
    return _piece("figure", f"data:image/png;base64,{base64.b64encode(png).decode()}", alt)


def heading(text: str) -> Markup:
    """Make a heading within a section."""
    return _piece("heading", text)


def sentence(text: str) -> Markup:
    """Make a paragraph of small, soft type."""
    return _piece("sentence", text)


def statement(text: str) -> Markup:
    """Make a paragraph of larger type, for what matters most."""
    return _piece("statement", text)


def folded(text: str, content: Markup) -> Markup:
    """Hide content until a reader opens it by its title, `text`."""
    return _piece("folded", text, content)


def listing(text: str) -> Markup:
    """Show text with its line breaks and spaces."""
    return _piece("listing", text)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float | Numeral)


def _shown(cell: Cell) -> str:
    return f"{cell:,}" if isinstance(cell, int) else number(cell) if isinstance(cell, float) else cell or ""


def _piece(macro: str, *values: object) -> Markup:
    return Markup(getattr(_pieces(), macro)(*values))  # noqa: S704 - the template escapes


@cache
def _pieces() -> Any:
    """Compile the template once; its macros are attributes of what is returned."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).module
