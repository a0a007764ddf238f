"""validation.json in a run's folder: the best checkpoint beside the baselines, on the validation chips."""

from shards.format.manifest import json_bytes, read_json, understood
from shards.storage.objects import exists, join, publish
from trainer.fit.beside_baselines import beside_baselines
from trainer.fit.loop import Fit
from trainer.run_folder.run_writer import best_epochs, folder_of

VERDICT = "validation.json"
CHECKPOINT = "checkpoint"
"""Entry that names the best checkpoint."""
DAMAGED = "delete it, and resume the run, which writes it again"
"""What to do about a file that cannot be understood."""


def write_verdict(fit: Fit, out: str) -> None:
    """Compare the run at `out`, which has ended, with its baselines, unless its file has that already.

    Raises:
        InputError: the file is damaged.
    """
    best = folder_of(best_epochs(fit.records, 1, fit.objective.standing)[0])
    if _read(out, CHECKPOINT) != best and (compared := beside_baselines(fit)):
        publish(join(out, VERDICT), json_bytes({CHECKPOINT: best, **compared.to_json()}))


def read_verdict(run: str) -> str:
    """Read what the run at `run` came to, in a sentence; "" if that is not known.

    Raises:
        InputError: the file is damaged.
    """
    return _read(run, "verdict")


def _read(run: str, name: str) -> str:
    """Return a value of the file, "" if there is no file."""
    url = join(run, VERDICT)
    if not exists(url):
        return ""
    with understood(url, DAMAGED):
        return str(read_json(url)[name])
