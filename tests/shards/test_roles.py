"""Roles of options: what is stored without an option, and what is continued, mean what they meant before."""

from dataclasses import dataclass, replace
from typing import Annotated

import pytest

from shards.errors import InputError
from shards.roles import (
    Before,
    Decided,
    MayChange,
    Nothing,
    OnlyWith,
    Replaces,
    as_begun,
    differing,
    identity,
    refuse_idle,
    renewed,
    roles,
    why_idle,
)

STORED = {"version": "0.1.0", "seed": 3, "size": 4, "workers": 2}
"""Written before --cut and --edges existed."""


@dataclass(frozen=True)
class Options:
    """Some options."""

    seed: int = 0
    by: str = "size"
    size: Annotated[int, OnlyWith(by="size")] = 5
    workers: Annotated[int, MayChange()] = 0
    cut: Annotated[int, Before(0)] = 64
    edges: Annotated[tuple[float, ...], Before(())] = (1.0, 2.0)


def asked(config: Options) -> dict[str, object]:
    return {
        "version": "9.9.9",
        **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()},
    }


def test_what_was_stored_without_an_option_is_continued_with_the_value_of_before() -> None:
    stored = {**STORED, "by": "size"}
    config = as_begun(Options(seed=3, size=4), stored)
    assert (config.cut, config.edges) == (0, ())
    assert differing(Options, stored, asked(config)) == []
    assert identity(Options, asked(config)) == {**stored, "workers": 0}


def test_an_option_that_is_given_is_compared_with_the_value_of_before() -> None:
    stored = {**STORED, "by": "size"}
    config = as_begun(Options(seed=3, size=4, cut=32), stored)
    assert differing(Options, stored, asked(config)) == ["cut"]
    assert as_begun(replace(config, cut=0), stored).cut == 0


def test_what_was_stored_with_an_option_keeps_it() -> None:
    stored = {**STORED, "by": "size", "cut": 64, "edges": [1.0, 2.0]}
    config = as_begun(Options(seed=3, size=4), stored)
    assert (config.cut, config.edges) == (64, (1.0, 2.0))
    assert differing(Options, stored, asked(config)) == []
    assert differing(Options, stored, asked(Options(seed=1, size=4, workers=7))) == ["seed"]


def test_what_was_decided_when_the_work_began_is_kept_unless_another_value_is_given() -> None:
    @dataclass(frozen=True)
    class WithDecided:
        size: Annotated[int | None, Decided()] = None

    assert as_begun(WithDecided(), {"size": 256}).size == 256
    assert as_begun(WithDecided(), {}).size is None
    assert as_begun(WithDecided(16), {"size": 256}).size == 16
    assert as_begun(WithDecided(16), {"size": 256}, given=set()).size == 16, "a recipe's, say"


def test_an_option_without_effect_is_taken_over_and_refused_where_it_is_given() -> None:
    stored = {**STORED, "by": "number", "size": 9}
    config = as_begun(Options(seed=3, by="number"), stored)
    assert config.size == 9
    assert why_idle(config, "size").startswith("--size: does nothing without --by size")
    refuse_idle(config, {"seed", "by"})
    with pytest.raises(InputError, match="--size"):
        refuse_idle(config, {"size"})


def test_roles_are_inherited() -> None:
    @dataclass(frozen=True)
    class More(Options):
        name: str = ""

    assert roles(More, Before) == {"cut": Before(0), "edges": Before(())}


@dataclass(frozen=True)
class Classes:
    """Options of which some are for quantities alone."""

    names: tuple[str, ...] = ()
    lowest: Annotated[float, OnlyWith(names=Nothing())] = 0.0
    method: Annotated[str, OnlyWith(names=Nothing(but=("nearest",)))] = "average"


def test_an_option_may_need_another_one_to_be_left_out() -> None:
    assert not why_idle(Classes(lowest=2.0, method="max"), "lowest")
    refuse_idle(Classes(method="max"), {"method"})
    classes = Classes(names=("1=trees",), method="nearest")
    refuse_idle(classes, {"names", "method"})
    with pytest.raises(InputError, match="--lowest: does nothing with --names; leave one of them out"):
        refuse_idle(classes, {"lowest"})
    with pytest.raises(InputError, match="--method: does nothing with --names"):
        refuse_idle(replace(classes, method="average"), {"method"})


@dataclass(frozen=True)
class Renewed:
    """Options of which one replaces a yes or no."""

    seed: int = 0
    colour: Annotated[str, Replaces("red", no="grey", yes="red")] = "grey"


@pytest.mark.parametrize(("older", "newer"), [(False, "grey"), (True, "red")])
def test_a_stored_yes_or_no_is_read_as_the_option_that_replaces_it(older: bool, newer: str) -> None:
    stored = {"seed": 3, "red": older, "last": 1}
    config = Renewed(seed=3, colour=newer)
    assert list(renewed(Renewed, stored).items()) == [("seed", 3), ("colour", newer), ("last", 1)]
    assert differing(Renewed, {"seed": 3, "red": older}, vars(config)) == []
    assert differing(Renewed, {"seed": 3, "red": older}, vars(replace(config, colour="blue"))) == ["colour"]
    assert as_begun(Renewed(seed=3), {"seed": 3, "red": older}) == Renewed(seed=3)


def test_a_fingerprint_keeps_the_older_option_for_what_it_could_say() -> None:
    asked = {"version": "9.9.9", "colour": "red", "seed": 3}
    assert list(identity(Renewed, asked).items()) == [("version", "0.1.0"), ("red", True), ("seed", 3)]
    assert identity(Renewed, asked | {"colour": "grey"})["red"] is False
    assert identity(Renewed, asked | {"colour": "blue"})["colour"] == "blue"
