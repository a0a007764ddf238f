"""validation.json in a run's folder: the best checkpoint beside the baselines, on the validation chips.

No torch here; verdict_writer.py in this room writes the file.
"""

from shards.format.manifest import read_json, understood
from shards.storage.objects import exists, join

VERDICT = "validation.json"
CHECKPOINT = "checkpoint"
"""Entry that names the best checkpoint."""
DAMAGED = "delete it, and resume the run, which writes it again"
"""Advice about a file that cannot be understood."""


def read_verdict(run: str) -> str:
    """Read what the run at `run` came to, in a sentence; "" if that is not known.

    Raises:
        InputError: the file is damaged.
    """
    return read_entry(run, "verdict")


def read_entry(run: str, name: str) -> str:
    """Return an entry of the file, "" if there is no file.

    Raises:
        InputError: the file is damaged.
    """
    url = join(run, VERDICT)
    if not exists(url):
        return ""
    with understood(url, DAMAGED):
        return str(read_json(url)[name])
