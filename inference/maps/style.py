"""Style of a map: a .qml file beside it, of the same name, with which QGIS opens the map in colour.

Its elements are those that QGIS writes itself (singlebandpseudocolor and paletted renderers of QGIS 3).
Values are in the band's unit, because QGIS applies a band's scale before it looks for a colour.
"""

from typing import Any
from xml.etree import ElementTree

from inference.maps.map_file import CLASSES_TAG, classes_of
from inference.maps.quick_look import small_heights
from shards.draw.colours import ColourScale, Palette, height_scale, hexadecimal, value_scale
from shards.draw.picture import colour_limits
from shards.raster.opening import open_raster
from shards.storage.objects import name_of, publish, stem_of

ENDING = ".qml"
HEADER = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
STOPS = 16
"""Colours of a continuous scale; QGIS interpolates between them."""

_PIXELS = 512
_BELOW_EDGE = 5e-4
"""Metres below an edge at which a class ends: QGIS counts a value at the end of a class to that class."""


def style_url(map_url: str) -> str:
    """Return the URL of a map's style: SCENE.chm.qml beside SCENE.chm.tif."""
    return map_url.removesuffix(name_of(map_url)) + stem_of(map_url) + ENDING


def write_style(map_url: str, palette: Palette = "continuous") -> str:
    """Write the style of the map at `map_url` beside it, and return its URL.

    Raises:
        InputError: the map cannot be read.
    """
    url = style_url(map_url)
    publish(url, style(map_url, palette))
    return url


def style(map_url: str, palette: Palette = "continuous") -> bytes:
    """Describe the colours of a map, read from its overviews; the same map gives the same bytes."""
    with open_raster(map_url) as raster:
        if CLASSES_TAG in raster.tags():
            return _document(_of_classes(raster))
        value_HW = small_heights(raster, _PIXELS)
        if raster.dtypes[0] == "int16":
            return _document(_of_scale(height_scale(value_HW, palette), "m"))
        return _document(_of_scale(value_scale(*colour_limits(value_HW)), raster.units[0] or ""))


def _of_classes(raster: Any) -> ElementTree.Element:
    """Show each class in its own colour, under its name."""
    renderer = _renderer("paletted")
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for one in classes_of(raster):
        colour = hexadecimal(one.colour)
        ElementTree.SubElement(
            entries, "paletteEntry", value=str(one.number), color=colour, label=one.name, alpha="255"
        )
    return renderer


def _of_scale(scale: ColourScale, unit: str) -> ElementTree.Element:
    """Show values of the first band."""
    low, high = f"{scale.low:.9g}", f"{scale.high:.9g}"
    renderer = _renderer("singlebandpseudocolor")
    renderer.attrib |= {"classificationMin": low, "classificationMax": high}
    ramp = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="DISCRETE" if scale.names else "INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=low,
        maximumValue=high,
    )
    for value, name, colour in _stops(scale, unit):
        ElementTree.SubElement(ramp, "item", value=value, label=name, color=hexadecimal(colour), alpha="255")
    return renderer


def _stops(scale: ColourScale, unit: str) -> list[tuple[str, str, tuple[int, int, int]]]:
    """List value, name and colour of each stop of a ramp; of a class its end."""
    if scale.names:
        ends = [*(f"{edge - _BELOW_EDGE:.9g}" for edge in scale.edges), "inf"]
        return list(zip(ends, scale.names, scale.colours, strict=True))
    values = [scale.low + (scale.high - scale.low) * step / (STOPS - 1) for step in range(STOPS)]
    return [(f"{value:.9g}", f"{value:.3g} {unit}".strip(), scale.colour(value)) for value in values]


def _renderer(kind: str) -> ElementTree.Element:
    return ElementTree.Element(
        "rasterrenderer", type=kind, band="1", opacity="1", alphaBand="-1", nodataColor=""
    )


def _document(renderer: ElementTree.Element) -> bytes:
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    ElementTree.SubElement(root, "pipe").append(renderer)
    ElementTree.indent(root)
    return (HEADER + ElementTree.tostring(root, encoding="unicode") + "\n").encode()
