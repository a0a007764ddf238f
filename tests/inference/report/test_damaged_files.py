"""A damaged file that a report reads is refused in one line, which names it and the cure; no page is left."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import treeline
from report_runs import Run

from shards.format.sealed import SEAL

Change = Callable[[Path], None]


def unsealed(path: Path) -> dict[str, Any]:
    """Read a JSON file without its checksum, which would find any damage first."""
    found: dict[str, Any] = json.loads(path.read_text())
    found.pop(SEAL, None)
    return found


def changed(**values: Any) -> Change:
    """Change entries of a JSON object; None removes one."""

    def change(path: Path) -> None:
        found = unsealed(path) | values
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))

    return change


def scores_of(**values: Any) -> Change:
    """Change the first score."""

    def change(path: Path) -> None:
        found = unsealed(path)
        first = next(iter(found["scores"]))
        found["scores"][first] |= values
        path.write_text(json.dumps(found))

    return change


def first_line(**values: Any) -> Change:
    """Change the first line of JSON."""

    def change(path: Path) -> None:
        first, *others = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | values), *others]))

    return change


def without_column(name: str) -> Change:
    def change(path: Path) -> None:
        pq.write_table(pq.read_table(path).drop_columns([name]), path)

    return change


def column(name: str, of: Callable[[int], list[Any]]) -> Change:
    """Give a column of a table other values."""

    def change(path: Path) -> None:
        rows = pq.read_table(path)
        place = rows.column_names.index(name)
        pq.write_table(rows.set_column(place, name, pa.array(of(rows.num_rows))), path)

    return change


def arrays(of: Callable[[dict[str, np.ndarray]], dict[str, Any]]) -> Change:
    """Change arrays of an .npz file."""

    def change(path: Path) -> None:
        with np.load(path) as stored:
            found = dict(stored)
        written = io.BytesIO()
        np.savez(written, **(found | of(found)))
        path.write_bytes(written.getvalue())

    return change


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def words(count: int) -> list[Any]:
    return ["x"] * count


SCORES, CHIPS, EXAMPLES = (
    f"evaluation/{name}" for name in ("evaluation.json", "chips.parquet", "examples.npz")
)
DAMAGE: dict[str, tuple[str, Change]] = {
    **{f"without {name}": (SCORES, changed(**{name: None})) for name in ("data", "fingerprint", "split")},
    "without chips": (SCORES, changed(chips=None)),
    "scores are a list": (SCORES, changed(scores=[1])),
    "scores are numbers": (SCORES, changed(scores={"regressor": 1})),
    "a score is a word": (SCORES, scores_of(all={"count": 1, "mae": "x", "rmse": 1, "bias": 1, "r2": 1})),
    "a score lacks numbers": (SCORES, scores_of(all={"count": 1})),
    "classes are a list": (SCORES, scores_of(by_class=[1])),
    "intervals are a list": (SCORES, changed(intervals=[1])),
    "intervals lack ends": (SCORES, changed(intervals={"over": "blocks", "rmse": {"regressor": [1]}})),
    "chips is a word": (SCORES, changed(chips="many")),
    "split is a number": (SCORES, changed(split=1)),
    "scores are cut off": (SCORES, cut_off),
    "no key": (CHIPS, without_column("key")),
    "no squared": (CHIPS, without_column("squared")),
    "no linear_error": (CHIPS, without_column("linear_error")),
    "sums are words": (CHIPS, column("squared", words)),
    "pixels are words": (CHIPS, column("pixels", words)),
    "places are words": (CHIPS, column("x", words)),
    "keys are numbers": (CHIPS, column("key", lambda count: list(range(count)))),
    "sums have gaps": (CHIPS, column("squared", lambda count: [None] + [1.0] * (count - 1))),
    "chips are cut off": (CHIPS, cut_off),
    "one prediction": (EXAMPLES, arrays(lambda found: {"predicted": found["predicted"][0]})),
    "small predictions": (EXAMPLES, arrays(lambda found: {"predicted": found["predicted"][:, :3, :3]})),
    "too few rows": (EXAMPLES, arrays(lambda found: {"predicted": found["predicted"][1:]})),
    "predictions are words": (EXAMPLES, arrays(lambda found: {"predicted": found["predicted"].astype(str)})),
    "keys of numbers": (EXAMPLES, arrays(lambda found: {"keys": np.arange(len(found["keys"]))})),
    "examples are cut off": (EXAMPLES, cut_off),
    "loss is a word": ("metrics.jsonl", first_line(loss="x")),
    "error is a list": ("metrics.jsonl", first_line(val_rmse=[1])),
    "no epoch": ("metrics.jsonl", first_line(epoch=None)),
    "trained_on is a list": ("epoch", changed(trained_on=[])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(made: Run, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    name, change = DAMAGE[damage]
    if name == "epoch":
        best = json.loads((run / "checkpoints.json").read_text())["best"][0]
        name = f"{best}/config.json"
    before = (run / name).read_bytes()
    change(run / name)
    assert (run / name).read_bytes() != before
    done = treeline("report", str(run))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"{run}/{name}: " in line
    assert "again" in line
    assert not (run / "report.html").exists()
