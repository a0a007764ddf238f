"""`treeline run`: the steps of a file, each by the function that its command calls, in this process.

the file, all options checked          cluster.steps.steps_file.read_steps
-> what is there, what was done        cluster.steps.content, cluster.steps.records
-> skipped, run or made anew           cluster.steps.decision.decide
-> the commands, one after another     _run (here)

One run at a time works in a folder. A record is written before a step begins and after it has ended, so that
the same command goes on wherever it was stopped.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from cluster import cli
from cluster.config import StepsConfig
from cluster.last_lines import without_next
from cluster.options import nearest
from cluster.steps.chain import result_of
from cluster.steps.command_line import command_line
from cluster.steps.content import Content, content_of, content_of_files, content_of_places, digest, holds
from cluster.steps.decision import Action, Decision, Now, decide, options_to_compare
from cluster.steps.example import example
from cluster.steps.own_files import files_beside, own_files
from cluster.steps.places import absolute, is_within, places_of, places_to_read
from cluster.steps.records import RECORDS, Record, Records
from cluster.steps.steps_file import Step, StepsFile, read_steps
from inference.scenes.scene_list import find_scenes, raster_urls
from shards.errors import InputError
from shards.roles import Place, roles
from shards.said import say, tell
from shards.storage.inside import check_inside
from shards.storage.objects import (
    exists,
    join,
    name_of,
    remove_empty_folders,
    remove_file,
    version_of,
    versions_of,
)
from shards.storage.one_writer import one_writer

SAID: dict[Action, str] = {"skip": "skipped", "run": "runs", "make anew": "made anew"}


def run_steps(config: StepsConfig, given: Collection[str]) -> int:
    """Run the steps of a file; return the exit code of the one that failed, or 0.

    Args:
        config: what to run.
        given: names of the options that the user gave.

    Raises:
        InputError: the file or a step cannot be used. Nothing is begun if that is known beforehand.
    """
    if config.example:
        print(example(), end="")  # noqa: T201 - a file, to be redirected into one
        return 0
    if not config.file:
        raise InputError(
            "give a file of steps: treeline run STEPS.yaml; treeline run --example > steps.yaml makes one"
        )
    file = read_steps(config.file)
    names = [step.name for step in file.steps]
    if "redo" in given and not config.redo:
        raise InputError(f"--redo: name the steps to make anew; there are {', '.join(names)}")
    for name in config.redo:
        if name not in names:
            raise InputError(
                f"--redo {name}: {config.file} has no such step; {nearest(name, names)}"
                f"there are {', '.join(names)}"
            )
    if config.dry_run:
        run = Run(file, Records(file.out), config.redo)
        for step, decision in run.decisions():
            tell(f"# {step.name}: {_said(decision)}\n{command_line(step)}")
        return 0
    with one_writer(file.out, of=RECORDS):
        run = Run(file, Records(file.out), config.redo)
        list(run.decisions())  # refuses before anything is begun
        return run.run()


@dataclass(frozen=True)
class Run:
    """Steps, and what is known about them."""

    file: StepsFile
    records: Records
    redo: tuple[str, ...] = ()

    def decisions(self) -> Iterator[tuple[Step, Decision]]:
        """Yield each step with what is to be done about it, as far as that can be known before.

        Raises:
            InputError: something costly would be replaced without --redo, or a place is empty.
        """
        decided: dict[str, Decision] = {}
        for step in self.file.steps:
            decided[step.name] = self.decision(step, decided)
            yield step, decided[step.name]

    def run(self) -> int:
        """Run the steps; return the exit code of the first that fails, or 0."""
        count = len(self.file.steps)
        for number, step in enumerate(self.file.steps, 1):
            decision = self.decision(step, {})
            tell(f"--- step {number} of {count}, {step.name}: {_said(decision)}")
            if decision.action == "skip":
                continue
            try:
                with nullcontext() if number == count else without_next():
                    code = self._run(step, decision)
            except InputError as error:
                raise InputError(f"{step.name}: {error}; then go on with {self._again}") from error
            except BaseException as error:
                error.add_note(f"step {number} of {count}, {step.name}; go on with {self._again}")
                raise
            if code:
                say(f"{step.name} failed; go on with {self._again}")
                return code
        tell(f"{self.file.out}: all {count} steps are done")
        return 0

    def decision(self, step: Step, decided: dict[str, Decision]) -> Decision:
        """Decide about one step; `decided` is what is to be done about earlier ones, and is not done yet."""
        steps = self.file.steps[: self.file.steps.index(step)]
        record = self.records.get(step.name)
        names = {source.name for source in self._sources(step).values()}
        waits = [one for one, its in decided.items() if one in names and its.action != "skip"]
        follows = [name for name in waits if decided[name].action == "make anew"]
        inputs = self._inputs(step, waits)
        now = Now(
            inputs,
            waits_for=tuple(waits),
            follows=tuple(follows),
            is_there=record is None or self._is_there(step, record),
            is_moved=record is not None and self._is_moved(step, record),
            is_asked=step.name in self.redo,
            may_replace=not {step.name, *(one.name for one in steps)}.isdisjoint(self.redo),
        )
        return decide(step, record, now)

    def _inputs(self, step: Step, but: Collection[str] = ()) -> dict[str, Content]:
        """Tell what lies at the places that a step reads, by option, but for what the steps `but` make.

        Raises:
            InputError: nothing lies there.
        """
        inputs, sources, result = dict[str, Content](), self._sources(step), result_of(step.command)
        for option, value in places_to_read(step.command, step.config).items():
            if option not in sources:
                if not (result.is_in_place and option == result.option):  # it was changed by the step itself
                    inputs[option] = _outside(step, option, value)
            elif sources[option].name not in but and (source := self.records.get(sources[option].name)):
                inputs[option] = source.result
        return inputs

    def _sources(self, step: Step) -> dict[str, Step]:
        """Return the last earlier steps that make what this one reads, by option."""
        found: dict[str, Step] = {}
        earlier = self.file.steps[: self.file.steps.index(step)]
        for option, value in places_to_read(step.command, step.config).items():
            places = [absolute(place) for place in places_of(step.config, option, value)]
            for other in earlier:
                if other.place and any(f"{place}/".startswith(f"{other.place}/") for place in places):
                    found[option] = other
        return found

    def _is_there(self, step: Step, record: Record) -> bool:
        """Tell whether a step's result lies where it says, as it was left."""
        if not step.place or record.state != "done":
            return True
        later = [one for one in self.file.steps if one.place == step.place][-1]
        if later != step and self.records.get(later.name):
            return exists(step.place)  # a later step has changed it in place
        if record.described:
            return content_of(step.place) == record.described
        return holds(step.place, record.files)

    def _is_moved(self, step: Step, record: Record) -> bool:
        """Tell whether a step makes its result at another place than it did."""
        return not result_of(step.command).is_in_place and record.place != self._place(step)

    def _place(self, step: Step) -> str:
        """Return a step's place as it is recorded: the run's folder may be moved as a whole."""
        return step.place.removeprefix(f"{absolute(self.file.out)}/")

    def _run(self, step: Step, decision: Decision) -> int:
        """Run a step, with its record before and after; return its exit code."""
        before = self.records.get(step.name)
        result = result_of(step.command)
        is_new = before is None or before.command != step.command or self._is_moved(step, before)
        if before and not is_new and not result.is_in_place:
            own = result.again == "refuses" and before.state == "begun"
            if own or (decision.action == "make anew" and result.again != "replaces"):
                self._remove(step, before)
        goes_on = before and not is_new and decision.action == "run"
        record = self._begun(step, decision, before if goes_on else None)
        self.records.keep(step.name, record)
        try:
            code = _call(step)
        except InputError:
            made = set(versions_of(step.place)) - set(record.before) if _makes_files(step) else set()
            if is_new and not made:  # the command may have refused what it found there
                self.records.keep(step.name, None)
            raise
        if not code:
            self.records.keep(step.name, self._done(step, record))
        return code

    def _begun(self, step: Step, decision: Decision, before: Record | None) -> Record:
        """Describe a step that begins, or goes on, with the inputs that were seen when it was decided."""
        there = before.before if before else tuple(versions_of(step.place)) if _makes_files(step) else ()
        return Record(
            step.command,
            "begun",
            options_to_compare(step.config),
            decision.inputs,
            self._place(step),
            before=there,
        )

    def _done(self, step: Step, record: Record) -> Record:
        """Describe a step that has ended."""
        files: dict[str, str] = {}
        if _makes_files(step):
            there = versions_of(step.place)
            files = {name: there[name] for name in self._own(step, there, record)}
        content = content_of(step.place) if step.place else None
        described = content if isinstance(content, str) else ""
        beside = {name: version_of(url) for name, url in self._beside(step).items()}
        return replace(record, state="done", files=files, described=described, beside=beside)

    def _beside(self, step: Step) -> dict[str, str]:
        """Return the URLs of the files that a step's command writes beside its result, by name."""
        urls = files_beside(step.command, step.place) if step.place else []
        return {name_of(url): url for url in urls if exists(url)}

    def _own(self, step: Step, names: Iterable[str], record: Record) -> list[str]:
        """Choose the files that a step made: they were not there before, and belong to no other step."""
        result = result_of(step.command)
        if result.again == "goes on" or result.is_costly:  # it takes long; others put files there meanwhile
            names = own_files(step.command, names)
        others = [one.place for one in self.file.steps if one.place != step.place]
        return [
            name
            for name in names
            if name not in record.before
            and not any(is_within(join(step.place, name) if name else step.place, other) for other in others)
        ]

    def _remove(self, step: Step, record: Record) -> None:
        """Remove what a step made, and nothing else that lies there.

        Raises:
            InputError: other files lie there, and the command refuses that. Nothing is removed then.
        """
        result, there = result_of(step.command), versions_of(step.place)
        if record.state == "begun" or result.is_costly:  # later steps may have changed a dataset's files
            names = self._own(step, own_files(step.command, there), record)
        else:
            names = self._own(step, record.files, record)
        foreign = sorted(there.keys() - set(names))
        if result.is_alone and foreign:  # the command would advise to delete it
            raise InputError(
                f"{step.place} holds {foreign[0]}, which this step did not make; move that elsewhere"
            )
        record = replace(record, files={name: record.files.get(name, "") for name in names})
        self.records.keep(step.name, replace(record, state="being removed"))
        check_inside(step.place, *filter(None, record.files))
        for name in record.files:
            remove_file(join(step.place, name) if name else step.place)
        for name, url in self._beside(step).items():
            if version_of(url) == record.beside.get(name):  # nobody has written it since
                remove_file(url)
        remove_empty_folders(step.place)

    @property
    def _again(self) -> str:
        """Command that goes on."""
        return shlex.join(["treeline", "run", self.file.url])


def _said(decision: Decision) -> str:
    return f"{SAID[decision.action]} ({decision.why})"


def _scenes(config: Any, places: tuple[str, ...]) -> Content:
    """Tell what scenes there are: not the maps that lie among them."""
    return content_of_files(find_scenes(places, config.asset).urls)


def _rasters(config: Any, places: tuple[str, ...]) -> Content:
    return content_of_files(raster_urls(places))


RASTERS: dict[str, Callable[[Any, tuple[str, ...]], Content]] = {
    "scenes": _scenes,
    "maps": _rasters,
    "tiles": _rasters,
}
"""Options whose places may be folders of rasters, or lists that name them."""


def _makes_files(step: Step) -> bool:
    """Tell whether a step leaves files of its own at its place."""
    return bool(step.place) and not result_of(step.command).is_in_place


def _outside(step: Step, option: str, value: Any) -> Content:
    """Tell what lies at places that no earlier step makes.

    Raises:
        InputError: nothing does.
    """
    role = roles(type(step.config), Place).get(option, Place())
    given = places_of(step.config, option, value)
    names = [place for place in given if place in role.reserved or (role.or_name and not exists(place))]
    places = tuple(place for place in given if place not in names)
    try:
        content = RASTERS[option](step.config, places) if option in RASTERS else content_of_places(places)
    except InputError as error:
        raise InputError(f"{step.name}: {option}: {error}") from error
    return f"{' '.join(names)} {digest(content) if places else ''}".rstrip() if names else content


def _call(step: Step) -> int:
    """Call the function of a step's command as the command does."""
    return cli.call(step.command, step.config, step.named.keys())
