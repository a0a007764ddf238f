"""Checkpoints of a run, as its checkpoints.json names them: the last one, and the best ones, best first."""

from dataclasses import dataclass
from functools import cache

from shards.errors import InputError
from shards.format.manifest import read_json, understood
from shards.format.path_names import check_name
from shards.said import say
from shards.storage.objects import exists, join

CHECKPOINTS = "checkpoints.json"
"""File in a run's folder that names its checkpoints."""
COMPLETE = "config.json"
"""File that is the last of a checkpoint to be written; see trainer.model.checkpoint."""
DAMAGED = "copy the checkpoint again, or take another"
"""Advice about a checkpoint's file that cannot be understood."""


@dataclass(frozen=True)
class RunCheckpoints:
    """Names of a run's checkpoints."""

    run: str
    """Folder of the run."""
    last: str
    best: tuple[str, ...]
    """Names of those that were kept, the best one first."""

    def url_of_last(self) -> str:
        """Return the folder of the last checkpoint.

        Raises:
            InputError: it is missing.
        """
        if self._is_there(self.last):
            return join(self.run, self.last)
        there = [name for name in self.best if self._is_there(name)]
        cure = f"give {join(self.run, there[0])}" if there else "train again, with another --out"
        raise InputError(f"{self.run}: its last checkpoint, {self.last}, is missing; {cure}")

    def url_of_best(self) -> str:
        """Return the folder of the best checkpoint that is there, and say so if it is not the best of all.

        Raises:
            InputError: none is there.
        """
        for name in dict.fromkeys((*self.best, self.last)):
            if self._is_there(name):
                if name != self.best[0]:
                    say_once(
                        f"{self.run}: its best checkpoint, {self.best[0]}, is missing; takes the next that "
                        f"is there, {name}"
                    )
                return join(self.run, name)
        names = ", ".join(dict.fromkeys((*self.best, self.last)))
        raise InputError(
            f"{self.run}: none of its checkpoints is there ({names}); copy them again, or train again, with "
            "another --out"
        )

    def _is_there(self, name: str) -> bool:
        return exists(join(self.run, name, COMPLETE))


def read_run_checkpoints(run: str) -> RunCheckpoints | None:
    """Read the names of the checkpoints of the run at `run`; None if there is no run with a checkpoint.

    Raises:
        InputError: the file that names them is damaged.
    """
    url = join(run, CHECKPOINTS)
    if not exists(url):
        return None
    with understood(url, f"copy it again, or name a checkpoint's folder in {run}"):
        names = read_json(url)
        last, best = names["last"], tuple(names["best"])
        if not best:
            raise ValueError("names no checkpoints")
        for name in (last, *best):
            check_name(name)
        return RunCheckpoints(run, last, best)


@cache
def say_once(text: str) -> None:
    """Say it on standard error; a command looks at its checkpoint several times."""
    say(text)
