"""The part that an option plays: marks on the fields of the commands' configurations.

    data: Annotated[str, Place()]                              `submit` makes it absolute
    cache: Annotated[str, Place(), MayChange()]                a begun run may continue with another value
    bounds: Annotated[tuple, MayChange(adds=True)]             the same, and it says how much is made
    lora_rank: Annotated[int, OnlyWith(tune="lora")]           refused where it is given and has no effect
    val_where: Annotated[str, Before("")]                      its value in configurations stored without it
    batch_size: Annotated[int | None, Decided()] = None        kept as it was decided when the work began
    precision: Annotated[str, Replaces("half", "full", "half")]     was a yes or no before, still understood
    loss: Annotated[tuple[str, ...], Imports()]                a word may name code of the user's own
    epochs: Annotated[int, In.OPTIMISER, Usual()]              its group in --help, which shows it by default

Whoever needs all options of one kind asks the fields: `roles(TrainConfig, Place)`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from shards.addresses import GDAL
from shards.errors import InputError
from shards.nested import flat, options_of, replaced

SQLITE = "sqlite:///"
"""Start of a database's URL; a file's path follows."""
FIRST_VERSION = "0.1.0"
"""Version that every fingerprint names, because the first ones did: a later version continues their work."""
OWN_PARTS = "own_parts"
"""Name under which results record parts of the user's own, with their versions; see shards.own_parts."""
RECORDED = frozenset({"treeline", "version", "commit", "computed_in", OWN_PARTS})
"""Names of records that stand beside options and are never compared."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

Role = TypeVar("Role")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Place:
    """The option is a path or URL, or several."""

    or_name: bool = False
    """Whether it can also be a name on a hub; then it is a place only where that file or folder exists."""
    reserved: tuple[str, ...] = ()
    """Names that are no places even where a file or folder is called the same."""
    after_name: bool = False
    """Whether the option has the form NAME=PLACE."""
    fills: bool = False
    """Whether the command itself fills the place, to read from it later."""

    def absolute(self, value: Any) -> Any:
        """Make a place, or several, mean the same in any folder; URLs and names stay as they are."""
        if isinstance(value, tuple | list):
            return type(value)(self.absolute(one) for one in value)
        if not value:
            return value
        name, equals, place = value.partition("=") if self.after_name else ("", "", value)
        return value if place in self.reserved else name + equals + self._absolute(place)

    def _absolute(self, place: str) -> str:
        if place.startswith(SQLITE):
            return SQLITE + os.path.abspath(os.path.expanduser(place.removeprefix(SQLITE)))
        path = os.path.expanduser(place)
        is_elsewhere = "://" in place or place.startswith(GDAL)
        if not place or is_elsewhere or (self.or_name and not os.path.exists(path)):
            return place
        return os.path.abspath(path)


@dataclass(frozen=True)
class OptionsFile:
    """The option is a YAML or JSON file of another command's options, which can be places themselves."""

    options: type
    """The other command's configuration."""


@dataclass(frozen=True)
class MayChange:
    """The option may change on resume: what is finished does not depend on it."""

    adds: bool = False
    """Whether it says how much is made, so that finished work goes on where the option changes."""


@dataclass(frozen=True)
class Before:
    """The option is younger than some stored configurations; where they lack it, it had this value."""

    value: Any


@dataclass(frozen=True)
class Decided:
    """The option is decided when work begins, where the user leaves it out; resumed work keeps that value."""

    where: Any = None
    """Value that leaves it open, also where it is given; default: the option's default, where it is not."""


@dataclass(frozen=True)
class Replaces:
    """The option replaces an older one, a yes or no, that flags and stored configurations may still name."""

    older: str
    """Name of the older option."""
    no: Any
    """Value of this option that the older one's no means."""
    yes: Any
    """Value of this option that the older one's yes means."""


@dataclass(frozen=True)
class Imports:
    """The option, or each word of it, may name a part of the user's own by its import path."""

    def paths(self, value: Any) -> Iterable[str]:
        """Yield the import paths that the option's value names."""
        words = value if isinstance(value, tuple | list) else [value or ""]
        return filter(None, (own_path(part) for word in words for part in str(word).split()))


@dataclass(frozen=True)
class Group:
    """Group of the option in --help; on a part of options, the group of those that have no other."""

    title: str
    rank: int = 0
    """Place within the group: lower ranks first, options of one rank in the order of `options_of`."""

    def late(self, rank: int) -> "Group":
        """Return the group with another rank."""
        return Group(self.title, rank)


class In:
    """Groups, in the order in which --help shows them."""

    DATA = Group("Data")
    CHIPS = Group("Chips and labels")
    SPLIT = Group("Split")
    TASK = Group("Task")
    MODEL = Group("Model")
    PREDICTION = Group("Prediction")
    OPTIMISER = Group("Optimiser")
    AUGMENTATION = Group("Augmentation")
    SPEED = Group("Memory and speed")
    OUTPUT = Group("Output")
    VIEWS = Group("Views of a tile")
    DISTILLATION = Group("Self-distillation")
    MASKING = Group("Masking")
    PROBE = Group("Probe")
    OTHER = Group("Other options")
    """Group of an option without a mark."""


@dataclass(frozen=True)
class Usual:
    """The option is among the usual ones, which --help shows beside those that must be given.

    A command whose own class marks none shows all its options; only --help-all shows the others.
    """


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Tell whether `value` is one of them."""
        return value in self.values

    def lacking(self, flag: str, value: Any) -> str:
        """Say why an option does nothing without this condition, to follow "does nothing"."""
        return f"without {flag} {' or '.join(map(str, self.values))}; give that, or leave it out"


@dataclass(frozen=True)
class Some:
    """Any value but none, "" and 0."""

    def holds(self, value: Any) -> bool:
        """Tell whether there is a value."""
        return bool(value)

    def lacking(self, flag: str, value: Any) -> str:
        """See Choice."""
        return f"without {flag}; give that, or leave it out"


@dataclass(frozen=True)
class Another:
    """Any value but these."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Tell whether `value` is none of them."""
        return value not in self.values

    def lacking(self, flag: str, value: Any) -> str:
        """See Choice."""
        return f"with {flag} {value}; give another, or leave it out"


@dataclass(frozen=True)
class Ending:
    """A text with one of these endings, or with none of them."""

    endings: tuple[str, ...]
    wanted: bool = True

    def holds(self, value: Any) -> bool:
        """Tell whether the text ends as it should."""
        return str(value).endswith(self.endings) == self.wanted

    def lacking(self, flag: str, value: Any) -> str:
        """See Choice."""
        return f"with {value}; leave it out"


@dataclass(frozen=True)
class Nothing:
    """No value: none, "", 0 or an empty list."""

    but: tuple[Any, ...] = ()
    """Values of the option itself that have their effect in any case."""

    def holds(self, value: Any) -> bool:
        """Tell whether there is no value."""
        return not value

    def lacking(self, flag: str, value: Any) -> str:
        """See Choice."""
        return f"with {flag}; leave one of them out"


class OnlyWith:
    """The option has an effect only with these values of other options of the same command.

    A value stands for itself, a tuple for one of its values; a condition on an option that a command lacks
    holds.
    """

    def __init__(self, **conditions: Any) -> None:
        self.conditions: dict[str, Choice | Some | Another | Ending | Nothing] = {
            name: condition
            if isinstance(condition, Some | Another | Ending | Nothing)
            else Choice(condition if isinstance(condition, tuple) else (condition,))
            for name, condition in conditions.items()
        }


def roles(options: type, kind: type[Role]) -> dict[str, Role]:
    """Return the roles of this kind by the option's name."""
    return {
        name: mark
        for name, option in options_of(options).items()
        for mark in option.marks
        if isinstance(mark, kind)
    }


def own_path(word: str) -> str:
    """Return the import path that a word begins with, package.module.name; "" if there is none."""
    found = _IMPORT_PATH.match(word)
    return found[0] if found else ""


def flag_of(name: str) -> str:
    """Write the option as on the command line."""
    return f"--{name.replace('_', '-')}"


def why_idle(config: Any, name: str) -> str:
    """Explain in one line why this option of `config` has no effect; return "" if it has one."""
    role, values = roles(type(config), OnlyWith).get(name), flat(config)
    for other, condition in role.conditions.items() if role else ():
        if isinstance(condition, Nothing) and values[name] in condition.but:
            continue
        if other in values and not condition.holds(values[other]):
            return f"{flag_of(name)}: does nothing {condition.lacking(flag_of(other), values[other])}"
    return ""


def refuse_idle(config: Any, given: Set[str]) -> None:
    """Refuse options that the user gave and that have no effect.

    Raises:
        InputError: says which, and with what it would have one.
    """
    for name in options_of(type(config)):
        if name in given and (why := why_idle(config, name)):
            raise InputError(why)


def with_absolute_places(options: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same values of some options, with places that mean the same in any folder."""
    places = roles(options, Place)
    return {name: places[name].absolute(value) if name in places else value for name, value in values.items()}


def as_begun(config: Config, stored: Mapping[str, Any], given: Set[str] | None = None) -> Config:
    """Take over from the `stored` options what continuing their work needs and the user did not say.

    An option that was not given gets the value of then if `stored` lacks it (see Before), if that value was
    recorded when the work was last resumed, or if the option has no effect. So does one that was decided when
    the work began.

    Args:
        config: the options of now.
        stored: the options of then, as JSON has them.
        given: names of the options that the user gave; default: all that have another value than their
            default.
    """
    kind = type(config)
    options, before, stored = options_of(kind), roles(kind, Before), renewed(kind, stored)
    decided = roles(kind, Decided)
    changed = {}
    for name, value in flat(config).items():
        default = options[name].default
        if name in decided and decided[name].where is not None and value == decided[name].where:
            changed[name] = stored.get(name, value)
            continue
        if default is MISSING or (value != default if given is None else name in given):
            continue
        if name in stored and why_idle(config, name):
            then = stored[name]
            changed[name] = tuple(then) if isinstance(then, list) else then
        elif name in decided and decided[name].where is None and value == default:
            changed[name] = stored.get(name, value)
        elif name in before and stored:
            then = before[name].value
            if stored.get(name, then) == then:
                changed[name] = then
    return replaced(config, changed)


def differing(options: type, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """List the options that make `asked` different work from `stored`; both hold JSON values."""
    stored, asked = renewed(options, stored), renewed(options, asked)
    then = before_options(options) | stored
    ignored = roles(options, MayChange).keys() | RECORDED
    names = [*stored, *(name for name in asked if name not in stored)]
    return [name for name in names if name not in ignored and then.get(name) != asked.get(name)]


def identity(options: type, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint is computed from: all but options with the value of before they existed.

    What an older option could say is written as that option.
    """
    before, replaces = before_options(options), roles(options, Replaces)
    found = dict[str, Any]()
    for name, value in recorded.items():
        if name == "commit" or (name in before and before[name] == value):
            continue
        if name in replaces and value in (replaces[name].no, replaces[name].yes):
            found[replaces[name].older] = value == replaces[name].yes
        else:
            found[name] = FIRST_VERSION if name in ("treeline", "version") else value
    return found


def renewed(options: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored values with options in place of the older ones that they replace."""
    newer = {role.older: (name, role) for name, role in roles(options, Replaces).items()}
    found = dict[str, Any]()
    for name, value in stored.items():
        if name in newer:
            name, role = newer[name]
            value = role.yes if value else role.no
        found[name] = value
    return found


def before_options(options: type) -> dict[str, Any]:
    """Return the earlier values of younger options, as JSON has them."""
    return {
        name: list(role.value) if isinstance(role.value, tuple) else role.value
        for name, role in roles(options, Before).items()
    }
