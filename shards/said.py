"""What commands say to people: each line fit for a terminal, whoever wrote the names in it."""

import sys

from shards.foreign_text import LONGEST_LINE, line, visible


def say(text: object, of: str = "treeline") -> None:
    """Say one line on standard error, at once.

    Args:
        text: the line.
        of: what says it, before a colon; "": the line says that itself.
    """
    print(f"{of}: {line(text)}" if of else line(text), file=sys.stderr, flush=True)


def tell(text: object) -> None:
    """Tell a command's result, of one or more lines, on standard output."""
    print("\n".join(visible(one, LONGEST_LINE) for one in str(text).split("\n")), flush=True)
