"""The line in which a command, at its end, names the next one, ready to paste into a shell."""

import shlex

NEXT = "next: "
"""Beginning of that line."""
ANY_SCENE = "SCENE..."
"""Stands for scenes that nobody has named yet."""
ANY_DATASET = "DATASET"
"""Stands for a dataset that nobody has named yet."""


def next_step(*words: str) -> str:
    """Return the line that names the next command.

    Args:
        words: words of the command without `treeline`, with the user's own paths; they are quoted here.
    """
    return f"{NEXT}{command_line(*words)}"


def command_line(*words: str) -> str:
    """Write a command ready to paste into a shell; its words come without `treeline`."""
    return shlex.join(("treeline", *words))
