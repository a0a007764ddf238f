"""What is kept about the steps of a run, in OUT/steps.json: how each was made, of what, and what it made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from cluster.steps.content import Content
from shards.format.manifest import read_json, write_json
from shards.format.path_names import check_name_or_empty
from shards.storage.json_marks import Checked
from shards.storage.objects import exists, join, remove_file
from shards.storage.typed_json import typed
from shards.version import made_by_code

RECORDS = "steps.json"
CURE = (
    "copy it again, or delete it: then the command of each step decides what to do about results that are "
    "there"
)
State = Literal["begun", "done", "being removed"]
Name = Annotated[str, Checked(check_name_or_empty)]
"""Name of a file below a step's place: it may be removed; "" is the place itself."""


@dataclass(frozen=True)
class Record:
    """A step as it was run."""

    command: str
    state: State
    options: Mapping[str, Any]
    """Values of the options that are no places, as JSON has them."""
    inputs: Mapping[str, Content]
    """What lay at the places that it read, by option."""
    place: str = ""
    """Place of what it makes, relative to the run's folder if it lies there."""
    before: tuple[Name, ...] = ()
    """Files that lay there before it began."""
    files: dict[Name, str] = field(default_factory=dict)
    """Files that it made, with their versions."""
    beside: dict[str, str] = field(default_factory=dict)
    """Files that it made beside its place, by name, with their versions."""
    described: str = ""
    """What it made, where that is known by a description and not by its files: a dataset, a run."""
    code: Mapping[str, str] = field(default_factory=made_by_code)
    """Version and commit, which are recorded and never compared."""

    @property
    def result(self) -> Content:
        """What lies at its place since it was done."""
        return self.described or self.files


@dataclass(frozen=True)
class _Stored:
    """Content of steps.json."""

    steps: dict[str, Record]


class Records:
    """Records of a run, written at each change."""

    def __init__(self, out: str) -> None:
        self._url = join(out, RECORDS)
        self._of: dict[str, Record] = {}
        if exists(self._url):
            self._of = typed(read_json(self._url, cure=CURE), _Stored, self._url, CURE).steps

    def get(self, name: str) -> Record | None:
        """Return the record of a step, if it ever began."""
        return self._of.get(name)

    def keep(self, name: str, record: Record | None) -> None:
        """Write the record of a step, or forget it."""
        self._of.pop(name, None)
        if record:
            self._of[name] = record
        steps = {name: asdict(record) for name, record in self._of.items()}
        if steps:
            write_json(self._url, {"steps": steps})
        else:
            remove_file(self._url)
