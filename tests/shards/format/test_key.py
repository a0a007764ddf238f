"""Facts in the names of scenes, as their producers write them."""

import pytest

from shards.format.key import facts


@pytest.mark.parametrize(
    ("name", "sensor", "day"),
    [
        ("20200722_203412_1012_3B_AnalyticMS_SR.tif", "PlanetScope", "2020-07-22"),
        ("20230701_190000_12_24a1_3B_AnalyticMS_SR_8b.tif", "PlanetScope", "2023-07-01"),
        ("maps/20230701_190000_12_24a1_3B_AnalyticMS_SR_8b.chm.tif", "PlanetScope", "2023-07-01"),
        ("20230701_190000_12_24a1_3B_AnalyticMS_SR_8b_00064_00128", "PlanetScope", "2023-07-01"),
        ("m_4207101_ne_19_060_20210909.tif", "NAIP", "2021-09-09"),
        ("m_3812245_se_10_h_20180722_20190209.tif", "NAIP", "2018-07-22"),
        ("T06WVB_20200722T212531_B04_10m.jp2", "Sentinel-2", "2020-07-22"),
        ("S2A_MSIL2A_20200722T212531_N0214_R043_T06WVB_20200722T235126.SAFE", "Sentinel-2", "2020-07-22"),
        ("WV02_20150802_M1BS_1030010047ADDD00-toa.tif", "WV02", "2015-08-02"),
        ("20201322_203412_1012_3B_AnalyticMS.tif", None, None),  # the 13th month
        ("20200722_site_a.tif", None, None),
        ("m_site_20210909.tif", None, None),
    ],
)
def test_names_of_scenes_say_sensor_and_day(name: str, sensor: str | None, day: str | None) -> None:
    found = facts(name)
    assert (found.sensor, found.acquired) == (sensor, day)


def test_names_of_other_producers_name_no_scene_so_that_splits_stay() -> None:
    assert facts("20200722_203412_1012_3B_AnalyticMS_SR").scene is None
