"""The two ways in which Treeline stops: the user's mistake (exit code 2) and a failure (exit code 1)."""


class InputError(Exception):
    """A mistake of the user's: one line that says what, where, and what to do. Exit code 2."""


class NothingToKeepError(InputError):
    """An input of which nothing that was made so far is worth keeping."""


class DatasetError(Exception):
    """Stored data is not what its manifest says (a corrupt shard, say): never a wrong sample. Exit code 1."""


def one_line(said: object) -> str:
    """What was said, by a library's error say, on one line."""
    return " ".join(str(said).split())
