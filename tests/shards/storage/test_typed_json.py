"""JSON of ours is read into dataclasses, and each wrong value is named in one line."""

import json
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from shards.errors import InputError
from shards.storage.json_marks import HEXADECIMAL, AtLeast, Between, Checked, NotFinite
from shards.storage.json_text import DEPTH, parsed
from shards.storage.limits import JSON_BYTES, JSON_VALUES
from shards.storage.typed_json import read_typed, typed


def no_dots(name: str) -> None:
    if ".." in name:
        raise InputError("leads out")


@dataclass(frozen=True)
class Part:
    name: Annotated[str, Checked(no_dots)]
    nbytes: Annotated[int, AtLeast(0)]
    xxh3: Annotated[str, HEXADECIMAL] = "0" * 16


@dataclass(frozen=True)
class Whole:
    version: Literal[1, 2]
    parts: tuple[Part, ...]
    share: Annotated[float, Between(0, 1)] = 0.5
    limit: float | None = None
    loss: Annotated[float, NotFinite()] = 0.0
    place: tuple[int, str] | None = None
    files: dict[str, Part] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    done: bool = False


SOUND: dict[str, Any] = {"version": 1, "parts": [{"name": "a", "nbytes": 3}, {"name": "b", "nbytes": 4}]}


def test_sound_values_become_dataclasses() -> None:
    values = SOUND | {"share": 1, "limit": None, "place": [1, "x"], "files": {"a": SOUND["parts"][0]}}
    made = typed(values, Whole, "w.json")
    assert made.parts == (Part("a", 3), Part("b", 4))
    assert made.place == (1, "x")
    assert made.files == {"a": Part("a", 3)}
    assert type(made.share) is int  # a number stays as it was written


WRONG = [
    ({"version": 3}, "version is 3, not one of 1, 2"),
    ({"version": True}, "version is true, not one of 1, 2"),
    ({"parts": None}, "parts is null, not a list"),
    ({"parts": [SOUND["parts"][0], {"name": "b"}]}, "parts[1].nbytes is missing"),
    ({"parts": [{"name": 1, "nbytes": 3}]}, "parts[0].name is 1, not a text"),
    ({"parts": [{"name": "../a", "nbytes": 3}]}, "parts[0].name is '../a': leads out"),
    ({"parts": [{"name": "a", "nbytes": -1}]}, "parts[0].nbytes is -1, not a whole number of at least 0"),
    ({"parts": [{"name": "a", "nbytes": 1.0}]}, "parts[0].nbytes is 1.0, not a whole number"),
    ({"parts": [{"name": "a", "nbytes": True}]}, "parts[0].nbytes is true, not a whole number"),
    ({"parts": [{"name": "a", "nbytes": 2**64}]}, f"parts[0].nbytes is {2**64}, not a whole number of 64"),
    ({"parts": [{"name": "a", "nbytes": 1, "xxh3": "x"}]}, "parts[0].xxh3 is 'x', not a text of sixteen"),
    ({"parts": [{"name": "a", "nbytes": 1, "xxh4": "x"}]}, "parts[0].xxh4 is unknown here"),
    ({"a\x1b\n" + "x" * 999: 1}, r"'a\x1b\nxxx"),
    ({"share": 1.5}, "share is 1.5, not a number from 0 to 1"),
    ({"share": "x" * 10**6}, "share is 'xxx"),
    ({"limit": float("nan")}, "limit is nan, not a number or null"),
    ({"place": [1, 2]}, "place[1] is 2, not a text"),
    ({"place": [1]}, "place is [1], not a list of 2 or null"),
    ({"files": [1]}, "files is [1], not an object"),
    ({"files": {"a\u202e": {"name": "a", "nbytes": "1"}}}, r"files['a\u202e'].nbytes is '1', not a whole"),
    ({"files": {"a": {"name": "\ud800", "nbytes": 1}}}, r"files['a'].name is '\ud800', not a text of whole"),
    ({"notes": {"a": [float("inf")]}}, "notes['a'] is [inf], not made of finite numbers alone"),
    ({"done": 0}, "done is 0, not true or false"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_wrong_value_is_named_in_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        typed(SOUND | wrong, Whole, "w.json")
    line = str(caught.value)
    assert said in line
    assert line.startswith("w.json: ")
    assert line.endswith("; copy it again")
    assert line.isprintable()
    assert len(line) < 300


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InputError, match=r"^w.json: it is \[\], not an object; copy it again$"):
        typed([], Whole, "w.json")


def test_numbers_without_a_value_are_read_where_a_field_allows_them() -> None:
    text = json.dumps(SOUND | {"loss": float("nan")}).encode()
    assert typed(parsed(text, "w.json"), Whole, "w.json").loss != 0


def test_unknown_names_are_passed_over_where_it_is_allowed() -> None:
    later = SOUND | {"colour": {"must_understand": False, "red": 1}}
    assert typed(later, Whole, "w.json") == typed(SOUND, Whole, "w.json")
    assert typed(SOUND | {"colour": 1}, Whole, "w.json", strict=False) == typed(SOUND, Whole, "w.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a JSON file"),
        (b"\xff", "no UTF-8 at byte 0"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b"[" * 100_000, "not a JSON file"),
        (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), "inside each other"),
        (b"9" * 5000, "not a JSON file"),
        (b" " * (JSON_BYTES.default + 1), "TREELINE_MAX_JSON_BYTES"),
        (b"[" + b"0," * JSON_VALUES.default + b"0]", "TREELINE_MAX_JSON_VALUES"),
    ],
    ids=["empty", "bytes", "twice", "open", "deep", "digits", "long", "many"],
)
def test_a_text_beyond_a_limit_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(InputError, match=r"^w\.json: ") as caught:
        parsed(text, "w.json")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_limit_is_raised_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"[" + b"0," * JSON_VALUES.default + b"0]"
    monkeypatch.setenv(JSON_VALUES.variable, str(2 * JSON_VALUES.default))
    assert len(parsed(text, "w.json")) == JSON_VALUES.default + 1
    monkeypatch.setenv(JSON_VALUES.variable, "many")
    with pytest.raises(InputError, match="TREELINE_MAX_JSON_VALUES is 'many'"):
        parsed(text, "w.json")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name, said in (("pipe.json", "not a regular file"), ("folder.json", "Is a directory")):
        with pytest.raises(InputError, match=said):
            read_typed(str(tmp_path / name), Whole)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Any) -> None:
    with open(tmp_path / "w.json", "wb") as file:
        file.truncate(1 << 40)  # no memory holds it
    with pytest.raises(InputError, match="TREELINE_MAX_JSON_BYTES"):
        read_typed(str(tmp_path / "w.json"), Whole)
