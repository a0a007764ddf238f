"""Whether a step is skipped, run or made anew: decided from its record and from what is there now."""

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, replace
from typing import Any, Literal

from cluster.steps.chain import result_of
from cluster.steps.content import Content, difference, only_adds
from cluster.steps.places import places_to_read
from cluster.steps.records import Record
from cluster.steps.steps_file import Step
from shards.errors import InputError
from shards.nested import flat, options_of
from shards.roles import MayChange, OptionsFile, Place, differing, roles

Action = Literal["skip", "run", "make anew"]


@dataclass(frozen=True)
class Now:
    """What a decision about a step depends on, beside its record."""

    inputs: Mapping[str, Content]
    """What lies at the places that it reads, by option, as far as that is settled."""
    waits_for: tuple[str, ...] = ()
    """Earlier steps that are to be run, and whose results it reads."""
    follows: tuple[str, ...] = ()
    """Steps in `waits_for` that are to be made anew."""
    is_there: bool = True
    """Whether its result lies at its place, as it was left."""
    is_moved: bool = False
    """Whether its place is another one than that of the record."""
    is_asked: bool = False
    """Whether --redo names it."""
    may_replace: bool = False
    """Whether --redo names it or an earlier step."""


@dataclass(frozen=True)
class Decision:
    """What to do about a step, and why."""

    action: Action
    why: str
    inputs: Mapping[str, Content] = field(default_factory=dict, compare=False)
    """What lay at the places that the step reads, when it was decided."""


def options_to_compare(config: Any) -> dict[str, Any]:
    """Return the options on which a result depends, as JSON has them. Places are known by their content."""
    kind = type(config)
    places = roles(kind, Place).keys() | roles(kind, OptionsFile).keys()
    free = {name for name, role in roles(kind, MayChange).items() if not role.adds}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flat(config).items()
        if name not in places | free
    }


def decide(step: Step, record: Record | None, now: Now) -> Decision:
    """Decide what to do about a step.

    Raises:
        InputError: something costly would be replaced, and --redo does not say so.
    """
    decision = replace(_decide(step, record, now), inputs=now.inputs)
    result = result_of(step.command)
    is_allowed = now.may_replace or (record is not None and record.state == "being removed")
    if decision.action != "make anew" or not result.is_costly or is_allowed:
        return decision
    place, redo = flat(step.config)[result.option], now.follows[0] if now.follows else step.name
    raise InputError(
        f"{step.name}: {place} would be made anew, because {decision.why}; undo that, give this "
        f"step another out, or allow it with --redo {shlex.quote(redo)}"
    )


def _decide(step: Step, record: Record | None, now: Now) -> Decision:
    if record is None or record.command != step.command:
        return Decision("run", "not run yet")
    if now.is_moved:
        return Decision("run", f"not run yet with this {result_of(step.command).option}")
    if record.state == "being removed":
        return Decision("make anew", "it was about to be")
    if now.is_asked:
        return Decision("make anew", "--redo names it")
    others, more = _changed_options(step, record)
    changed = {
        name: difference(record.inputs.get(name, {}), content)
        for name, content in now.inputs.items()
        if record.inputs.get(name, {}) != content
    }
    grows = result_of(step.command).grows and all(
        only_adds(record.inputs.get(name, {}), now.inputs[name]) for name in changed
    )
    left_out = record.inputs.keys() - places_to_read(step.command, step.config).keys()
    said = [
        *others,
        *(f"{name} changed ({what})" for name, what in changed.items()),
        *(f"{name} is left out" for name in sorted(left_out)),
    ]
    if others or left_out or (changed and not grows):
        return Decision("make anew", ", ".join(said))
    if now.follows:
        return Decision("make anew", f"{now.follows[0]} is made anew")
    if record.state == "begun":
        return Decision("run", "it was stopped")
    if more or changed:
        return Decision("run", ", ".join([*more, *said]))
    if not now.is_there:
        return Decision("run", "its result is not there as it was left")
    if now.waits_for:
        return Decision("run", f"if {now.waits_for[0]} makes something else than before")
    return Decision("skip", "done with the same options")


def _changed_options(step: Step, record: Record) -> tuple[list[str], list[str]]:
    """List the options that make other work of a step, and those that add to it, with both values."""
    kind, asked = type(step.config), options_to_compare(step.config)
    # An option that is younger than the record had its default.
    defaults = {
        name: list(its.default) if isinstance(its.default, tuple) else its.default
        for name, its in options_of(kind).items()
        if name in asked and its.default is not MISSING
    }
    then = defaults | dict(record.options)
    others = differing(kind, then, asked)
    adds = [name for name, role in roles(kind, MayChange).items() if role.adds and name in asked]
    more = [name for name in adds if then.get(name) != asked[name]]

    def said(name: str) -> str:
        return f"{name} changed ({then.get(name)} there, {asked.get(name)} asked for)"

    return list(map(said, others)), list(map(said, more))
