"""Scenes that STAC names: in an item, in a collection of items in one file, or in a linked catalog.

Names and fields follow the STAC specification, 1.0 and 1.1 (https://github.com/radiantearth/stac-spec).
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shards.errors import InputError
from shards.storage.objects import read_bytes

SCENE_ROLES = {"data", "reflectance"}
OTHER_ROLES = {"thumbnail", "overview", "visual", "metadata"}
FOLLOWED = ("item", "child", "next")
"""Link relations that are followed; "next" is the next page of a search result."""

_REQUESTS = 32
Located = Callable[[str, str, str], str]
"""Resolver of links: located(href, document, by) returns a URL; InputError if it cannot be read from."""


def assets_of_items(url: str, asset: str, located: Located) -> Iterator[tuple[str, str, str]]:
    """Find each item's scene, in or below the document at `url`: its href, its document, a name for messages.

    Args:
        url: URL of an Item, a FeatureCollection, a Catalog or a Collection.
        asset: key of the asset that is the scene; "": the only one that can be.
        located: resolver of links.

    Raises:
        InputError: a document is missing or is not STAC, an item lacks the asset or has several that could be
            meant, or there is no item at all.
    """
    none = True
    for document_url, item in _items(url, located):
        none, by = False, f"{document_url}, item {item.get('id', 'without id')}"
        yield _href_of(item, asset, by), document_url, by
    if none:
        raise InputError(f"{url}: has no items, and its links (item, child) lead to none")


def _items(url: str, located: Located) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find each item and its document, level after level of the links."""
    level, seen = [(url, "")], {url}
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        while level:
            links: list[tuple[str, str]] = []
            for (at, _), document in zip(level, pool.map(_document, level), strict=True):
                if document["type"] == "Feature":
                    yield at, document
                    continue
                for feature in document.get("features", ()):
                    yield at, _an_object(feature, f"{at}: one of its features")
                for link in document.get("links", ()):
                    link = _an_object(link, f"{at}: one of its links")
                    if link.get("rel") in FOLLOWED:
                        by = f"{at}, link {link['rel']}"
                        if not isinstance(link.get("href"), str):
                            raise InputError(f"{by}: is not STAC: it has no href")
                        target = located(link["href"], at, by)
                        if target not in seen:
                            seen.add(target)
                            links.append((target, at))
            level = links
    finally:
        pool.shutdown(cancel_futures=True)


def _document(link: tuple[str, str]) -> dict[str, Any]:
    url, by = link
    where = f"{by}: {url}" if by else url
    try:
        document = json.loads(read_bytes(url))
    except InputError as error:
        raise InputError(f"{by}: {error}" if by else str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    document = _an_object(document, where)
    if document.get("type") not in ("Feature", "FeatureCollection", "Catalog", "Collection"):
        raise InputError(
            f"{where}: is not STAC: its type is {document.get('type')!r}, not Feature, FeatureCollection, "
            "Catalog or Collection"
        )
    for field in ("features", "links"):
        if not isinstance(document.get(field, []), list):
            raise InputError(f"{where}: is not STAC: its {field} are not a list")
    return document


def _an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is not STAC: not an object with fields")
    return value


def _href_of(item: dict[str, Any], asset: str, by: str) -> str:
    """Return the href of an item's scene."""
    assets = item.get("assets")
    if not isinstance(assets, dict) or not all(
        isinstance(value, dict) and isinstance(value.get("href"), str) for value in assets.values()
    ):
        raise InputError(f"{by}: is not a STAC item: it has no assets with an href each")
    there = ", ".join(assets) or "none"
    if asset:
        if asset not in assets:
            raise InputError(f"{by}: has no asset {asset}; its assets are {there}")
        return str(assets[asset]["href"])
    roles = {key: _roles(value) for key, value in assets.items()}
    by_role = {key for key in assets if roles[key] & SCENE_ROLES}
    by_type = {key for key in assets if _is_geotiff(assets[key]) and not roles[key] & OTHER_ROLES}
    meant = (by_role & by_type) or by_role or by_type
    if len(meant) != 1:
        which = f"any of {', '.join(sorted(meant))}" if meant else "none of its assets by role or type"
        raise InputError(f"{by}: the scene can be {which}; choose with --asset from {there}")
    return str(assets[meant.pop()]["href"])


def _roles(asset: dict[str, Any]) -> set[str]:
    roles = asset.get("roles")
    return set(map(str, roles)) if isinstance(roles, list) else set()


def _is_geotiff(asset: dict[str, Any]) -> bool:
    """Tell a GeoTIFF by its media type, or by its ending where there is none."""
    media_type = asset.get("type") or ""
    if not media_type:
        return str(asset["href"]).lower().endswith((".tif", ".tiff", ".vrt"))
    return str(media_type).startswith(("image/tiff", "image/vnd.stac.geotiff"))
