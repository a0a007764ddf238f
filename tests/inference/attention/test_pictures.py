"""Tables of pictures: nothing is turned, nothing is lost, and colours mean what the legend says."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from inference.attention.pictures import (
    CLASS_COLOURS,
    MOST_ACROSS,
    NAMED_COLOURS,
    Picture,
    classes,
    colours_of,
    folded,
    pictures_in_rows,
    quantity,
    table_of,
    three_bands,
)

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
CORNERS = np.array([[RED, GREEN], [BLUE, BLACK]], np.uint8).repeat(20, 0).repeat(20, 1)


def drawn(png: bytes) -> NDArray[np.uint8]:
    return (imread(io.BytesIO(png), "png")[..., :3] * 255).round().astype(np.uint8)


def middle(rgb_HW3: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Mean row and column of a colour's pixels."""
    found_N2 = np.argwhere((rgb_HW3 == colour).all(-1))
    assert found_N2.size, colour
    return found_N2.mean(0)


@pytest.mark.parametrize("names", [(), ("a long name of a tile",)])
def test_a_picture_stands_as_its_raster_does(names: tuple[str, ...]) -> None:
    png = pictures_in_rows([[Picture(CORNERS, "a title that takes more than one line")]], names)
    red, green, blue = (middle(drawn(png), colour) for colour in (RED, GREEN, BLUE))
    side = green[1] - red[1]
    assert side > 50
    np.testing.assert_allclose(green - red, (0, side), atol=1)
    np.testing.assert_allclose(blue - red, (side, 0), atol=1)


def test_a_tall_picture_keeps_its_form() -> None:
    red, _, blue = (
        middle(drawn(pictures_in_rows([[Picture(CORNERS.repeat(5, 0))]])), colour)
        for colour in (RED, GREEN, BLUE)
    )
    green = middle(drawn(pictures_in_rows([[Picture(CORNERS.repeat(5, 0))]])), GREEN)
    assert (blue - red)[0] / (green - red)[1] == pytest.approx(5, rel=0.05)


def test_rows_and_columns_are_in_their_order() -> None:
    plain = [Picture(np.full((8, 8, 3), colour, np.uint8)) for colour in (RED, GREEN, BLUE)]
    rgb_HW3 = drawn(pictures_in_rows([[plain[0], plain[1]], [plain[2]]], ("one", "two")))
    red, green, blue = (middle(rgb_HW3, colour) for colour in (RED, GREEN, BLUE))
    assert green[1] > red[1] + 50
    assert blue[0] > red[0] + 50
    assert blue[1] == pytest.approx(red[1], abs=1)
    again = pictures_in_rows([[plain[0], plain[1]], [plain[2]]], ("one", "two"))
    assert (drawn(again) == rgb_HW3).all()


def test_titles_stand_once_and_scales_once() -> None:
    one = quantity(np.zeros((4, 4)), (0.0, 1.0), "ndvi")
    rows = table_of([[one, one], [one, one], [one, one]])
    assert [[bool(p.title) for p in row] for row in rows] == [[True] * 2, [False] * 2, [False] * 2]
    assert [[bool(p.limits) for p in row] for row in rows] == [[False] * 2, [False] * 2, [True] * 2]
    (alone,) = table_of([[one]])
    assert (alone[0].title, alone[0].limits) == ("ndvi", (0.0, 1.0))


def test_all_pictures_of_a_tile_fit_in_rows() -> None:
    for count in range(1, 40):
        pictures = [Picture(CORNERS, str(n)) for n in range(count)]
        rows = folded(pictures)
        assert [one.title for row in rows for one in row] == [one.title for one in pictures]
        assert max(map(len, rows)) <= MOST_ACROSS


def test_colours_of_classes() -> None:
    """A colour table counts most, then the name; no two classes look alike while there are colours."""
    names = {1: "Open water", 2: "Evergreen forest", 3: "Forest, burnt"}
    colours = colours_of([4, 3, 2, 1], names, {})
    assert list(colours) == [1, 2, 3, 4]
    assert colours[1] == NAMED_COLOURS["water"]
    assert colours[2] == NAMED_COLOURS["forest"]
    assert len(set(colours.values())) == 4
    assert colours_of([1, 2], names, {1: (9, 8, 7)}) == {1: (9, 8, 7), 2: NAMED_COLOURS["forest"]}
    assert len(set(colours_of(range(len(CLASS_COLOURS)), {}, {}).values())) == len(CLASS_COLOURS)
    assert len(colours_of(range(40), {}, {})) == 40
    rgb_HW3 = classes(np.array([[1, 2], [np.nan, 1]]), {1: RED, 2: BLUE}, "cover").rgb_HW3
    assert rgb_HW3.tolist() == [[[*RED], [*BLUE]], [[255] * 3, [*RED]]]


def test_missing_pixels_are_white() -> None:
    value_3HW = np.array([[[0.0, 1.0]], [[0.0, np.nan]], [[0.0, 1.0]]])
    rgb_HW3 = three_bands(value_3HW, np.zeros(3), np.ones(3), "rgb").rgb_HW3
    assert rgb_HW3.tolist() == [[[0] * 3, [255] * 3]]
    assert quantity(np.array([[np.nan]]), (0.0, 1.0), "x").rgb_HW3.tolist() == [[[255] * 3]]
