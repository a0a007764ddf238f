"""The file of steps: read as a whole, each step's options parsed as its command parses a file of options.

out: landscape                   # folder of the run; default: beside the file, and named as it is
steps:
  ingest scenes:                 # a command, with its options
    images: ["scenes/*.tif"]
  evaluate maps:                 # a name of its own, where a command occurs twice
    command: evaluate
    heights: ["lidar/*.tif"]
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from cluster import cli
from cluster.options import FILE, as_options, nearest, of_values, read_options, shown
from cluster.steps.chain import NO_STEPS, Made, Result, kind_of, result_of, scenes_of, taken
from cluster.steps.places import absolute, input_within, is_within
from cluster.steps.records import RECORDS
from shards.errors import InputError
from shards.nested import flat, options_of
from shards.roles import with_absolute_places
from shards.storage.objects import join, name_of, stem_of
from shards.storage.yaml_file import read_yaml

COMMAND = "command"
"""Entry of a step that names its command, where the step's own name does not."""
_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True)
class Step:
    """A command with its options."""

    name: str
    command: str
    config: Any
    """All options, as an instance of the command's configuration."""
    named: Mapping[str, Any]
    """Options that the file names, and those that the run adds; they make `config` again."""

    @property
    def place(self) -> str:
        """Absolute place of what the step makes; "" if it leaves nothing."""
        return absolute(str(flat(self.config).get(result_of(self.command).option) or ""))


@dataclass(frozen=True)
class StepsFile:
    """The steps of a file, in their order."""

    url: str
    out: str
    """Folder of the run."""
    steps: tuple[Step, ...]

    def resolved(self) -> dict[str, Any]:
        """Return the same steps as plain values, which mean the same in any folder."""
        steps = {}
        for step in self.steps:
            named = with_absolute_places(type(step.config), step.named)
            plain = {
                name: list(value) if isinstance(value, tuple) else value for name, value in named.items()
            }
            steps[step.name] = {COMMAND: step.command, **plain}
        return {"out": absolute(self.out), "steps": steps}


def read_steps(url: str) -> StepsFile:
    """Read the steps at `url`, and check all of them.

    Raises:
        InputError: the file, a step or an option is invalid.
    """
    values = _mapping(read_yaml(url), url)
    for name in values:
        if name not in ("out", "steps"):
            raise InputError(f"{url}: no entry is called {name!r}; there are out and steps")
    steps = _mapping(values.get("steps"), f"{url}: steps")
    if not steps:
        raise InputError(f"{url}: steps: is empty; treeline run --example shows some")
    out = values.get("out") or _beside(url)
    if not isinstance(out, str):
        raise InputError(f"{url}: out is {shown(out)}, not a folder")
    found, made = list[Step](), list[Made]()
    for name, options in steps.items():
        step = _step(
            url, str(name), {} if options is None else _mapping(options, f"{url}: {name}"), out, made
        )
        others = [one.name for one in found if step.place and one.place == step.place]
        if others and not result_of(step.command).is_in_place:
            raise InputError(
                f"{url}: {step.name} and {others[0]} both write {step.place}; give one another out"
            )
        _refuse_mixed(url, out, [*found, step])
        found.append(step)
        chosen = flat(step.config)
        if place := chosen.get(result_of(step.command).option):
            result = result_of(step.command)
            kind = kind_of(step.command, chosen)
            made.append(Made(kind, join(place, result.files) if result.files else place))
        made += scenes_of(step.command, chosen)
    return StepsFile(url, out, tuple(found))


def _is_open(result: Result) -> bool:
    """Tell whether files of others may lie below a result: none of them is removed, whatever it is called."""
    return result.is_open or result.again == "replaces"


def _refuse_mixed(url: str, out: str, steps: Sequence[Step]) -> None:
    """Refuse the last step if its files and those of another, or its own input, would lie in one folder.

    Raises:
        InputError: they would.
    """
    *others, step = steps
    result = result_of(step.command)
    if not step.place or result.is_in_place:
        return
    if is_within(step.place, absolute(join(out, RECORDS))):
        raise InputError(
            f"{url}: {step.name}: {RECORDS} is the record of the run; choose another name or out"
        )
    inside = "" if _is_open(result) else input_within(step.command, step.config, step.place)
    if inside:
        raise InputError(
            f"{url}: {step.name}: its input {inside} lies in its out {step.place}; give another out"
        )
    for other in others:
        for outer, inner in ((other, step), (step, other)):
            kind = result_of(outer.command)
            if _is_open(kind) or kind.is_in_place or outer.place == inner.place:
                continue
            if is_within(inner.place, outer.place):
                raise InputError(
                    f"{url}: {inner.name} writes {inner.place} into {outer.place} of {outer.name}; give one "
                    "another out"
                )


def _step(url: str, name: str, options: dict[str, Any], out: str, made: list[Made]) -> Step:
    """Read one step.

    Raises:
        InputError: the step or an option is invalid.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{url}: {name!r} is no name of a step; use letters, digits, spaces, - and _")
    for entry in (COMMAND, FILE):
        if not isinstance(options.get(entry, ""), str):
            raise InputError(f"{url}: {name}: {entry} is {shown(options[entry])}, not a text")
    command = options.get(COMMAND, name)
    commands = [one for one in cli.COMMANDS if one not in NO_STEPS]
    if command not in commands:
        said = nearest(command, commands) or f"choose {', '.join(commands)}; "
        raise InputError(
            f"{url}: no step is called {command!r}; {said}a step with a name of its own says `command: ...`"
        )
    kind, where = cli.options_of(command), f"{url}: {name}"
    given = as_options(
        {key: value for key, value in options.items() if key not in (COMMAND, FILE)},
        kind,
        where,
        f"treeline {command}",
    )
    if FILE in options:
        given = read_options(options[FILE], kind, f"treeline {command}") | given
    known, result = options_of(kind), result_of(command)
    required = [option for option, its in known.items() if its.default is MISSING]
    added: dict[str, Any] = {}
    for option, place in taken(command, known, given, required, made).items():
        is_list = isinstance(place, str) and known[option].kind == tuple[str, ...]
        added[option] = (place,) if is_list else place
    if result.option == "out" and "out" in known and "out" not in given:
        added["out"] = join(out, _name_of_result(name, command))
    if "resume" in known and "resume" not in given:
        added["resume"] = "auto"
    config, named = of_values(kind, given | added, where)
    return Step(name, command, config, named)


def _name_of_result(name: str, command: str) -> str:
    """Name the result of a step: by its command, or by its own name where it has one."""
    result = result_of(command).name
    if name == command:
        return result
    ending = f".{result.rpartition('.')[2]}" if "." in result else ""
    return "-".join(name.split()) + ending


def _beside(url: str) -> str:
    """Return the folder beside the file that has its name without the ending."""
    folder = url.rpartition("/")[0]
    name = stem_of(url) if stem_of(url) != name_of(url) else f"{name_of(url)}-out"
    return join(folder, name) if folder or url.startswith("/") else name


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(f"{where}: has no entries (name: ...); treeline run --example shows some")
    return values
