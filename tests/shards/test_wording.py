"""Messages name options as the caller writes them: --nodata 0 for a command, nodata=0 in Python."""

import pickle

import numpy as np
import pytest

from shards.errors import InputError
from shards.wording import OnlyInCommands, Option, Words, in_python


@pytest.mark.parametrize(
    ("option", "command", "argument"),
    [
        (Option("ground"), "--ground", "ground"),
        (Option("nodata", 0), "--nodata 0", "nodata=0"),
        (Option("nodata", 123_456_789), "--nodata 123456789", "nodata=123456789"),
        (Option("nodata", np.float32(-3.4e38).item()), "--nodata -3.4e+38", "nodata=-3.4e+38"),
        (Option("on_mismatch", "note"), "--on-mismatch note", 'on_mismatch="note"'),
        (Option("bands", ("red", "nir")), "--bands red nir", 'bands=["red", "nir"]'),
    ],
    ids=str,
)
def test_an_option_is_written_as_its_caller_does(option: Option, command: str, argument: str) -> None:
    cure = Words("if so, give ", option, OnlyInCommands(" and another --out"))
    assert cure == f"if so, give {command} and another --out"
    assert in_python(cure) == f"if so, give {argument}"
    assert in_python(Words("x: ", cure, ", or ", option)) == f"x: if so, give {argument}, or {argument}"


def test_words_are_text_wherever_text_is_wanted() -> None:
    """In dictionaries, in errors, and on another machine."""
    words = Words("give ", Option("nodata", 0))
    assert {words: 1}["give --nodata 0"] == 1
    assert str(InputError(words)) == "give --nodata 0"
    assert in_python(pickle.loads(pickle.dumps(words))) == "give nodata=0"
    assert in_python(pickle.loads(pickle.dumps(InputError(words))).line) == "give nodata=0"
    assert in_python("rio edit-info --nodata 0 FILE") == "rio edit-info --nodata 0 FILE"
