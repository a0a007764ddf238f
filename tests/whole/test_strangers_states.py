"""A training state, or a cell of a matrix, that rots: any damage to a file of it is refused by its name.

- One bit, anywhere in state.json or in a part; a part cut, longer, with bytes inserted, or of another state.
- A rank that needs a few rows of a part compares all of what it needs.
- States of before are read, with a line.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from shards.errors import InputError
from trainer.devices.sharding import Rows
from trainer.matrix.cell_file import PREDICTORS, CellResult, read_cell
from trainer.run_folder.state_parts import STATE, SUMS, StateWriter, StoredState, TrainingState

FLIPS = 40


def write(out: Path, name: str = "step-1", seed: int = 0, part_bytes: int = 3000) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (50, 20), "moment": (30, 7), "scalar": ()}
    tensors = {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
    rows = {key: Rows(one, 0, tuple(one.shape)) for key, one in tensors.items()}
    state = TrainingState(name, rows, {"position": {"step": 1}, "records": [1e-7]})
    StateWriter(str(out), part_bytes=part_bytes).write(state)


def read_all(out: Path) -> dict[str, torch.Tensor]:
    with StoredState(str(out)) as state:
        return {name: state.rows(name) for name in state.shapes}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write(tmp_path / "run")
    return tmp_path / "run"


def refused(out: Path, file: str) -> None:
    with pytest.raises(InputError) as error:
        read_all(out)
    said = str(error.value)
    assert str(out / file) in said
    assert "delete " in said
    assert "\n" not in said


def parts_of(out: Path) -> list[str]:
    parts: list[str] = json.loads((out / STATE).read_text())["parts"]
    return parts


def test_any_flipped_bit_is_refused_by_the_files_name(out: Path) -> None:
    parts = parts_of(out)
    assert len(parts) >= 2
    generator = np.random.default_rng(4)
    for file in (STATE, *parts):
        whole = (out / file).read_bytes()
        for place in generator.integers(8 * len(whole), size=FLIPS):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << int(place % 8)
            (out / file).write_bytes(flipped)
            refused(out, file)
        (out / file).write_bytes(whole)
    assert read_all(out)["matrix"].shape == (50, 20)


def test_every_bit_of_the_names_of_the_checksums_counts(out: Path) -> None:
    whole = (out / STATE).read_bytes()
    for name in (b'"sums"', b'  "xxh3"', b'"version": 4'):
        start = whole.rindex(name)
        for place in range(8 * start, 8 * (start + len(name))):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            (out / STATE).write_bytes(flipped)
            refused(out, STATE)


def test_a_part_that_is_cut_longer_or_shifted_is_refused(out: Path) -> None:
    for part in parts_of(out):
        whole = (out / part).read_bytes()
        for other in (b"", whole[:-1], whole + b"\0", whole[:-100] + bytes(8) + whole[-100:], whole[8:]):
            (out / part).write_bytes(other)
            refused(out, part)
        (out / part).write_bytes(whole)


def test_a_part_of_another_state_is_refused(out: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", seed=1)
    for part in parts_of(out):
        before = (out / part).read_bytes()
        shutil.copy(tmp_path / "other" / part, out / part)
        refused(out, part)
        (out / part).write_bytes(before)


def test_a_few_rows_are_compared_with_all_that_their_checksum_is_of(out: Path) -> None:
    whole = read_all(out)["matrix"]
    with StoredState(str(out)) as state:
        for first, count in ((0, 1), (7, 30), (49, 1), (3, 0)):
            assert torch.equal(state.rows("matrix", first, count), whole[first : first + count])
    (part, *_) = parts_of(out)
    data = bytearray((out / part).read_bytes())
    data[-1] ^= 4
    (out / part).write_bytes(data)
    with StoredState(str(out)) as state, pytest.raises(InputError, match="rows of matrix"):
        state.rows("matrix", 0, 1)


def test_a_state_of_before_is_read(out: Path) -> None:
    about = json.loads((out / STATE).read_text())
    del about[SUMS], about["xxh3"]
    (out / STATE).write_text(json.dumps(about | {"version": 3}))
    before = read_all(out)
    with StoredState(str(out)) as state:
        assert not state.has_sums
    assert before.keys() == {"matrix", "moment", "scalar"}


def test_a_flipped_bit_of_a_cell_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    columns = {name: generator.random(40) for name in ("truth", *PREDICTORS)}
    tiles = pa.table({"key": [f"tile {n}" for n in range(40)], "pixels": np.arange(40), **columns})
    whole, file, named = CellResult(tiles, {"labels": 10}).to_bytes(), tmp_path / "cell.parquet", 0
    for place in generator.integers(8 * len(whole), size=300):
        data = bytearray(whole)
        data[place // 8] ^= 1 << int(place % 8)
        file.write_bytes(data)
        try:
            found = read_cell(str(file))
        except InputError:
            named += 1
            continue
        assert found.tiles.equals(tiles)
        assert found.about["labels"] == 10
    assert named > 200
