"""STAC 1.1 item beside a map: what the map shows, where and when, and what made it.

Fields follow the specification (https://github.com/radiantearth/stac-spec, v1.1.0) and the extensions below
(https://github.com/stac-extensions). Everything is read from the map and its name, so the same map gives the
same item. pystac would only arrange the dictionary, not compute its values; the tests validate items with it.
"""

import json
from typing import Any

import numpy as np
import shapely
from rasterio._err import CPLE_BaseError  # PROJ's errors have no public name
from rasterio.enums import WktVersion
from rasterio.warp import transform as transform_points
from shapely.geometry import Polygon, box
from shapely.geometry.base import BaseGeometry

from inference.maps.height_map import ACQUIRED, TAGS
from inference.maps.quick_look import pixel_metres, quick_look_url, small_heights
from shards.format.key import as_day, facts
from shards.format.sealed import json_bytes
from shards.raster.grid import WGS84, Grid
from shards.raster.opening import open_raster
from shards.storage.objects import name_of, publish, stem_of

ENDING = ".json"
STAC_VERSION = "1.1.0"
EXTENSIONS = ("projection/v2.0.0", "raster/v2.0.0", "processing/v1.2.0")
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ANY_TIME = ("1900-01-01T00:00:00Z", "2099-12-31T23:59:59Z")
"""Start and end for a map without a day: an item must have a time, and any image was taken between these."""

_FOOTPRINT_PIXELS = 256
_DEGREES = 6
"""Decimal places of longitudes and latitudes, which resolve 0.1 m."""


def item_url(map_url: str) -> str:
    """Return the URL of a map's item: SCENE.chm.json beside SCENE.chm.tif."""
    return map_url.removesuffix(name_of(map_url)) + stem_of(map_url) + ENDING


def write_stac_item(map_url: str, quick_look: bool = False) -> str:
    """Write the item of the map at `map_url` beside it, see `stac_item`, and return its URL."""
    url = item_url(map_url)
    publish(url, item_bytes(map_url, quick_look))
    return url


def item_bytes(map_url: str, quick_look: bool = False) -> bytes:
    """Return the content of the item's file; see `stac_item`."""
    return json_bytes(stac_item(map_url, quick_look))


def stac_item(map_url: str, quick_look: bool = False) -> dict[str, Any]:
    """Describe an existing map.

    Args:
        map_url: URL of a map as `treeline predict` writes it.
        quick_look: whether a quick look lies beside the map and becomes an asset.

    Raises:
        InputError: the map cannot be read.
    """
    with open_raster(map_url) as raster:
        where = _place(raster)
        data = {"href": f"./{name_of(map_url)}", "type": COG, "roles": ["data"], "title": "Canopy height"}
        data |= _projection(raster) | {"bands": _bands(raster)}
        tags = raster.tags()
        properties = _time(map_url, tags) | _made_by(tags) | {"proj:code": data["proj:code"]}
    assets = {"data": data}
    if quick_look:
        name = name_of(quick_look_url(map_url))
        assets["overview"] = {"href": f"./{name}", "type": "image/png", "roles": ["overview"]}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [f"https://stac-extensions.github.io/{name}/schema.json" for name in EXTENSIONS],
        "id": stem_of(map_url),
        **where,
        "properties": properties,
        "links": [],
        "assets": assets,
    }


# --- properties ---


def _time(map_url: str, tags: dict[str, str]) -> dict[str, Any]:
    """Tell when the scene was taken. At most the day is known: `datetime` is its beginning, or null."""
    known = facts(name_of(map_url))
    platform = {"platform": known.sensor.lower()} if known.sensor else {}
    day = as_day(tags.get(ACQUIRED, "")) or known.acquired
    start, end = (f"{day}T00:00:00Z", f"{day}T23:59:59Z") if day else ANY_TIME
    return {"datetime": start if day else None, "start_datetime": start, "end_datetime": end, **platform}


def _made_by(tags: dict[str, str]) -> dict[str, Any]:
    """List the map's own tags as treeline:*, and its software as the processing extension names it."""
    made = {name.removeprefix(TAGS).lower(): tags[name] for name in sorted(tags) if name.startswith(TAGS)}
    software = {"treeline": made.pop("version", "unknown")}
    return {
        "processing:level": "L4",  # output of a model (the extension's list of levels)
        "processing:software": software,
        **{f"treeline:{name}": value for name, value in made.items()},
    }


def _projection(raster: Any) -> dict[str, Any]:
    """Describe the grid. A CRS without a code is written out as WKT."""
    authority = raster.crs.to_authority(confidence_threshold=100)
    found: dict[str, Any] = {"proj:code": ":".join(authority) if authority else None}
    if not authority:
        found["proj:wkt2"] = raster.crs.to_wkt(version=WktVersion.WKT2_2019)
    return found | {
        "proj:shape": list(raster.shape),
        "proj:transform": list(raster.transform)[:6],
        "proj:bbox": list(Grid.of(raster).bounds),
    }


def _bands(raster: Any) -> list[dict[str, Any]]:
    described = zip(
        raster.descriptions, raster.dtypes, raster.nodatavals, raster.units, raster.scales, strict=True
    )
    return [
        {
            "name": name or f"band {number}",
            "data_type": dtype,
            **({} if nodata is None else {"nodata": int(nodata) if float(nodata).is_integer() else nodata}),
            **({"unit": unit} if unit else {}),
            "raster:scale": scale,
            "raster:spatial_resolution": round(pixel_metres(raster), 3),
        }
        for number, (name, dtype, nodata, unit, scale) in enumerate(described, 1)
    ]


# --- geometry ---


def _place(raster: Any) -> dict[str, Any]:
    """Find geometry and bbox in WGS 84.

    The geometry is null where the raster's CRS is not tied to the Earth, or the raster reaches beyond the
    Earth or holds a pole.
    """
    if not (raster.crs.is_projected or raster.crs.is_geographic):
        return {"geometry": None}
    try:
        footprint = _in_degrees(_footprint(raster), raster.crs)
    except CPLE_BaseError:
        return {"geometry": None}
    if footprint is None or not footprint.is_valid:
        return {"geometry": None}
    turns = _cut(footprint)
    return {"geometry": _geojson([part for parts in turns for part in parts]), "bbox": _bbox(turns)}


def _footprint(raster: Any) -> Polygon:
    """Find the convex hull of the valid pixels, in the raster's CRS; without any, the raster's outline.

    It is exact to one pixel of a small overview. Scenes are tilted strips in a frame of nodata: convex,
    except for holes and bays (clouds, water).
    """
    valid_HW = ~np.isnan(small_heights(raster, _FOOTPRINT_PIXELS))
    if not valid_HW.any():
        valid_HW[:] = True
    row_N, column_N = np.nonzero(valid_HW)
    scale_2 = np.divide(raster.shape, valid_HW.shape)
    corners = [
        raster.transform @ ((column_N + right) * scale_2[1], (row_N + down) * scale_2[0])
        for down in (0, 1)
        for right in (0, 1)
    ]
    return shapely.MultiPoint(np.concatenate(corners, axis=1).T).convex_hull


def _in_degrees(footprint: Polygon, crs: Any) -> Polygon | None:
    """Bring the footprint to WGS 84, x longitude; across the 180th meridian x continues beyond +-180.

    Returns:
        None if the footprint reaches beyond the Earth or holds a pole.
    """
    # A straight line in one CRS is a curve in another, so points are added along the sides.
    dense = shapely.segmentize(footprint, footprint.length / 64)
    x, y = dense.exterior.coords.xy
    longitudes, latitudes = transform_points(crs, WGS84, x, y)
    if not np.isfinite([longitudes, latitudes]).all():
        return None
    longitude_N = np.unwrap(longitudes, period=360)
    if abs(longitude_N[-1] - longitude_N[0]) > 180:  # once round a pole
        return None
    longitude_N[-1] = longitude_N[0]  # unwrapping rounds, and a ring that nearly closes crosses itself
    return Polygon(zip(longitude_N, latitudes, strict=True))


def _cut(footprint: Polygon) -> list[list[Polygon]]:
    """Cut a footprint in degrees at +-180, and bring each part to -180..180: parts from west to east.

    What is thinner than the last decimal place is left out.
    """
    turns: list[list[Polygon]] = []
    for turn in (-360, 0, 360):
        part = footprint.intersection(box(turn - 180, -90, turn + 180, 90))
        moved = shapely.transform(part, lambda xy, turn=turn: np.round(xy - (turn, 0), _DEGREES))
        turns.append([one for one in shapely.get_parts(moved).tolist() if one.area > 0 and one.is_valid])
    return [parts for parts in turns if parts] or [[footprint]]


def _geojson(parts: list[Polygon]) -> dict[str, Any]:
    """Convert parts of a footprint in degrees to GeoJSON, anticlockwise (RFC 7946, 3.1.6, 3.1.9)."""
    whole: BaseGeometry = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.orient_polygons(whole)))
    return geometry


def _bbox(turns: list[list[Polygon]]) -> list[float]:
    """Return west, south, east, north in degrees; west > east across the 180th meridian (RFC 7946, 5.2)."""
    bounds = [shapely.total_bounds(parts).tolist() for parts in turns]
    return [bounds[0][0], min(one[1] for one in bounds), bounds[-1][2], max(one[3] for one in bounds)]
