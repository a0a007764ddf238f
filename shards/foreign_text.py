"""Text that may come from anybody (names, keys, tags, libraries' errors), made fit to be shown.

A terminal obeys control characters, and bidirectional ones reorder what a reader sees; an address may hold a
password. Whatever is printed, logged or written into tags goes through `visible` or `line`.
"""

import re
import unicodedata

LONGEST_NAME = 200
"""Characters of a name that are shown, at most."""
LONGEST_LINE = 2000
"""Characters of a line that are shown, at most."""
CUT = " ... "
"""Mark of what was left out of a text."""

_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that have no shape of their own: controls, formats (with those that turn
the direction of writing), private ones, surrogates, and separators of lines and paragraphs."""
_USER = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"?]*=[^\s'\"]*?(?=[),;:]*(?:[\s'\"]|$))")


def visible(text: object, most: int = LONGEST_NAME) -> str:
    """Escape a text's hidden characters, leave secrets out, and cut the middle out of a long one."""
    return _cut("".join(map(_escaped, without_secrets(str(text)))), most)


def line(text: object, most: int = LONGEST_LINE) -> str:
    """Collapse a text to one line that is fit to be shown; see `visible`."""
    return visible(" ".join(str(text).split()), most)


def without_secrets(text: str) -> str:
    """Leave user, password and query out of every address in a text."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1", _USER.sub("", text))


def _escaped(character: str) -> str:
    if character.isascii():
        hidden = not character.isprintable()
    else:
        hidden = unicodedata.category(character) in _HIDDEN
    return character.encode("unicode_escape").decode() if hidden else character


def _cut(text: str, most: int) -> str:
    """Cut the middle out: a message begins with what and where, and ends with what to do."""
    if len(text) <= most:
        return text
    kept = most - len(CUT)
    return text[: kept - kept // 2] + CUT + text[len(text) - kept // 2 :]
