"""A run whose own files are damaged is not resumed: one line names the file and says what to do, code 2."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import treeline
from regressors import write_dataset

from shards.errors import InputError
from trainer.run_folder.last_state import last_state

ARGUMENTS = {
    "train": ("train", "--recipe", "tiny", "--decoder-widths", "8", "8", "8", "8", "--batch-size", "4"),
    "pretrain": ("pretrain", "--recipe", "mae-tiny", "--width", "24", "--depth", "1", "--batch-size", "4"),
}


@pytest.fixture(params=ARGUMENTS)
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """A run of one epoch that has ended, and how it goes on."""
    write_dataset(tmp_path / "chips", 6)
    places = "--data", str(tmp_path / "chips"), "--out", str(tmp_path / "run")
    begun = (*ARGUMENTS[request.param], *places, "--epochs", "1")
    assert treeline(*begun).returncode == 0
    return (*begun, "--resume", "auto")


def refused(arguments: tuple[str, ...], beginning: str, end: str) -> None:
    done = treeline(*arguments)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"treeline: {beginning}: "), done.stderr
    assert last.endswith(end)
    assert done.returncode == 2


def test_damaged_options_and_states_are_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    for name, texts, cure in (
        (
            "config.yaml",
            ("", "{}", "[1]", "seven", "a: [", "1: 2", "\udcff"),
            "copy it again, or choose another --out",
        ),
        ("state.json", ("", "{}", "[]", "null", '{"a', "[" * 100_000, "\udcff"), "delete it to start over"),
    ):
        file = tmp_path / "run" / name
        whole = file.read_bytes()
        for text in texts:
            file.write_text(text, errors="surrogateescape")
            refused(arguments, str(file), cure)
        file.write_bytes(whole)
    assert treeline(*arguments).returncode == 0


def test_every_value_of_a_state_is_asked_for(arguments: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "run" / "state.json"
    values: dict[str, Any] = json.loads(file.read_text())
    for name in values.keys() - {"epochs_from"}:  # older states lack it
        file.write_text(json.dumps({other: value for other, value in values.items() if other != name}))
        refused(arguments, str(file), "delete it to start over")
    file.write_text(json.dumps({**values, "position": {**values["position"], "steps": 1}}))
    refused(arguments, str(file), "delete it to start over")


def test_a_part_of_a_state_that_is_none_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (part,) = (tmp_path / "run" / "state").rglob("*.safetensors")
    for data in (b"\0" * 7 + b"\x80", (2).to_bytes(8, "little") + b"[]", b"\xff" * 100, b"", b"abc"):
        part.write_bytes(data)
        refused(arguments, str(part), "to start over")


def test_a_state_that_cannot_be_read_hides_no_other_error(tmp_path: Path) -> None:
    """naming_last_state expects an InputError alone."""
    (tmp_path / "state.json").write_text('{"format": "treeline-training-state", "version": 3, "parts": []}')
    with pytest.raises(InputError, match=r"state\.json: .*position is missing"):
        last_state(str(tmp_path))
