"""Tables that list chip files with attributes: CSV, Parquet, GeoParquet and GeoPackage.

    listed = read_table_of_files("chips.gpkg", file_column="filename")
    listed.names[0], listed.attributes["groupName"][0], listed.x[0], listed.y[0], listed.crs

One column has the files' names; `geometry`, or x and y, may have their places. Every other column becomes an
attribute of the same name that `shards.read.selection` understands: text, whole numbers, numbers or
true/false. Messages count rows from 1, without a CSV's first line. A CSV is UTF-8, its first line names the
columns, and an empty value, NA, NULL, NaN and the like mean missing.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ingest.chips.attributes import as_attribute, attribute_name, is_number, is_text, plain_values
from ingest.config import PairsConfig
from shards.errors import InputError, one_line
from shards.foreign_text import visible
from shards.raster.geopackage import check_geopackage
from shards.storage.objects import exists, is_local, local_path, read_bytes

GEOMETRY = "geometry"
"""Column of places in a table that does not name it."""

_CSV_BLOCK = 1 << 24
"""Most bytes in a line: the outline of a large scene exceeds Arrow's default of a million."""


@dataclass(frozen=True)
class Listed:
    """Files that a table lists, and what it says about each."""

    names: list[str]
    """Names, paths or URLs as in the table, in its order, each once."""
    attributes: pa.Table
    """A row per name: text, int64, float64 or bool; null where unknown. No rows if there are no columns."""
    x: NDArray[np.float64]
    """Easting or longitude (names,) of the middle of each geometry's bounds, in `crs`; NaN where unknown."""
    y: NDArray[np.float64]
    """Northing or latitude (names,); NaN where x is."""
    crs: str | None
    """CRS, e.g. EPSG:3338; None: the table does not say."""


class _Read(NamedTuple):
    """A table as stored in its file."""

    table: pa.Table
    geometry: str | None
    """Column of places, WKB or WKT."""
    crs: str | None


def read_table_of_files(url: str, file_column: str = PairsConfig.file_column) -> Listed:
    """Read the table at `url` that lists files.

    Args:
        url: a .csv, .parquet, .geoparquet or .gpkg file. In a GeoPackage, the layer that has the file column
            is read.
        file_column: column of text with the files' names.

    Raises:
        InputError: the table or the column does not exist, or there is no row; a file has no name or is
            listed twice; a geometry cannot be read; a column has values of no use, such as lists, or the
            name of another.
    """
    reader = _READERS.get(PurePosixPath(url).suffix.lower())
    if reader is None:
        raise InputError(f"{url}: no table by its ending; give a .csv, .parquet, .geoparquet or .gpkg file")
    table, geometry, crs = reader(url, file_column)
    columns: dict[str, Any] = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        if name in columns:
            raise InputError(f"{url}: two columns are called {name!r}; rename one of them")
        columns[name] = plain_values(values)
    if file_column not in columns:
        raise _no_column(url, file_column, list(columns))
    names = _names(url, file_column, columns.pop(file_column))
    x, y = np.full((2, len(names)), np.nan)
    if geometry in columns:
        x, y = _centres(url, geometry, columns.pop(geometry))
    elif all(name in columns and is_number(columns[name].type) for name in ("x", "y")):
        x, y = (columns.pop(name).cast(pa.float64()).to_numpy() for name in ("x", "y"))
    unknown = ~(np.isfinite(x) & np.isfinite(y))
    x, y = (np.where(unknown, np.nan, values) for values in (x, y))
    return Listed(names, _attributes(url, columns), x, y, crs)


def _read_csv(url: str, file_column: str) -> _Read:
    data = read_bytes(url)
    text = {name: pa.string() for name in (file_column, GEOMETRY)}  # as text: a file may be called 007
    try:
        data.decode()  # Arrow takes a column that is not UTF-8 for binary, and fails late on its name
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            # Without threads, an error names the line; 100 MB still take only a third of a second.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=text, strings_can_be_null=True),
        )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{url}: byte {error.start} is not UTF-8; save the table in that encoding"
        ) from error
    except pa.ArrowException as error:
        raise InputError(
            f"{url}: cannot be read ({one_line(error)}); "
            "a CSV needs a first line of column names and as many values in each line, separated by commas"
        ) from error
    return _Read(table, GEOMETRY, None)


def _read_parquet(url: str, file_column: str) -> _Read:
    try:
        table = pq.ParquetFile(pa.BufferReader(read_bytes(url))).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{url}: is damaged or no Parquet ({one_line(error)}); write it again") from error
    described = (table.schema.metadata or {}).get(b"geo")
    if described is None:
        return _Read(table, GEOMETRY, None)
    try:
        # https://geoparquet.org/releases/v1.1.0/
        geo = json.loads(described)
        geometry = geo["primary_column"]
        facts = geo["columns"][geometry]
        encoding, crs = facts["encoding"], facts.get("crs", "OGC:CRS84")
        boxes = {path[0] for path in facts.get("covering", {}).get("bbox", {}).values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{url}: its geo metadata cannot be read ({error!r}); write it again") from error
    if encoding != "WKB":
        raise InputError(f"{url}: column {geometry} is encoded as {encoding}; write it as WKB")
    covering = [name for name in table.column_names if name in boxes]
    return _Read(table.drop_columns(covering), geometry, _crs_name(url, crs))


def _read_geopackage(url: str, file_column: str) -> _Read:
    if not is_local(url):
        with tempfile.TemporaryDirectory(prefix="treeline-") as folder:
            path = Path(folder) / "table.gpkg"
            path.write_bytes(read_bytes(url))
            return _read_layer(url, path, file_column)
    if not exists(url):
        raise InputError(f"{url}: no such file")
    return _read_layer(url, local_path(url), file_column)


def _read_layer(url: str, path: Path, file_column: str) -> _Read:
    """Read the layer of the GeoPackage at `path` that has the file column; others may hold styles."""
    check_geopackage(url, path)
    import pyogrio  # the import takes 0.3 s, which other tables need not wait for
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        columns_of = {
            layer: list(pyogrio.read_info(path, layer=layer)["fields"])
            for layer, _ in pyogrio.list_layers(path)
        }
        layers = [layer for layer, columns in columns_of.items() if file_column in columns]
        if not layers:
            raise _no_column(url, file_column, [name for names in columns_of.values() for name in names])
        if len(layers) > 1:
            raise InputError(
                f"{url}: layers {', '.join(layers)} have a column {file_column}; keep only one of them"
            )
        # As text: times in Arrow's type do not say whether they are UTC.
        facts, table = pyogrio.read_arrow(path, layer=layers[0], datetime_as_string=True)
    except (DataSourceError, DataLayerError, pa.ArrowException, OSError) as error:
        raise InputError(f"{url}: is damaged or no GeoPackage ({one_line(error)}); write it again") from error
    return _Read(table, facts["geometry_name"] or None, _crs_name(url, facts["crs"]))


_FOLLOWED = ("s3://", "file://")
"""Beginnings of the addresses that a table may name."""
_READERS: dict[str, Callable[[str, str], _Read]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".geoparquet": _read_parquet,
    ".gpkg": _read_geopackage,
}


def _crs_name(url: str, crs: Any) -> str | None:
    """Name a CRS given as PROJJSON, WKT or a name the way rasters name it; None for None."""
    if crs is None:
        return None
    try:
        with rasterio.Env():  # GDAL's complaints go to the log, not to the terminal
            return str(CRS.from_user_input(crs).to_string())
    except CRSError as error:
        raise InputError(f"{url}: its CRS cannot be read ({one_line(error)}); assign one") from error


def _names(url: str, column: str, values: pa.ChunkedArray) -> list[str]:
    if not is_text(values.type) and not pa.types.is_null(values.type):
        raise InputError(
            f"{url}: column {column} has {values.type}, no names of files; choose a column of text"
        )
    names: list[str] = values.to_pylist()
    if not names:
        raise InputError(f"{url}: lists no file; give it a row per file")
    row_of: dict[str, int] = {}
    for row, name in enumerate(names, 1):
        if not name or name.isspace():
            raise InputError(f"{url}: row {row} has no {column}; fill it in or leave the row out")
        if "://" in name and not name.startswith(_FOLLOWED):
            raise InputError(
                f"{url}: row {row} names {visible(name)}, which is neither a local path nor s3://...; copy "
                "the file to one of these first"
            )
        first = row_of.setdefault(name, row)
        if first != row:
            raise InputError(
                f"{url}: {one_line(name)} is listed twice, in rows {first} and {row}; remove one of them"
            )
    return names


def _centres(
    url: str, column: str, values: pa.ChunkedArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y (rows,) of the middle of each geometry's bounds; NaN where there is no geometry."""
    kind = values.type
    form, parse = ("WKT", shapely.from_wkt) if is_text(kind) else ("WKB", shapely.from_wkb)
    if not (is_text(kind) or _is_bytes(kind) or pa.types.is_null(kind)):
        raise InputError(f"{url}: column {column} has {kind}; write geometries as WKB or WKT")
    encoded = np.array(values.to_pylist(), object)
    try:
        geometries = parse(encoded, on_invalid="ignore")
    except NotImplementedError as error:
        raise InputError(
            f"{url}: column {column} has curves; make them straight (ogr2ogr -nlt CONVERT_TO_LINEAR)"
        ) from error
    wrong = np.flatnonzero(shapely.is_missing(geometries) & np.asarray(values.is_valid()))
    if wrong.size:
        raise InputError(f"{url}: row {wrong[0] + 1}: {column} is no {form}; mend it or leave it empty")
    west, south, east, north = shapely.bounds(geometries).T
    return (west + east) / 2, (south + north) / 2


def _attributes(url: str, columns: dict[str, Any]) -> pa.Table:
    """Return the columns under the names of attributes, in types of an index."""
    attributes: dict[str, pa.ChunkedArray] = {}
    given: dict[str, str] = {}
    for name, values in columns.items():
        own = attribute_name(name)
        other = given.setdefault(own, name)
        if other != name:
            raise InputError(
                f"{url}: columns {other!r} and {name!r} would both be called {own}; rename one of them"
            )
        try:
            attributes[own] = as_attribute(values)
        except pa.ArrowException as error:
            raise InputError(
                f"{url}: column {name!r} is no attribute ({one_line(error)}); make it text or leave it out"
            ) from error
    return pa.table(attributes)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _no_column(url: str, column: str, there: list[str]) -> InputError:
    named = one_line(", ".join(there)) or "none"
    return InputError(
        f"{url}: no column {column}; the columns are {named}; choose the one with the files' names"
    )
