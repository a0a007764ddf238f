"""Colours of a map's classes, the same for the same place in the list of classes."""

import colorsys
from dataclasses import dataclass

OKABE_ITO = ("#009e73", "#e69f00", "#f0e442", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#000000")
"""Colours that the colour-blind can tell apart, green first (Okabe and Ito, https://jfly.uni-koeln.de/color)."""
GOLDEN = 0.618033988749895
"""Golden ratio minus 1: multiples of it, modulo 1, keep hues apart however many there are."""


@dataclass(frozen=True)
class MapClass:
    """A class of a map."""

    number: int
    """Value of its pixels."""
    name: str
    colour: tuple[int, int, int]
    """Red, green and blue, 0..255."""


def coloured_classes(classes: tuple[tuple[int, str], ...]) -> tuple[MapClass, ...]:
    """Give each class, number and name, a colour of its own."""
    return tuple(MapClass(number, name, colour_of(place)) for place, (number, name) in enumerate(classes))


def colour_of(place: int) -> tuple[int, int, int]:
    """Return red, green and blue, 0..255, of the class at this place of the list."""
    if place < len(OKABE_ITO):
        text = OKABE_ITO[place]
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    turn = place - len(OKABE_ITO)
    # Brightness changes with every turn as well, so that neighbours in hue differ in it.
    red, green, blue = colorsys.hsv_to_rgb(turn * GOLDEN % 1, 0.65, 0.95 - 0.15 * (turn % 3))
    return round(255 * red), round(255 * green), round(255 * blue)
