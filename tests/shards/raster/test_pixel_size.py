"""Pixels have sizes in metres, whatever the units, the turn and the latitude of their CRS.

Expected lengths are computed by geodesics (pyproj's ellipsoid) or follow from the definition of the unit.
"""

import math

import pytest
from rasterio import Affine
from rasterio.crs import CRS

from shards.format.schema import Schema
from shards.raster.grid import Grid
from shards.raster.pixel_size import PixelSize, angle_of, suitable_crs, warp_command

FOOT = 0.3048
SURVEY_FOOT = 1200 / 3937
TRAINED = PixelSize.of_schema(Schema(("red",)))
UTM = Affine(2, 0, 500_000, 0, -2, 7_200_000)


def grid(crs: str, transform: Affine, side: int = 200) -> Grid:
    return Grid(CRS.from_user_input(crs), transform, side, side)


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32606", UTM, (2, 2)),
        ("EPSG:3338", Affine(2, 0, 200_000, 0, -2, 2_300_000), (2, 2)),
        ("EPSG:2222", Affine(2, 0, 700_000, 0, -2, 900_000), (2 * FOOT, 2 * FOOT)),
        ("EPSG:2225", Affine(3, 0, 6_500_000, 0, -3, 2_000_000), (3 * SURVEY_FOOT, 3 * SURVEY_FOOT)),
        ("+proj=utm +zone=6 +units=km", Affine(0.002, 0, 500, 0, -0.002, 7200), (2, 2)),
        ("EPSG:32606", Affine(2, 0, 500_000, 0, -4, 7_200_000), (2, 4)),
        ("EPSG:32606", Affine(2, 0, 500_000, 0, 2, 7_200_000), (2, 2)),  # south up
        ("EPSG:32606", UTM @ Affine.rotation(30), (2, 2)),
        ("EPSG:32606", UTM @ Affine.rotation(90), (2, 2)),
        # On the equator one degree is 111,319.49 m wide and 110,574.28 m high (WGS 84).
        ("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 0.001), (1.1131949, 1.1057428)),
        # At 60 degrees north 55,800 m and 111,412 m (tables of WGS 84).
        ("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 60.001), (0.55800, 1.11412)),
        # The Mercator projection of the sphere stretches by 1 / cos(latitude), here at 65 degrees.
        ("EPSG:3857", Affine(2, 0, 0, 0, -2, 9_608_371), (0.8463, 0.8449)),
    ],
)
def test_a_pixel_has_a_size_in_metres(crs: str, transform: Affine, metres: tuple[float, float]) -> None:
    assert PixelSize.of(grid(crs, transform)).metres == pytest.approx(metres, rel=2e-3)


@pytest.mark.parametrize(
    ("crs", "transform", "command"),
    [
        ("EPSG:32606", Affine(1, 0, 500_000, 0, -1, 7_200_000), "gdalwarp -tr 2 2 "),
        ("EPSG:2222", Affine(2, 0, 700_000, 0, -2, 900_000), "gdalwarp -t_srs EPSG:32612 -tr 2 2 "),
        ("EPSG:4326", Affine(2e-5, 0, -150, 0, -2e-5, 65), "gdalwarp -t_srs EPSG:3338 -tr 2 2 "),
        ("EPSG:4326", Affine(2e-5, 0, 10, 0, -2e-5, 60), "gdalwarp -t_srs EPSG:32632 -tr 2 2 "),
        ("EPSG:4326", Affine(2e-5, 0, -60, 0, -2e-5, -10), "gdalwarp -t_srs EPSG:32721 -tr 2 2 "),
        ("EPSG:3857", Affine(2, 0, 0, 0, -2, 9_608_371), "gdalwarp -t_srs EPSG:32631 -tr 2 2 "),
    ],
)
def test_other_pixels_are_not_alike_and_the_cure_makes_them_so(
    crs: str, transform: Affine, command: str
) -> None:
    asked = grid(crs, transform)
    assert not PixelSize.of(asked).is_like(TRAINED)
    assert warp_command(asked, TRAINED).startswith(command)


def test_the_pixels_of_training_are_alike_in_any_unit() -> None:
    in_feet = PixelSize.of(grid("EPSG:2222", Affine(2 / FOOT, 0, 700_000, 0, -2 / FOOT, 900_000)))
    assert in_feet.is_like(TRAINED)
    assert PixelSize.of(grid("EPSG:32606", UTM)).is_like(TRAINED)


def test_oblong_pixels_of_degrees_are_like_those_of_the_same_degrees() -> None:
    degrees = Affine(5.5e-6, 0, -120, 0, -5.5e-6, 39)
    trained = PixelSize.of(grid("EPSG:4326", degrees))
    recorded = PixelSize.of_schema(Schema(("red",), **trained.for_schema()))
    assert recorded.metres == pytest.approx(trained.metres, rel=1e-5)
    assert PixelSize.of(grid("EPSG:4326", Affine(5.5e-6, 0, -120, 0, -5.5e-6, 45))).is_like(recorded)
    assert not PixelSize.of(grid("EPSG:4326", Affine(5.5e-6, 0, -120, 0, -9e-6, 39))).is_like(recorded)
    assert not PixelSize.of(grid("EPSG:32610", Affine(0.5, 0, 5e5, 0, -0.5, 4.3e6))).is_like(recorded)
    assert recorded.is_oblong
    assert not TRAINED.is_oblong


def test_a_dataset_of_before_that_records_degrees_reads_such_scenes() -> None:
    before = PixelSize.of_schema(Schema(("red",), pixel_size=5.5e-6))
    assert PixelSize.of(grid("EPSG:4326", Affine(5.5e-6, 0, -120, 0, -5.5e-6, 39))).is_like(before)
    assert not PixelSize.of(grid("EPSG:32610", UTM)).is_like(before)


def test_square_metres_are_recorded_as_before() -> None:
    assert PixelSize.of(grid("EPSG:32606", UTM)).for_schema() == {"pixel_size": 2.0}
    schema = Schema(("red",), **PixelSize.of(grid("EPSG:2222", UTM)).for_schema())
    assert Schema.from_json(schema.to_json()) == schema
    assert "pixel_unit" not in Schema(("red",)).to_json()


@pytest.mark.parametrize("turn", [0, 30, 90, -45])
def test_a_turned_grid_is_known_by_its_angle(turn: float) -> None:
    transform = Affine.translation(500_000, 7_200_000) @ Affine.rotation(turn) @ Affine.scale(2, -2)
    assert math.isclose(angle_of(grid("EPSG:32606", transform)), turn, abs_tol=1e-6)


def test_south_up_is_not_turned() -> None:
    assert angle_of(grid("EPSG:32606", Affine(2, 0, 500_000, 0, 2, 7_200_000))) == 0


@pytest.mark.parametrize(
    ("longitude", "latitude", "crs"),
    [(-150, 65, "EPSG:3338"), (179.9, 60, "EPSG:32660"), (-179.9, 60, "EPSG:32601"), (0, 85, "EPSG:32661")],
)
def test_the_crs_that_is_named_has_the_place_in_its_area(longitude: float, latitude: float, crs: str) -> None:
    assert suitable_crs(grid("EPSG:4326", Affine(1e-5, 0, longitude, 0, -1e-5, latitude), 10)) == crs
