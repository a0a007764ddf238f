"""An area on the ground, as polygons of a GeoPackage or a GeoJSON file."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from shards.errors import InputError, one_line
from shards.raster.geopackage import check_geopackage
from shards.raster.grid import in_crs
from shards.storage.checksum import hexadecimal
from shards.storage.json_text import parsed, read_json_bytes
from shards.storage.objects import exists, is_local, local_path, name_of, read_bytes

GEOJSON = (".geojson", ".json")
"""Endings of GeoJSON files; any other file is a GeoPackage."""
POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
STEPS = 64
"""Points on an edge as long as the area, when it is transformed: straight in one CRS is bent in another."""


@dataclass(frozen=True)
class Area:
    """Polygons, joined."""

    url: str
    crs: CRS
    polygons: Any

    @property
    def digits(self) -> str:
        """Digits that stand for its place and shape."""
        return hexadecimal(shapely.to_wkb(self.polygons) + self.crs.to_wkt().encode())[:8]

    def in_crs(self, crs: CRS) -> Any:
        """Return the polygons in another CRS; empty if they have no place there."""
        if crs == self.crs:
            return self.polygons
        left, bottom, right, top = shapely.bounds(self.polygons).tolist()
        fine = shapely.segmentize(self.polygons, max(right - left, top - bottom) / STEPS)
        xy_2N = in_crs(shapely.get_coordinates(fine).T, self.crs, crs)
        if not np.isfinite(xy_2N).all():
            return shapely.Polygon()
        return shapely.make_valid(shapely.set_coordinates(fine, xy_2N.T))


def read_area(url: str) -> Area:
    """Read the polygons of the file at `url`.

    Raises:
        InputError: there is no such file, it has no polygon, several layers, or no CRS.
    """
    if not is_local(url):
        with tempfile.TemporaryDirectory(prefix="treeline-") as folder:
            path = Path(folder) / name_of(url)
            path.write_bytes(read_bytes(url))
            return _read(url, path)
    if not exists(url):
        raise InputError(f"{url}: no such file")
    return _read(url, local_path(url))


def _read(url: str, path: Path) -> Area:
    shapes, crs_name = (_of_geojson if path.suffix.lower() in GEOJSON else _of_geopackage)(url, path)
    shapes = shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]
    others = set(shapely.get_type_id(shapes).tolist()) - set(map(int, POLYGONS))
    if others or not shapes.size:
        names = ", ".join(sorted(shapely.GeometryType(kind).name.lower() for kind in others))
        raise InputError(f"{url}: has {names or 'no shape'}; give polygons")
    try:
        with rasterio.Env():  # GDAL's complaints go to the log, not to the terminal
            crs = CRS.from_user_input(crs_name)
    except CRSError as error:
        raise InputError(
            f"{url}: has no CRS, so its place is unknown; assign one (ogr2ogr -a_srs)"
        ) from error
    return Area(url, crs, shapely.union_all(shapely.make_valid(shapely.force_2d(shapes))))


def _of_geojson(url: str, path: Path) -> tuple[NDArray[Any], str]:
    """Read the shapes of a GeoJSON file (RFC 7946) and the name of their CRS, which older files may give."""
    values = parsed(read_json_bytes(str(path)), url, "see --area")
    try:
        crs = values["crs"]["properties"]["name"] if values.get("crs") else "OGC:CRS84"
        features = values["features"] if values["type"] == "FeatureCollection" else [values]
        geometries = [one["geometry"] if one["type"] == "Feature" else one for one in features]
        return np.array([shapely.from_geojson(json.dumps(one)) for one in geometries if one], object), crs
    except (shapely.GEOSException, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{url}: cannot be read as GeoJSON ({one_line(error)}); see --area") from error


def _of_geopackage(url: str, path: Path) -> tuple[NDArray[Any], str]:
    """Read the shapes of the only layer of a GeoPackage, and the name of their CRS."""
    check_geopackage(url, path)
    import pyogrio  # the import takes 0.3 s, which other commands need not wait for
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = [str(layer) for layer, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) != 1:
            raise InputError(
                f"{url}: has {len(layers)} layers of shapes ({', '.join(layers)}); give a file with one"
            )
        facts, table = pyogrio.read_arrow(path, layer=layers[0], columns=[])
    except (DataSourceError, DataLayerError, OSError) as error:
        raise InputError(f"{url}: cannot be read as polygons ({one_line(error)}); see --area") from error
    column = table[facts["geometry_name"] or "wkb_geometry"]
    return shapely.from_wkb(np.array(column.to_pylist(), object)), facts["crs"]
