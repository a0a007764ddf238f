"""The writer of validation.json (verdict_file.py in this room), at the end of a run."""

from shards.format.manifest import write_json
from shards.storage.objects import join
from trainer.fit.beside_baselines import beside_baselines
from trainer.fit.loop import Fit
from trainer.run_folder.run_writer import best_epochs, folder_of
from trainer.run_folder.verdict_file import CHECKPOINT, VERDICT, read_entry


def write_verdict(fit: Fit, out: str) -> None:
    """Compare the run at `out`, which has ended, with its baselines, unless its file has that already.

    Raises:
        InputError: the file is damaged.
    """
    best = folder_of(best_epochs(fit.records, 1, fit.objective.standing)[0])
    if read_entry(out, CHECKPOINT) != best and (compared := beside_baselines(fit)):
        write_json(join(out, VERDICT), {CHECKPOINT: best, **compared.to_json()})
