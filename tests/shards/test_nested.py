"""Options in parts have flat names, one order, and roles that reach across parts."""

from dataclasses import MISSING, dataclass, field
from typing import Annotated

import pytest

from shards.errors import InputError
from shards.nested import Follows, built, flat, options_of, replaced
from shards.roles import Before, MayChange, OnlyWith, Place, as_begun, differing, refuse_idle, roles


@dataclass(frozen=True)
class Cache:
    """A part of a part."""

    folder: Annotated[str, Place(), MayChange()] = ""
    gigabytes: Annotated[float, OnlyWith(kind="stored")] = 1.5


@dataclass(frozen=True)
class Reading:
    """A part."""

    order: Annotated[str, Before("stored")] = "shuffled"
    cache: Cache = field(default_factory=Cache)
    seed: Annotated[int, Follows("data")] = 0
    threads: int = 4


@dataclass(frozen=True)
class Model:
    """A part."""

    width: Annotated[int, OnlyWith(order="shuffled")] = 8
    kind: str = "tiny"


@dataclass(frozen=True)
class Config:
    """Options of some command."""

    data: Annotated[str, Place()]
    reading: Reading = field(default_factory=Reading)
    model: Annotated[Model, Follows("order")] = field(default_factory=Model)


NAMES = ["data", "seed", "order", "width", "kind", "folder", "gigabytes", "threads"]


def test_options_have_flat_names_and_those_that_follow_others_stand_behind_them() -> None:
    assert list(options_of(Config)) == NAMES
    assert options_of(Config)["folder"].path == ("reading", "cache", "folder")
    assert options_of(Config)["gigabytes"].default == 1.5
    assert options_of(Config)["data"].default is MISSING
    assert list(options_of(Reading)) == ["order", "folder", "gigabytes", "seed", "threads"]


def test_flat_and_built_undo_each_other() -> None:
    config = Config("d", Reading("stored", Cache("c", 2.0), 3), Model(kind="large"))
    values = dict(zip(NAMES, ["d", 3, "stored", 8, "large", "c", 2.0, 4], strict=True))
    assert list(flat(config).items()) == list(values.items())
    assert built(Config, values) == config
    assert built(Config, {"data": "d"}) == Config("d")


def test_replaced_changes_what_it_names_in_whatever_part_it_stands() -> None:
    changed = replaced(Config("d"), {"folder": "c", "data": "e", "kind": "large"})
    assert changed == Config("e", Reading(cache=Cache("c")), Model(kind="large"))


@pytest.mark.parametrize("values", [{"data": "d", "widht": 9}, {"width": 9}, {"data": "d", "model": Model()}])
def test_an_unknown_option_and_a_missing_one_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"has no option (widht|model)|missing 1 .*'data'"):
        built(Config, values)


def test_two_options_of_one_name_are_refused() -> None:
    @dataclass(frozen=True)
    class Twice:
        width: int
        model: Model

    with pytest.raises(TypeError, match="Twice: two options have the same name"):
        options_of(Twice)


def test_roles_reach_across_parts() -> None:
    assert set(roles(Config, Place)) == {"data", "folder"}
    refuse_idle(Config("d"), {"width"})
    with pytest.raises(InputError, match="--width: does nothing without --order shuffled"):
        refuse_idle(Config("d", Reading("stored")), {"width"})
    with pytest.raises(InputError, match="--gigabytes: does nothing without --kind stored"):
        refuse_idle(Config("d"), {"gigabytes"})


def test_work_that_began_is_continued_across_parts() -> None:
    stored = {"data": "d", "kind": "tiny", "gigabytes": 9.0, "folder": "", "seed": 1}
    config = as_begun(Config("d"), stored)
    assert config == Config("d", Reading("stored", Cache(gigabytes=9.0)))
    asked = flat(replaced(config, {"folder": "elsewhere"}))
    assert differing(Config, {**asked, "folder": "", "seed": 1}, asked) == ["seed"]
