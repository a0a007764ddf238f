"""Names of a raster's bands: those it states, those the user gives, and what other producers call the same.

    names, assumed = named_bands(raster, given, expected)
    numbers = numbers_of_bands(url, names, wanted)

A band is named by the user, by its description, by its colour interpretation, or by its place alone: then the
name is assumed, and that is said. Names are alike regardless of case, spaces and punctuation, and by the
synonyms of SYNONYMS.
"""

import re
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from rasterio.enums import ColorInterp

from shards.errors import InputError
from shards.raster.finding import Finding
from shards.wording import Option, Words

ALPHA = "alpha"
BANDS = Option("bands")
KNOWN_BANDS = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "nir2"),
}
"""Bands of WorldView-2/3 images by their number, for rasters that do not name their bands."""
PLANET_BANDS = ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")
"""Bands of PlanetScope's SuperDove images, which are as many as WorldView's."""
COLOURS = ("coastal", "blue", "green", "red", "rededge", "nir", "swir", "pan")
"""Colour interpretations that name a band of an image; yellow is a printer's."""
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


class NamedBands(NamedTuple):
    """Names of all bands of a raster, in its order."""

    names: tuple[str, ...]
    assumed: str = ""
    """What is said of names that neither the user nor the file states; "" if all are stated."""

    def findings(self) -> tuple[Finding, ...]:
        """Say that names are assumed; pixels are those of named bands, so no tag says it."""
        if not self.assumed:
            return ()
        cure = Words("if they are others, give ", BANDS)
        if self.names == KNOWN_BANDS[len(PLANET_BANDS)]:
            cure = Words(cure, ", for PlanetScope's ", Option("bands", PLANET_BANDS))
        return (Finding("bands", self.assumed, cure, is_recorded=False),)


def band_names(raster: Any, given: Sequence[str], expected: Sequence[str] = ()) -> tuple[str, ...]:
    """Name each band; see `named_bands`."""
    return named_bands(raster, given, expected).names


def named_bands(raster: Any, given: Sequence[str], expected: Sequence[str] = ()) -> NamedBands:
    """Name each band: by `given`, descriptions, colours, `expected`, or WorldView's names for their number.

    An alpha band needs no name, and is ALPHA then. Colours count if the bands that are expected are among
    them.

    Raises:
        InputError: none of these has a name for each band.
    """
    # GDAL calls the fourth of four bands of bytes alpha unless told otherwise, so it may have a name.
    is_colour = [kind != ColorInterp.alpha for kind in raster.colorinterp]
    described = [name or "" for name in raster.descriptions]
    if any(_NUMBERED.fullmatch(name.strip()) for name in described):
        described = [""] * raster.count
    own = described if all(described) else list(compress(described, is_colour))
    if names := _placed(given or (own if all(own) else ()), is_colour):
        return NamedBands(names)
    known = (KNOWN_BANDS.get(count, ()) for count in (raster.count, sum(is_colour)))
    guesses = [] if given else [names for names in (expected, *known) if _placed(names, is_colour)]
    colours = _colours(raster)
    by_colour = () if given else _by_colour(colours, is_colour, expected, guesses)
    if by_colour:
        # GDAL calls three or four bands of bytes red, green and blue unless told otherwise.
        is_sure = raster.dtypes[0] != "uint8" or by_colour == _placed(expected, is_colour)
        if is_sure and all(map(_said_by, by_colour, colours)):
            return NamedBands(by_colour)
        taken = " ".join(name for name in by_colour if name != ALPHA)
        return NamedBands(by_colour, f"bands have no names; taken as {taken} by their colours")
    if guesses and (guesses[0] is expected or not any(colours)):
        names = _placed(guesses[0], is_colour)
        taken = " ".join(name for name in names if name != ALPHA)
        said = f"bands have no names; taken as {taken} in this order"
        but = f", although their colours are {' '.join(filter(None, colours))}" * any(colours)
        return NamedBands(names, said + but)
    wanted = f" where {len(given or expected)} are asked for ({' '.join(given or expected)})" * bool(
        given or expected
    )
    number = "1 band" if raster.count == 1 else f"{raster.count} bands"
    raise InputError(Words(f"{raster.name}: has {number}{wanted}; name them with ", BANDS))


def _placed(names: Sequence[str], is_colour: Sequence[bool]) -> tuple[str, ...]:
    """Give names to all bands, or to all but alpha bands; () where there are more or fewer names."""
    if len(names) == len(is_colour):
        return tuple(names)
    if not names or len(names) != sum(is_colour):
        return ()
    left = iter(names)
    return tuple(next(left) if is_named else ALPHA for is_named in is_colour)


def _colours(raster: Any) -> list[str]:
    """Return the names that the colour interpretation has for bands, "" for others; [] if one comes twice."""
    found = [kind.name if kind.name in COLOURS else "" for kind in raster.colorinterp]
    stated = list(filter(None, found))
    return found if len(set(stated)) == len(stated) else []


def _by_colour(
    colours: Sequence[str],
    is_colour: Sequence[bool],
    expected: Sequence[str],
    guesses: Sequence[Sequence[str]],
) -> tuple[str, ...]:
    """Name bands by their colours, and those that have none by what is left of a guess; () if that fails."""
    stated, wanted = set(filter(None, colours)), set(map(canonical, expected))
    if not stated:
        return ()
    free = [place for place, name in enumerate(colours) if not name]
    unnamed = [place for place in free if is_colour[place]]
    if not free and wanted <= stated:
        return tuple(colours)
    for guess in guesses:
        placed = _placed(guess, is_colour)
        if all(not colour or _said_by(name, colour) for name, colour in zip(placed, colours, strict=True)):
            return placed
        others = {canonical(name) for name in guess}
        left = others - stated
        last = unnamed or free
        if len(left) == len(last) == 1 and stated < others and wanted <= others:
            return tuple(
                name or (*left,)[0] if n in last or name else ALPHA for n, name in enumerate(colours)
            )
    return tuple(name or ALPHA for name in colours) if not unnamed and wanted <= stated else ()


def _said_by(name: str, colour: str) -> bool:
    return name == ALPHA or canonical(name) == colour


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
            raise InputError(
                Words(f"{url}: bands {meant} can both be {band}; name the bands in order with ", BANDS)
            )
        missing += [band] * (not places)
        numbers += [place + 1 for place in places]
    if missing:
        lacks = f"{url}: lacks band {' and '.join(missing)}; it has {' '.join(names)}"
        raise InputError(
            Words(lacks, "; if these are other names for the same bands, name them in order with ", BANDS)
        )
    return numbers
