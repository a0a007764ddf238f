"""What each command makes, and which options of later steps take it where the file names nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Again = Literal["goes on", "replaces", "refuses"]
"""What a command does where its own result is: go on with it, replace it, or refuse to touch it."""


@dataclass(frozen=True)
class Result:
    """What a command leaves."""

    kind: str
    """What it is, for the options that take it."""
    name: str = ""
    """Name below the run's folder."""
    again: Again = "goes on"
    is_costly: bool = False
    """Whether it is made anew only if --redo says so: a dataset or a training took hours."""
    option: str = "out"
    """Option that names its place; "data" where the command changes a dataset in place, "" if it leaves
    nothing."""
    grows: bool = False
    """Whether it goes on where its input only became more."""
    files: str = ""
    """Pattern of the files below that place which later options take; default: the place itself."""

    is_open: bool = False
    """Whether its input and results of other steps may lie below its place."""
    is_alone: bool = False
    """Whether the command refuses a place where other files lie."""

    @property
    def is_in_place(self) -> bool:
        """Whether the command changes what an earlier one made."""
        return self.option == "data"


DATASET = Result("dataset", "chips", is_costly=True)
RESULTS = {
    "ingest pairs": DATASET,
    "ingest huggingface": DATASET,
    "ingest scenes": DATASET,
    "ingest synthetic": DATASET,
    "ingest source": DATASET,
    "ingest tars": Result("dataset", again="replaces", option="data"),
    "ingest labels": Result("dataset", again="replaces", option="data"),
    "split": Result("dataset", again="replaces", option="data"),
    "convert": Result("dataset", "converted", "refuses", is_costly=True),
    "inspect": Result("page", "inspect", "replaces"),
    "verify": Result("", again="replaces", option=""),
    "pretrain": Result("pre-training", "pretrained", is_costly=True, is_open=True),
    "train": Result("run", "run", is_costly=True, is_open=True),
    "import": Result("run", "imported", "refuses", is_alone=True),
    "export": Result("exported", "exported", "refuses", is_alone=True),
    "sweep": Result("sweep", "sweep", "refuses", is_costly=True),
    "matrix": Result("matrix", "matrix", is_costly=True),
    "evaluate": Result("scores", "evaluation", "replaces"),
    "predict": Result("maps", "maps", grows=True, files="*.tif", is_open=True),
    "mosaic": Result("mosaic", "mosaic.tif", "refuses"),
    "embed": Result("embeddings", "embeddings"),
    "distances": Result("distances", "distances", "replaces"),
    "attention": Result("attention", "attention", "refuses"),
    "report": Result("page", "report.html", "replaces"),
}
"""Results by command. Another command replaces its own, and no later step takes it."""
TAKES = {
    "data": ("dataset",),
    "checkpoint": ("run", "pre-training"),
    "run": ("run", "pre-training"),
    "evaluation": ("scores",),
    "backbone": ("pre-training",),
    "maps": ("maps",),
    "embeddings": ("embeddings",),
    "scenes": ("scenes",),
}
"""Kinds of results that an option takes, by its name, which means the same in every command."""
INSTEAD: dict[str, dict[str, tuple[str, ...]]] = {
    "embed": {"data": ("scenes",)},
    "attention": {"data": ("tiles",)},
    "evaluate": {"checkpoint": ("maps", "heights"), "data": ("maps", "heights")},
}
"""Options that are given instead of one, by command."""
NEEDS = {"evaluate": {"maps": "heights"}}
"""Options with which alone one is taken: `evaluate` scores chips, or with heights maps."""
NO_STEPS = {"demo", "submit", "run", "view"}
"""Commands that are no steps: they run others, or wait for somebody."""


@dataclass(frozen=True)
class Made:
    """Something that an earlier step makes, or names."""

    kind: str
    place: str | tuple[str, ...]


def result_of(command: str) -> Result:
    """Return what a command leaves."""
    return RESULTS.get(command, Result("", "-".join(command.split()), "replaces"))


def kind_of(command: str, values: Mapping[str, object]) -> str:
    """Return the kind of a step's result: scores of chips, or of maps, which are no run's."""
    return "" if command == "evaluate" and values.get("maps") else result_of(command).kind


def taken(
    command: str, options: Iterable[str], given: Iterable[str], required: Iterable[str], earlier: list[Made]
) -> dict[str, str | tuple[str, ...]]:
    """Return values of options that take what earlier steps made.

    Args:
        command: the command.
        options: names of its options.
        given: names of those that have a value already.
        required: names of those without a default.
        earlier: what earlier steps make, in their order; the last of a kind counts.
    """
    if command.startswith("ingest ") and not result_of(command).is_in_place:
        return {}  # it starts from the user's own files
    given, options, required = set(given), set(options), set(required)
    found: dict[str, str | tuple[str, ...]] = {}
    for option in [name for name in TAKES if name in options and name not in given]:
        if option == "scenes" and option not in required:
            continue
        needed = NEEDS.get(command, {}).get(option, "")
        if given.intersection(INSTEAD.get(command, {}).get(option, ())) or (needed and needed not in given):
            continue
        if made := [one for one in earlier if one.kind in TAKES[option]]:
            found[option] = made[-1].place
    return found


def scenes_of(command: str, values: Mapping[str, object]) -> list[Made]:
    """Return the scenes that a step names, which later ones map."""
    images = values.get("images")
    return [Made("scenes", images)] if command == "ingest scenes" and isinstance(images, tuple) else []
