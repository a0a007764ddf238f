"""Text that anybody may have written is shown without power over the terminal, and without secrets."""

import pytest

from shards.errors import one_line
from shards.foreign_text import CUT, LONGEST_LINE, line, visible, without_secrets

CONTROLS = [
    "\x1b[2J",
    "\x07",
    "\b",
    "\u202e",
    "\u2066",
    "\u200f",
    "\x9b31m",
    "\x7f",
    "\ud800",
    "\ufeff",
    "\0",
]


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_hidden_character_reaches_the_terminal(control: str) -> None:
    shown = visible(f"scene{control}.tif")
    assert shown.isprintable()
    assert shown.startswith("scene\\")
    assert shown == one_line(f"scene{control}.tif")


def test_a_line_break_in_a_name_makes_no_line_of_its_own() -> None:
    for end in ("\n", "\r", "\r\n", "\x0b", "\x85", "\u2028", "\u2029"):
        assert line(f"a{end}treeline: done") == "a treeline: done"
        assert visible(f"a{end}b").isprintable()


def test_names_of_every_script_stay_as_they_are() -> None:
    for name in ("Ähtäri 2 m.tif", "тайга", "ツンドラ", "ᓄᓇᕗᑦ", "NIR (0.8 \u00b5m)"):
        assert visible(name) == name


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = "where " + "x" * 1_700_000 + " cure"
    assert len(line(text)) == LONGEST_LINE
    assert line(text).startswith("where x")
    assert line(text).endswith("x cure")
    assert CUT in line(text)
    assert visible("y" * 200) == "y" * 200


SECRETS = [
    ("s3://user:pass@bucket/a.tif", "s3://bucket/a.tif"),
    ("http://token@host:80/x: no answer", "http://host:80/x: no answer"),
    ("https://h/x.tif?X-Amz-Signature=secret&b=2: 404", "https://h/x.tif: 404"),
    ("(https://h/?token=secret)", "(https://h/)"),
    ("first http://a:secret@h/ then 'https://b:secret@i/?k=secret'", "first http://h/ then 'https://i/'"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown == one_line(text)


def test_what_only_looks_like_a_secret_stays() -> None:
    for text in ("s3://bucket/a@b.tif", "s3://bucket/scene_?.tif", "a@b.tif?c=d", "class == 'x?y=z'"):
        assert without_secrets(text) == text
