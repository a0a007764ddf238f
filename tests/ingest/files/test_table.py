"""A table of files says the same in every format, and what cannot be used is refused in one line.

- CSV, Parquet, GeoParquet and GeoPackage of one table: the same names, attributes, places; the CRS, if known
- attributes have types and names that selections take, whatever they were; what is missing stays missing
- every mistake is one line with the table's name and the column or row
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import shapely
from pyogrio.raw import write_arrow
from rasterio.crs import CRS

from ingest.files.table import Listed, read_table_of_files
from shards.errors import InputError
from shards.format.index import ATTRIBUTE_TYPES, INDEX_SCHEMA
from shards.read.selection import columns_named, matching
from shards.storage.objects import publish, remove_folder

ALASKA = "EPSG:3338"
OUTLINES = np.array(
    [
        shapely.box(300_000, 1_600_000, 300_128, 1_600_128),
        shapely.Polygon([(0, 0), (10, 0), (0, 4)]),
        None,
        shapely.Point(-7.25, 3.5),
        shapely.MultiPoint([(1, 1), (3, 9)]),
        shapely.Polygon(),
    ],
    object,
)
CENTRES = [[300_064, 1_600_064], [5, 2], [np.nan] * 2, [-7.25, 3.5], [2, 5], [np.nan] * 2]
NAMES = ["007.npy", "a/b.tif", "/data/c.npz", "s3://bucket/d.tif", "é, ü.npy", 'say "f".npy']
ATTRIBUTES = pa.table(
    {
        "groupName": ["tundra", None, "täiga", "a\nb", "x, y", "tundra"],
        "max": [1.5, 2.25, None, -0.1, 1e300, 34.0],
        "trees": pa.array([1, None, 2**62, -3, 0, 5]),
        "cloudless": [True, False, None, True, True, False],
        "flown": pa.array([dt.date(2018, 7, 15), None, *[dt.date(1999, 12, 31)] * 4]),
        "received": pa.array([dt.datetime(2018, 7, 15, 21, 30), None, *[dt.datetime(2020, 2, 29)] * 4]),
        "nothing": pa.nulls(6, pa.string()),
    }
)
TEXT_OF_TIMES = {
    "flown": ["2018-07-15", None, *["1999-12-31"] * 4],
    "received": ["2018-07-15T21:30:00", None, *["2020-02-29T00:00:00"] * 4],
}

Write = Callable[[Path, pa.Table, Any], str | None]


def with_wkb(table: pa.Table, outlines: Any, name: str = "geometry") -> pa.Table:
    return table.append_column(name, pa.array(list(shapely.to_wkb(outlines)), pa.binary()))


def write_csv(path: Path, table: pa.Table, outlines: Any) -> None:
    pyarrow.csv.write_csv(table.append_column("geometry", pa.array(list(shapely.to_wkt(outlines)))), path)


def write_parquet(path: Path, table: pa.Table, outlines: Any) -> None:
    pq.write_table(with_wkb(table, outlines), path)


def write_parquet_of_wkt(path: Path, table: pa.Table, outlines: Any) -> None:
    pq.write_table(table.append_column("geometry", pa.array(list(shapely.to_wkt(outlines)))), path)


def write_geoparquet(path: Path, table: pa.Table, outlines: Any, **facts: Any) -> str | None:
    """With an outline of another name, and its box beside it, as GeoParquet 1.1 has it."""
    boxes = pa.array([{"xmin": 0.0}] * table.num_rows)
    covering = {"bbox": {"xmin": ["box of it", "xmin"]}}
    known = {"encoding": "WKB", "crs": CRS.from_string(ALASKA).to_dict(projjson=True), "covering": covering}
    geo = {"version": "1.1.0", "primary_column": "outline", "columns": {"outline": known | facts}}
    table = with_wkb(table, outlines, "outline").append_column("box of it", boxes)
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return ALASKA


def write_geopackage(path: Path, table: pa.Table, outlines: Any, layer: str = "chips") -> str | None:
    write_arrow(
        with_wkb(table, outlines, "geom"),
        path,
        layer=layer,
        driver="GPKG",
        geometry_name="geom",
        geometry_type="Unknown",
        crs=ALASKA,
    )
    return ALASKA


FORMATS: dict[str, Write] = {
    "t.csv": write_csv,
    "t.CSV": write_csv,
    "t.parquet": write_parquet,
    "wkt.parquet": write_parquet_of_wkt,
    "t.geoparquet": write_geoparquet,
    "geo.Parquet": write_geoparquet,
    "t.gpkg": write_geopackage,
    "t.GPKG": write_geopackage,
}


def listing(**columns: Any) -> pa.Table:
    return pa.table({"filename": ["a.npy", "b.npy", "c.npy"], **columns})


def read_parquet(folder: Path, table: pa.Table) -> Listed:
    pq.write_table(table, folder / "t.parquet")
    return read_table_of_files(str(folder / "t.parquet"))


def attribute(folder: Path, values: pa.Array) -> pa.ChunkedArray:
    return read_parquet(folder, listing(a=values)).attributes["a"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = ATTRIBUTES.add_column(2, "image", pa.array(NAMES))
    crs = FORMATS[name](path, table, OUTLINES)
    listed = read_table_of_files(str(path), file_column="image")
    assert listed.names == NAMES
    assert listed.attributes.to_pydict() == ATTRIBUTES.to_pydict() | TEXT_OF_TIMES
    assert listed.attributes.column_names == ATTRIBUTES.column_names
    kinds = [pa.string(), pa.float64(), pa.int64(), pa.bool_(), *[pa.string()] * 3]
    assert listed.attributes.schema.types == kinds
    np.testing.assert_array_equal(np.stack([listed.x, listed.y], 1), CENTRES)
    assert listed.x.dtype == listed.y.dtype == np.float64
    assert listed.crs == crs


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.gpkg"])
def test_remote_tables(tmp_path: Path, name: str) -> None:
    table = listing(max=[1.0, None, 2.0])
    FORMATS[name](tmp_path / name, table, OUTLINES[:3])
    url = f"memory://tables/{name}"
    publish(url, (tmp_path / name).read_bytes())
    near, far = read_table_of_files(str(tmp_path / name)), read_table_of_files(url)
    assert (near.names, near.attributes, near.crs) == (far.names, far.attributes, far.crs)
    np.testing.assert_array_equal([near.x, near.y], [far.x, far.y])
    remove_folder("memory://tables")
    with pytest.raises(InputError, match=f"{name}: no such file"):
        read_table_of_files(url)


def test_places_of_columns_x_and_y(tmp_path: Path) -> None:
    where = {"x": [1, 2, 3], "y": pa.array([0.5, None, float("inf")])}
    placed = read_parquet(tmp_path, listing(**where))
    np.testing.assert_array_equal([placed.x, placed.y], [[1, np.nan, np.nan], [0.5, np.nan, np.nan]])
    assert placed.crs is None
    assert placed.attributes.column_names == []
    outlined = read_parquet(tmp_path, with_wkb(listing(**where), OUTLINES[:3]))
    np.testing.assert_array_equal(np.stack([outlined.x, outlined.y], 1), CENTRES[:3])
    assert outlined.attributes.column_names == ["table_x", "table_y"]
    as_text = read_parquet(tmp_path, listing(x=["1", "2", "3"], y=[1, 2, 3]))
    assert np.isnan([as_text.x, as_text.y]).all()
    assert as_text.attributes.column_names == ["table_x", "table_y"]


def test_crs_of_geoparquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for crs in (None, "EPSG:32606"):
        write_geoparquet(path, listing(), OUTLINES[:3], crs=crs)
        assert read_table_of_files(str(path)).crs == crs
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    table = with_wkb(listing(), OUTLINES[:3]).replace_schema_metadata({"geo": json.dumps(geo)})
    assert read_parquet(tmp_path, table).crs == "OGC:CRS84"  # by the specification


NUMBERS = [None, 1, 0]
WORDS = [None, "é", ""]
DAYS = [None, dt.datetime(2020, 1, 1), dt.datetime(2020, 2, 29)]
IN_INDEX: list[tuple[pa.DataType, list[Any], pa.DataType]] = [
    *((kind, NUMBERS, pa.int64()) for kind in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64())),
    *((kind, NUMBERS, pa.float64()) for kind in (pa.float16(), pa.float32(), pa.decimal128(9, 2))),
    (pa.bool_(), [None, True, False], pa.bool_()),
    *((kind, WORDS, pa.string()) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.dictionary(pa.int8(), pa.string()), WORDS, pa.string()),
    (pa.dictionary(pa.int8(), pa.int16()), NUMBERS, pa.int64()),
    (pa.json_(), [None, "{}", "[1]"], pa.string()),
    *((kind, DAYS, pa.string()) for kind in (pa.date32(), pa.date64())),
    *((kind, DAYS, pa.string()) for kind in (pa.timestamp("s"), pa.timestamp("ns", "UTC"))),
    (pa.time32("ms"), [None, dt.time(1), dt.time(2)], pa.string()),
    (pa.null(), [None] * 3, pa.string()),
]


@pytest.mark.parametrize(("kind", "given", "expected"), IN_INDEX, ids=[str(kind) for kind, *_ in IN_INDEX])
def test_attributes_have_a_type_of_the_index(
    tmp_path: Path, kind: pa.DataType, given: list[Any], expected: pa.DataType
) -> None:
    values = attribute(tmp_path, pa.array(given, kind))
    assert values.type == expected
    assert values.type in ATTRIBUTE_TYPES.values()
    assert values.is_null().to_pylist() == [value is None for value in given]
    if not pa.types.is_temporal(kind):
        assert values.to_pylist() == given


def test_times_are_iso_text_that_sorts_as_they_do(tmp_path: Path) -> None:
    moments = [dt.datetime(2020, 1, 1, 10), dt.datetime(2020, 1, 1, 10, 0, 0, 500_000), None]
    for unit in ("ms", "us", "ns"):
        text = attribute(tmp_path, pa.array(moments, pa.timestamp(unit))).to_pylist()
        assert text == ["2020-01-01T10:00:00.000", "2020-01-01T10:00:00.500", None]
        text = attribute(tmp_path, pa.array([*moments[::2], None], pa.timestamp(unit))).to_pylist()
        assert text == ["2020-01-01T10:00:00", None, None]
    there = pa.array([0, None, 1], pa.timestamp("s", "America/Anchorage"))
    assert attribute(tmp_path, there).to_pylist() == ["1970-01-01T00:00:00Z", None, "1970-01-01T00:00:01Z"]


def test_nan_is_missing(tmp_path: Path) -> None:
    values = attribute(tmp_path, pa.array([1.0, float("nan"), None]))
    assert values.to_pylist() == [1.0, None, None]


def test_missing_values_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('filename,group,max,good\r\na,NA,NA,true\r\n"b","",,\r\n\r\nc,x,3,false\r\n')
    listed = read_table_of_files(str(path))
    assert listed.names == ["a", "b", "c"]
    columns = {"group": [None, None, "x"], "max": [None, None, 3], "good": [True, None, False]}
    assert list(listed.attributes.to_pydict().values()) == list(columns.values())
    path.write_bytes("\ufefffilename,höhe\n01,2\n".encode())
    listed = read_table_of_files(str(path))
    assert listed.names == ["01"]
    assert listed.attributes.to_pydict() == {"höhe": [2]}


AWKWARD = {
    "max": "max",
    "groupName": "groupName",
    "Height (m)": "Height (m)",
    "höhe": "höhe",
    "ﬁre": "fire",  # a ligature, which Python reads as two letters
    "m²": "m2",
    "½": "1⁄2",
    "2m": "2m",
    "class": "class",
    "None": "None",
    "_hidden": "table__hidden",
    "a-b.c": "a-b.c",
    "a`b``c": "a`b``c",
    "'text'": "'text'",
    "#": "#",
    "": "table_",
    "\U00010107": "\U00010107",  # a letter to regular expressions, but not to Python
    "line\nbreak": "line break",
    "like": "like",
    "树高": "树高",
    **{name: f"table_{name}" for name in INDEX_SCHEMA.names},
    **{name: f"table_{name}" for name in ("shift_row", "shift_column", "shift_score", "shift_gain")},
}


def test_every_name_can_be_used_in_a_selection(tmp_path: Path) -> None:
    columns = {name: pa.array([str(number), None, "z"]) for number, name in enumerate(AWKWARD)}
    attributes = read_parquet(tmp_path, listing(**columns)).attributes
    assert dict(zip(AWKWARD, attributes.column_names, strict=True)) == AWKWARD
    for number, name in enumerate(attributes.column_names):
        written = f"`{name.replace('`', '``')}` == '{number}'"
        assert matching(attributes, written).tolist() == [True, False, False], name
        assert columns_named(written, attributes.column_names) == [name]
        word = f"{name} == '{number}'"
        if name.isidentifier() and name not in ("None", "True", "False"):
            assert matching(attributes, word).tolist() == [True, False, False], name
            assert columns_named(word, attributes.column_names) == [name]


def test_the_layer_that_has_files_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.gpkg"
    write_geopackage(path, pa.table({"style": ["red"]}), OUTLINES[:1], layer="layer_styles")
    write_geopackage(path, listing(), OUTLINES[:3], layer="chips")
    assert read_table_of_files(str(path)).names == ["a.npy", "b.npy", "c.npy"]
    write_geopackage(path, listing(), OUTLINES[:3], layer="old")
    with pytest.raises(InputError, match="layers chips, old have a column filename; keep only one of them"):
        read_table_of_files(str(path))


def test_a_geopackage_without_places(tmp_path: Path) -> None:
    write_arrow(listing(max=[1, 2, 3]), tmp_path / "t.gpkg", layer="t", driver="GPKG")
    listed = read_table_of_files(str(tmp_path / "t.gpkg"))
    assert listed.attributes.to_pydict() == {"max": [1, 2, 3]}
    assert np.isnan([listed.x, listed.y]).all()
    assert listed.crs is None


@pytest.mark.parametrize("name", FORMATS)
def test_mistakes_of_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write = FORMATS[name]
    with pytest.raises(InputError, match="no such file"):
        read_table_of_files(str(path))
    path.write_bytes(b"\xff\xfe no table")
    with pytest.raises(InputError, match=r"UTF-8|no Parquet|no GeoPackage"):
        read_table_of_files(str(path))
    path.unlink()
    for names, why in {
        ("a", "b", None): "row 3 has no filename",
        ("a", " ", "c"): "row 2 has no filename",
        ("a b", "b", "a b"): "a b is listed twice, in rows 1 and 3",
        (): "lists no file",
    }.items():
        write(path, pa.table({"filename": pa.array(names, pa.string())}), OUTLINES[: len(names)])
        with pytest.raises(InputError, match=why):
            read_table_of_files(str(path))
        path.unlink()
    write(path, listing(max=[1, 2, 3]), OUTLINES[:3])
    with pytest.raises(InputError, match="no column image; the columns are filename, max"):
        read_table_of_files(str(path), "image")


CURVE = bytes.fromhex("010800000003000000") + np.array([0, 0, 1, 1, 2, 0], "<f8").tobytes()
REFUSED: dict[str, tuple[pa.Table, str]] = {
    "list": (listing(a=[[1], [2], None]), "column 'a' is no attribute .it has list<.*>.; make it text"),
    "struct": (listing(a=[{"b": 1}] * 3), "column 'a' is no attribute .it has struct"),
    "binary": (listing(a=[b"1", b"2", b"3"]), "column 'a' is no attribute .it has binary"),
    "duration": (listing(a=pa.array([1, 2, 3], pa.duration("s"))), "column 'a' is no attribute"),
    "too large": (listing(a=pa.array([1, 2, 2**64 - 1], pa.uint64())), "column 'a' is no attribute"),
    "one name for two": (
        listing(**{"m²": [1] * 3, "m2": [2] * 3}),
        "'m²' and 'm2' would both be called m2",
    ),
    "the same name twice": (
        listing(a=[1] * 3).append_column("a", pa.array([1] * 3)),
        "two columns are called 'a'",
    ),
    "names that are numbers": (
        pa.table({"filename": [1, 2]}),
        "column filename has int64, no names of files",
    ),
    "WKB": (listing(geometry=[CURVE[:7], None, None]), "row 1: geometry is no WKB"),
    "WKT": (listing(geometry=["POINT (1 2)", "flat", None]), "row 2: geometry is no WKT"),
    "curves": (listing(geometry=[None, CURVE, None]), "geometry has curves; make them straight"),
    "geometry of numbers": (
        listing(geometry=[1, 2, 3]),
        "column geometry has int64; write geometries as WKB",
    ),
    "geo metadata": (listing().replace_schema_metadata({"geo": "{}"}), "its geo metadata cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_columns(tmp_path: Path, case: str) -> None:
    table, why = REFUSED[case]
    with pytest.raises(InputError, match=why) as refused:
        read_parquet(tmp_path, table)
    assert str(refused.value).startswith(f"{tmp_path}/t.parquet: ")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read .Empty CSV file.; a CSV needs a first line of column names"),
        ("\n", "cannot be read .*; a CSV needs a first line of column names"),
        ("filename,max\n", "lists no file"),
        ("a.npy,1\nb.npy,2\n", "no column filename; the columns are a.npy, 1"),
        ("filename;max\na;1\n", "no column filename; the columns are filename;max"),
        ("filename,max\na,1\nb,2,3\n", "cannot be read .*Row #3: Expected 2 columns, got 3"),
        ("filename,a,a\nx,1,2\n", "two columns are called 'a'"),
    ],
)
def test_mistakes_of_a_csv(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=why) as refused:
        read_table_of_files(str(tmp_path / "t.csv"))
    assert len(str(refused.value).splitlines()) == 1


def test_mistakes_of_a_geoparquet(tmp_path: Path) -> None:
    path = tmp_path / "t.geoparquet"
    for facts, why in [
        ({"encoding": "point"}, "column outline is encoded as point; write it as WKB"),
        ({"crs": "EPSG:1"}, "its CRS cannot be read"),
    ]:
        write_geoparquet(path, listing(), OUTLINES[:3], **facts)
        with pytest.raises(InputError, match=why):
            read_table_of_files(str(path))


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    for name in ("t.xlsx", "csv", "t.csv.gz"):
        with pytest.raises(InputError, match="no table by its ending; give a"):
            read_table_of_files(str(tmp_path / name))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"cannot be read .Is a directory."):
        read_table_of_files(str(tmp_path / "folder.parquet"))
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        read_table_of_files(str(tmp_path / "folder.gpkg"))
