"""Names of a raster's bands: those it states, those the user gives, and what other producers call the same.

    names = band_names(raster, given, expected)
    numbers = numbers_of_bands(url, names, wanted)

Names are alike regardless of case, spaces and punctuation, and by the synonyms of SYNONYMS.
"""

import re
from collections.abc import Sequence
from typing import Any

from rasterio.enums import ColorInterp

from shards.errors import InputError

ALPHA = "alpha"
KNOWN_BANDS = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir2"),
}
"""Bands of WorldView-2/3 images by their number, for rasters that do not name their bands."""
SYNONYMS = {
    "coastal": ("c", "bandc", "coastalblue", "coastalaerosol", "aerosol"),
    "blue": ("b", "bandb"),
    "green": ("g", "bandg", "greenii"),
    "yellow": ("y", "bandy"),
    "red": ("r", "bandr"),
    "rededge": ("re", "bandre", "rededge1"),
    "nir": ("n", "bandn", "nir1", "n1", "nearinfrared", "nearinfrared1", "nearir"),
    "nir2": ("n2", "bandn2", "nearinfrared2", "nearir2"),
}
"""Other names of bands, by Maxar (WorldView: BAND_N, NIR1) and Planet (SuperDove: Green II, Coastal Blue)."""
_CANONICAL = {other: name for name, others in SYNONYMS.items() for other in others}
_NUMBERED = re.compile(r"(band|layer|b)?[\s_-]*\d+", re.IGNORECASE)
"""A description that says nothing: "Band 1", "B2", which differs between sensors."""


def band_names(raster: Any, given: Sequence[str], expected: Sequence[str] = ()) -> tuple[str, ...]:
    """Name each band: by `given`, the bands' descriptions, `expected`, or WorldView's names for their number.

    An alpha band needs no name, and is ALPHA then.

    Raises:
        InputError: none of these has a name for each band.
    """
    kinds = raster.colorinterp
    # GDAL calls the fourth of four bands of bytes alpha unless told otherwise, so it may have a name.
    colours = [place for place, kind in enumerate(kinds) if kind != ColorInterp.alpha]
    described = [raster.descriptions[place] or "" for place in range(raster.count)]
    if any(_NUMBERED.fullmatch(name.strip()) for name in described):
        described = [""] * raster.count
    own = described if all(described) else [described[place] for place in colours]
    known = (KNOWN_BANDS.get(count, ()) for count in (raster.count, len(colours)))
    for names in (given, own if all(own) else (), expected, *known):
        if len(names) == raster.count:
            return tuple(names)
        if names and len(names) == len(colours):
            named = dict(zip(colours, names, strict=True))
            return tuple(named.get(place, ALPHA) for place in range(raster.count))
        if names is given and given:
            break
    wanted = f" where {len(given or expected)} are asked for ({' '.join(given or expected)})" * bool(
        given or expected
    )
    number = "1 band" if raster.count == 1 else f"{raster.count} bands"
    raise InputError(f"{raster.name}: has {number}{wanted}; name them with --bands")


def canonical(name: str) -> str:
    """Return what all names of a band are compared as."""
    plain = re.sub(r"[\s_.()/-]+", "", name).lower()
    return _CANONICAL.get(plain, plain)


def numbers_of_bands(url: str, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the number, from 1, of each band that is wanted: the one of this name, else of a synonym.

    Raises:
        InputError: a band is not there, or two can be meant.
    """
    numbers, missing = list[int](), list[str]()
    alike = [canonical(name) for name in names]
    for band in wanted:
        places = [place for place, name in enumerate(names) if name == band]
        places = places or [place for place, name in enumerate(alike) if name == canonical(band)]
        if len(places) > 1:
            meant = " and ".join(f"{place + 1} ({names[place]})" for place in places)
            raise InputError(f"{url}: bands {meant} can both be {band}; name the bands in order with --bands")
        missing += [band] * (not places)
        numbers += [place + 1 for place in places]
    if missing:
        raise InputError(
            f"{url}: lacks band {' and '.join(missing)}; it has {' '.join(names)}; if these are other names "
            "for the same bands, name them in order with --bands"
        )
    return numbers
