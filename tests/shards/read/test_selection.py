"""An expression chooses the rows that a loop in plain Python chooses, and runs nothing.

- comparisons, in, is None, like, within, and their combinations, on columns with missing values
- missing is neither equal nor unequal; `not` of unknown is unknown
- boxes in degrees and in a CRS, chips of several CRSs, over the antimeridian
- every mistake is one line that names it; code is refused, and not run
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fnmatch import fnmatchcase
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rasterio.warp import transform

from shards.errors import InputError
from shards.format.index import INDEX_SCHEMA
from shards.read.selection import columns_named, matching

Row = dict[str, Any]
Truth = bool | None

ROWS = 240
KEYS = ("fairbanks_1", "fairbanks_22", "Fairbanks_1", "a[b].c", "a^b\\c", "é-1", "x\ny", "")


def made(rows: int = ROWS) -> pa.Table:
    """An index with a missing value in every fifth place of most columns, and a column of its own."""
    rng = np.random.default_rng(0)

    def some(values: Any) -> list[Any]:
        return [None if rng.random() < 0.2 else values[rng.integers(len(values))] for _ in range(rows)]

    known = {
        "key": some(KEYS),
        "source": some(("AK_IFSAR", "G-LiHT", "3DEP")),
        "sensor": some(("A", "B")),
        "acquired": some(("2017-12-31", "2018-01-01", "2021-07-15")),
        "row": list(range(rows)),
        "height_mean": some((0.0, 1.5, 2.3, float("nan"))),
        "height_max": some((-0.0, 1.5, 2.3, 34.999, 35.0)),
        "xxh3": some((0, 7, 2**32 - 1)),
    }
    columns = {
        field.name: pa.array(known.get(field.name, [None] * rows), field.type) for field in INDEX_SCHEMA
    }
    columns["cloudless"] = pa.array(some((True, False)))
    columns["biome"] = pa.array(some(("taiga", "tundra"))).dictionary_encode()
    return pa.table(columns)


TABLE = made()


def plain(row: Row, name: str) -> Any:
    value = row[name]
    return None if value != value else value


def compared(name: str, compare: Callable[[Any, Any], bool], constant: Any) -> Callable[[Row], Truth]:
    if name.startswith("height"):
        constant = float(np.float32(constant))  # as stored

    def of(row: Row) -> Truth:
        value = plain(row, name)
        return None if value is None else compare(value, constant)

    return of


def negated(part: Callable[[Row], Truth]) -> Callable[[Row], Truth]:
    return lambda row: None if (truth := part(row)) is None else not truth


def joined(whole: bool, *parts: Callable[[Row], Truth]) -> Callable[[Row], Truth]:
    """SQL's and (`whole`), or."""

    def of(row: Row) -> Truth:
        truths = [part(row) for part in parts]
        if (not whole) in truths:
            return not whole
        return None if None in truths else whole

    return of


def one_of(name: str, constants: tuple[Any, ...]) -> Callable[[Row], Truth]:
    if name.startswith("height"):
        constants = tuple(float(np.float32(constant)) for constant in constants)
    return lambda row: None if plain(row, name) is None else plain(row, name) in constants


COMPARISONS = {
    f"{name} {sign} {constant!r}": compared(name, compare, constant)
    for sign, compare in {"==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}.items()
    for name, constant in [
        ("source", "AK_IFSAR"),
        ("acquired", "2018-01-01"),
        ("biome", "taiga"),
        ("height_mean", 2.3),
        ("height_max", 0),
        ("height_max", -1.5),
        ("row", 100),
        ("row", 99.5),
        ("xxh3", -1),
        ("scene", "none has one"),
    ]
}
PARTS: dict[str, Callable[[Row], Truth]] = {
    **COMPARISONS,
    "2.3 == height_max": compared("height_max", eq, 2.3),
    "100 < row": compared("row", gt, 100),
    "2 <= height_max < 35": joined(True, compared("height_max", ge, 2), compared("height_max", lt, 35)),
    "10 < row <= 20 != xxh3": joined(
        True, compared("row", gt, 10), compared("row", le, 20), compared("xxh3", ne, 20)
    ),
    "height_mean < height_max": lambda row: (
        None
        if plain(row, "height_mean") is None or row["height_max"] is None
        else row["height_mean"] < row["height_max"]
    ),
    "source in ('3DEP', 'G-LiHT')": one_of("source", ("3DEP", "G-LiHT")),
    "biome not in ['tundra']": negated(one_of("biome", ("tundra",))),
    "height_max in {0, 2.3}": one_of("height_max", (0, 2.3)),
    "row in (1, 2.5, 3, -4)": one_of("row", (1, 2.5, 3, -4)),
    "xxh3 not in (7, 8)": negated(one_of("xxh3", (7, 8))),
    "sensor not in ()": negated(one_of("sensor", ())),
    "sensor is None": lambda row: row["sensor"] is None,
    "height_mean is not None": lambda row: plain(row, "height_mean") is not None,
    "cloudless": lambda row: row["cloudless"],
    "cloudless == False": compared("cloudless", eq, False),
    "like(biome, 't?iga')": lambda row: row["biome"] and fnmatchcase(row["biome"], "t?iga"),
}
FEW = list(PARTS)[:: len(PARTS) // 12]


def check(expression: str, truth: Callable[[Row], Truth]) -> None:
    chosen = matching(TABLE, expression)
    assert chosen.dtype == np.bool_
    np.testing.assert_array_equal(chosen, [truth(row) is True for row in TABLE.to_pylist()])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_and_its_negation_choose_what_a_loop_chooses(part: str) -> None:
    check(part, PARTS[part])
    check(f"not ({part})", negated(PARTS[part]))
    check(f"not not ({part})", PARTS[part])


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(FEW, 2)))
def test_combinations_follow_three_valued_logic(one: str, other: str) -> None:
    both, either = joined(True, PARTS[one], PARTS[other]), joined(False, PARTS[one], PARTS[other])
    check(f"({one}) and ({other})", both)
    check(f"{one} or {other}", either)
    check(f"not ({one} and {other})", negated(both))
    check(
        f"sensor is None and not ({one} or {other})", joined(True, PARTS["sensor is None"], negated(either))
    )


@pytest.mark.parametrize(
    "wildcards",
    [
        *("fairbanks*", "*1", "*", "", "?*", "fairbanks_?", "[fF]*_1", "[!f]*", "a[[]b].c", "a[]^[]b*"),
        *("a?b\\c", "[é-é]*", "x?y", "a.b", "[", "*[0-9]", "a[\\^]b*", "(a|b)+$", "[!]]*"),
    ],
)
def test_wildcards_are_the_shells(wildcards: str) -> None:
    def truth(row: Row) -> Truth:
        return None if row["key"] is None else fnmatchcase(row["key"], wildcards)

    check(f"like(key, {wildcards!r})", truth)
    check(f"not like(key, {wildcards!r})", negated(truth))


def test_missing_values_match_no_comparison() -> None:
    missing = np.array([row["sensor"] is None for row in TABLE.to_pylist()])
    assert missing.any()
    for expression in ("sensor == 'A'", "sensor != 'A'", "not sensor == 'A'", "sensor not in ('A',)"):
        assert not (matching(TABLE, expression) & missing).any()
        assert not (matching(TABLE, f"not ({expression})") & missing).any()
    np.testing.assert_array_equal(matching(TABLE, "sensor is None"), missing)


def test_a_table_may_be_empty_in_pieces_or_a_few_columns_and_an_expression_wrapped() -> None:
    expression = "\n  source == '3DEP'\n  and row < 100\n"
    expected = matching(TABLE, expression)
    assert 0 < expected.sum() < ROWS
    pieces = pa.concat_tables([TABLE[:7], TABLE[7:7], TABLE[7:]])
    np.testing.assert_array_equal(matching(pieces, expression), expected)
    np.testing.assert_array_equal(matching(TABLE.select(["row", "source"]), expression), expected)
    for empty in (TABLE[:0], INDEX_SCHEMA.empty_table()):
        for text in (expression, "like(key, 'a*')", "row in (1,)", "within(0, 0, 1, 1)"):
            assert matching(empty, text).shape == (0,)


def places() -> pa.Table:
    """Chips all over Alaska and the sea west of it, in four CRSs, some without a place."""
    rng = np.random.default_rng(1)
    rows = []
    for crs in ("EPSG:3338", "EPSG:32606", "EPSG:32601", "EPSG:4326"):
        at = (rng.uniform(-179.9, 180, 60), rng.uniform(50, 72, 60))
        if crs != "EPSG:4326":
            near = {"EPSG:3338": (-195, -140), "EPSG:32606": (-151, -144), "EPSG:32601": (-184, -172)}[crs]
            at = transform("EPSG:4326", crs, rng.uniform(*near, 60), at[1])
        rows += [{"x": float(x), "y": float(y), "crs": crs} for x, y in zip(*at, strict=True)]
    for row, name in zip(rows[::17], itertools.cycle(["x", "y", "crs"]), strict=False):
        row[name] = None
    rows[5]["x"] = float("nan")
    order = rng.permutation(len(rows))
    return pa.Table.from_pylist([rows[i] for i in order])


PLACES = places()


def seen_from(crs: str, row: Row) -> tuple[float, float] | None:
    if None in row.values() or row["x"] != row["x"]:
        return None
    (x,), (y,) = transform(row["crs"], crs, [row["x"]], [row["y"]])
    return x, y


@pytest.mark.parametrize(
    ("box", "spans"),
    [
        ((-150, 60, -145, 66), [(-150, -145)]),
        ((-180, -90, 180, 90), [(-180, 180)]),
        ((170.5, 50, -170.25, 70), [(170.5, 180), (-180, -170.25)]),
        ((0, 50, -150, 72), [(0, 180), (-180, -150)]),
        ((-170, 55, 180, 71), [(-170, 180)]),
    ],
    ids=str,
)
def test_boxes_of_degrees_hold_chips_of_every_crs(box: tuple[float, ...], spans: list[Any]) -> None:
    found = [seen_from("EPSG:4326", row) for row in PLACES.to_pylist()]
    expected = [
        at is not None and any(w <= at[0] <= e for w, e in spans) and box[1] <= at[1] <= box[3]
        for at in found
    ]
    assert any(expected)
    np.testing.assert_array_equal(matching(PLACES, f"within{box}"), expected)
    known = np.array([at is not None for at in found])
    np.testing.assert_array_equal(matching(PLACES, f"not within{box}"), known & ~np.array(expected))


@pytest.mark.parametrize("crs", ["EPSG:3338", "EPSG:3413"])
def test_boxes_are_in_the_units_of_their_crs(crs: str) -> None:
    box = (-2_500_000.0, -1e6, 300_000.0, 1.7e6)
    found = [seen_from(crs, row) for row in PLACES.to_pylist()]
    expected = [at is not None and box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3] for at in found]
    assert 0 < sum(expected) < PLACES.num_rows
    np.testing.assert_array_equal(matching(PLACES, f"within{(*box, crs)}"), expected)


def test_edges_of_a_box_are_inside_and_the_antimeridian_has_two_names() -> None:
    at = pa.table({"x": [-180.0, 180.0, 170.0, 169.9, -170.0], "y": [60.0] * 5, "crs": ["EPSG:4326"] * 5})
    assert matching(at, "within(170, 60, -170, 60)").tolist() == [True, True, True, False, True]
    assert matching(at, "within(170, 50, 180, 70)").tolist() == [True, True, True, False, False]
    assert matching(at, "within(-180, 50, -170, 70)").tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sources == 'a'", "no column sources; the columns are key, split, .*, cloudless, biome"),
        ("AK_IFSAR == source", "no column AK_IFSAR"),
        ("source == ", "character 9"),
        ("source = 'a'", "character 8"),
        ("source == 'a' 'b' row", "character 19"),
        ("(row > 1", "never closed"),
        ("", "cannot be read"),
        ("row\0", "null bytes"),
        ("row > 1 # and so on", "comment"),
        ("row > 1 # and\nrow < 3", "comment"),
        ("source == 3", "source == 3: compares text with number"),
        ("row >= '3'", "compares number with text"),
        ("row == True", "compares number with true/false"),
        ("source < row", "compares text with number"),
        ("row in (1, 'a')", "compares number with text"),
        ("row in (1, None)", "is None"),
        ("source == None", "is None or is not None"),
        ("source is 'a'", "use == or !="),
        ("None is None", "use == or !="),
        ("1 < 2", "name a column"),
        ("source in 'abc'", "in parentheses"),
        ("source in ('abc')", "in parentheses"),
        ("row in (row, 2)", "constants after it"),
        ("1 in (1, 2)", "a column before it"),
        ("source", "source: is text and no condition"),
        ("row and row > 1", "row: is number and no condition"),
        ("not height_max", "is number and no condition"),
        ("True", "no condition"),
        ("'a'", "no condition"),
        ("row + 1 > 2", r"row \+ 1: is neither a column nor a constant"),
        ("-row > 2", "neither"),
        ("row > 1j", "neither"),
        ("key == b'a'", "neither"),
        ("key == f'{row}'", "neither"),
        ("(row > 1) == (row < 3)", "neither"),
        ("row > 1 if row else row < 3", "character 9"),
        ("class == 2", "class: no column class"),
        ("land cover == 3", "needs `backquotes`"),
        ("`Land cover` == 3", "`Land cover`: no column Land cover"),
        ("source == 'é' and `é ü` > 1", "`é ü`: no column é ü"),
        ("`biome == 3", "character 1: "),
        ("`` == 3", "character 1: "),
        ("`like`(key, 'a*')", "not understood"),
        ("`biome` == 'taiga' # and so on", "comment"),
        ("row & 1", "not understood"),
        ("row, key", "not understood"),
        ("(a := row) > 1", "neither"),
        ("upper(key) == 'A'", "neither"),
        ("like(key)", "write like"),
        ("like(row, 'a*')", "write like"),
        ("like(key, source)", "write like"),
        ("like(key, pattern='a')", "not understood"),
        ("like(key, '[z-a]')", "z-a"),
        ("within(1, 2, 3)", "write within"),
        ("within(1, 2, 3, row)", "write within"),
        ("within(1, 2, 3, 4, 5)", "write within"),
        ("within(1, 2, 3, 4, 'EPSG:3338', 5)", "write within"),
        ("within(1, 4, 3, 2)", "west, south, east, north"),
        ("within(3, 1, 1, 2, 'EPSG:3338')", "west, south, east, north"),
        ("within(300000, 1, 400000, 2)", "not degrees"),
        ("within(1, 2, 3, 4, 'EPSG:99999999')", "'EPSG:99999999' is no known CRS"),
        ("within(1, 2, 3, 4, 'nonsense')", "'nonsense' is no known CRS"),
        (f"row < {2**70}", "change the constant"),
        (f"height_max < {10**400}", "change the constant"),
        ("key == '\\ud800'", "change the constant"),
        ("not " * 5000 + "row > 1", "nested too deeply"),
    ],
    ids=lambda text: text[:40],
)
def test_a_mistake_is_named_in_one_line(
    expression: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        matching(TABLE, expression)
    assert str(caught.value).startswith("selection ")
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err, "GDAL says nothing besides"


NAMES = [
    "class",
    "from",
    "lambda",
    "in",
    "None",
    "like",
    "within",
    "land cover",
    "a-b.c",
    "2m",
    "`",
    "é ü",
    "𠀀 x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_may_have_any_name(name: str) -> None:
    """Backquotes take every name; Python's own words need none, unless they are words of expressions too."""
    table = pa.table({name: [1, 2, None], "class_": ["'`class`'", "b", "c"]})
    quoted = "`" + name.replace("`", "``") + "`"
    spellings = {quoted} | ({name} if name.isidentifier() and name not in ("in", "None") else set())
    for spelled in spellings:
        for expression, expected in {
            f"{spelled} == 2": [False, True, False],
            f"0 <= {spelled} < 2": [True, False, False],
            f"({spelled} is None) or {spelled} in (2,)": [False, True, True],
            f"class_ != 'b' and not {spelled} > 1": [True, False, False],
            f"like(class_, '?`cla*') or class_ == \"'`{'class'}`'\" or\n {spelled} == 2": [True, True, False],
        }.items():
            assert matching(table, expression).tolist() == expected, expression
            assert set(columns_named(expression, table.column_names)) <= set(table.column_names)
        assert columns_named(f"{spelled} == 2", ["class_", name, "class__"]) == [name]


def test_names_in_backquotes_are_read_in_nfkc() -> None:
    table = pa.table({"m2 of fire": [1, 2]})
    assert matching(table, "`m² of ﬁre` == 2").tolist() == [False, True]


def test_an_unknown_crs_in_the_index_is_named() -> None:
    with pytest.raises(InputError, match="'EPSG:1' is no known CRS"):
        matching(pa.table({"x": [1.0], "y": [1.0], "crs": ["EPSG:1"]}), "within(0, 0, 1, 1)")


def test_a_place_that_the_boxs_crs_does_not_have_is_not_inside_however_often_it_is_asked() -> None:
    """GDAL fails a call with such a place, but only the first twenty times in a process."""
    places = pa.table({"x": [1.0, -45.0], "y": [-95.0, 80.0], "crs": ["EPSG:4326"] * 2})
    for _ in range(30):
        found = matching(places, "within(-2000000, -2000000, 2000000, 2000000, 'EPSG:3413')")
        assert found.tolist() == [False, True]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch {}')",
        "__import__('os').system('touch {}') == 0",
        "row == open('{}', 'w').write('a')",
        "like(key, open('{}', 'w').name)",
        "within(*[open('{}', 'w')])",
        "row in [open('{}', 'w') for _ in (1,)]",
        "row in (*[open('{}', 'w')],)",
        "exec(\"open('{}', 'w')\")",
        "(lambda: open('{}', 'w'))()",
        "key.__class__.__base__.__subclasses__() == '{}'",
        "like.__globals__['__builtins__'] == '{}'",
        "key == f\"{{open('{}', 'w')}}\"",
    ],
)
def test_an_expression_never_runs_code(expression: str, tmp_path: Any) -> None:
    made_by_code = tmp_path / "ran"
    with pytest.raises(InputError):
        matching(TABLE, expression.format(made_by_code))
    assert not made_by_code.exists()
