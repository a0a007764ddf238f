"""The two ways Treeline stops: a mistake by the user (exit code 2) and a failure (exit code 1)."""

from shards.foreign_text import line


class InputError(Exception):
    """A mistake by the user: one line that says what, where, and what to do. Exit code 2."""

    @property
    def line(self) -> str:
        """The line, as `shards.wording.Words` if it names options; str() makes it plain text."""
        return self.args[0] if self.args and isinstance(self.args[0], str) else str(self)


class NothingToKeepError(InputError):
    """An input that leaves nothing worth keeping: whatever was made so far is removed."""


class DatasetError(Exception):
    """Stored data that is not what its manifest says, for example a corrupt shard. Exit code 1.

    It is raised in place of a wrong sample. The command was right, and the same one goes on once the data are
    whole. `treeline verify` tells whether they are, and ends with 1 as well.
    """


class DatasetChangedError(DatasetError):
    """A dataset that another command changed after this one opened it.

    Nothing is damaged, so no shard is left out for it.
    """


def one_line(text: object) -> str:
    """Collapse a text, for example a library's error, to one line that is fit to be shown."""
    return line(text)
