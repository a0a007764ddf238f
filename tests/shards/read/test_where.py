"""Dataset.chips(split, limit, where): the chips of a split for which an expression holds.

- they are those of the split that a loop over the index finds; what is missing is unknown
- limits are nested within a selection; an empty selection is an empty array, in every order
- a mistake is one line; nothing in an expression is ever executed, however deep or odd it is
"""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.errors import InputError
from shards.read.dataset import Dataset

WHERE = "sensor == 'WV02' and not like(source, 'infra*') and height_max > 3"
RUN = '__import__("a_module_of_nobody").touch("{mark}")'


@pytest.fixture
def dataset(pairs_dataset: Any) -> Dataset:
    opened: Dataset = pairs_dataset.open()
    return opened


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_chips_are_those_of_the_split_for_which_it_holds(dataset: Dataset, split: str) -> None:
    expected = [
        number
        for number, row in enumerate(dataset.index.to_pylist())
        if split in (row["split"], "all")
        and row["sensor"] == "WV02"
        and not row["source"].startswith("infra")
        and row["height_max"] > 3
    ]
    assert 0 < len(expected) < dataset.chips(split).size
    assert dataset.chips(split, where=WHERE).tolist() == expected


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_limits_are_nested_within_a_selection(dataset: Dataset, split: str) -> None:
    whole = dataset.chips(split, where=WHERE)
    smaller: set[int] = set()
    for limit in range(whole.size + 3):
        found = dataset.chips(split, limit, WHERE)
        assert found.size == min(limit, whole.size)
        np.testing.assert_array_equal(found, np.unique(found))
        assert smaller <= set(found.tolist()) <= set(whole.tolist())
        smaller = set(found.tolist())


@pytest.mark.parametrize("limit", [None, 0, 5])
def test_no_chips_are_an_empty_array(dataset: Dataset, limit: int | None) -> None:
    # The chips have no place: of a box nothing is known, nor of its opposite.
    for where in ("sensor == 'nobody'", "within(0, 0, 1, 1)", "not within(0, 0, 1, 1)"):
        found = dataset.chips("train", limit, where)
        assert found.shape == (0,)
        assert found.dtype == np.int64
        assert dataset.epoch(found, 0, 0).size == 0
        assert list(dataset.batches(found, 4)) == []


@pytest.mark.parametrize(
    "where",
    [
        "{run}",
        "{run} == row",
        "row == {run}",
        "row in ({run}, 1)",
        "like(source, {run})",
        "like(source, pattern={run})",
        "like(*{run})",
        "within(0, 0, 1, {run})",
        "lambda: {run}",
        "(lambda: {run})()",
        "f'{{{run}}}' == source",
        "source == f'{{{run}}}'",
        "[{run} for row in source]",
        "{{{run} for row in source}}",
        "({run} for row in source)",
        "row if {run} else row",
        "(row := {run}) == 1",
        "row[{run}] == 1",
        "eval('{run}')",
        "source.upper() == 'A'",
        "().__class__.__bases__[0].__subclasses__()",
        "row + 1 == 2",
        "row == 10 ** 10 ** 10",
        "source == 'a' * 10 ** 10",
    ],
)
def test_nothing_is_ever_run(
    dataset: Dataset, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    real_import = builtins.__import__

    def watched(name: str, *rest: Any, **named: Any) -> Any:
        imported.append(name)
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", watched)
    with pytest.raises(InputError) as error:
        dataset.chips("train", where=where.format(run=RUN.format(mark=tmp_path / "mark")))
    assert "\n" not in str(error.value)
    assert "a_module_of_nobody" not in imported
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nope > 1", "nope.*height_max"),
        ("row == 1 and not source == 1", "source == 1"),
        ("row", "row"),
        ("row = 1", "character 5"),
        ("   ", "selection"),
        ("row == ", "character"),
        ("row == 1\x00", "selection"),
        ("row == " + "9" * 30, "selection"),
        ("row == " + "9" * 5000, "selection"),
        (r"source == '\ud800'", "selection"),
        ("source == '\ud800'", "selection"),
        ("(" * 1000 + "row == 1" + ")" * 1000, "selection"),
        ("not " * 5000 + "row == 1", "selection"),
        ("row == " + "-" * 5000 + "1", "selection"),
        ("within(0, 0, 1, 1, 'EPSG:999999')", "EPSG:999999"),
        ("within(0, 2, 1, 1)", "within"),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_mistake_is_one_line_that_names_it(dataset: Dataset, where: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        dataset.chips("train", where=where)
    assert "\n" not in str(error.value)


def test_many_conditions_side_by_side_are_no_deep_nest(dataset: Dataset) -> None:
    some = dataset.chips("all", where="row < 5")
    one_by_one = " or ".join(f"row == {number}" for number in [*range(5), *range(900, 1500)])
    np.testing.assert_array_equal(dataset.chips("all", where=one_by_one), some)
    listed = f"row in ({', '.join(map(str, [*range(5), *range(900, 9000)]))})"
    np.testing.assert_array_equal(dataset.chips("all", where=listed), some)
