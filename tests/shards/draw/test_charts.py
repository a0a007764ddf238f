"""Histograms of bands: a smooth distribution of whole numbers, of a scale or derived, has no comb."""

import numpy as np
import pytest

from shards.draw.charts import band_edges
from shards.format.schema import Schema, with_values

SCHEMA = with_values(
    Schema(("vv", "vh", "hh"), "uint8", None, 8),
    ("d = vv - vh", "s = vv + vh", "e = vv - hh"),
    ("30/255", "hh=0.2"),
    ("-30", "vh=-29.95"),
)


@pytest.mark.parametrize("span", [(-13.3, -7.1), (-29.9, 0.0), (-14.02, -13.1)])
@pytest.mark.parametrize(("band", "offset"), [("vv", -30.0), ("hh", -30.0), ("d", -0.05), ("s", -59.95)])
def test_each_bin_holds_equally_many_possible_values(
    band: str, offset: float, span: tuple[float, float]
) -> None:
    step = 0.2 if band == "hh" else 30 / 255
    edges = band_edges(SCHEMA, band, *span)
    assert edges[0] <= span[0]
    assert edges[-1] >= span[1]
    possible = offset + step * np.arange(-2000, 2000)
    for shifted in (possible, possible * (1 + 2.0**-12)):  # as exact as a bin of float32
        within = shifted[(shifted > edges[0]) & (shifted < edges[-1])]
        assert len(set(np.histogram(within, edges)[0].tolist())) == 1


def test_any_value_is_possible_of_floats_and_of_bands_of_two_scales() -> None:
    floats = Schema(("vv",), "float32", None, 8)
    for schema, band in ((floats, "vv"), (SCHEMA, "e")):
        edges = band_edges(schema, band, -3.0, 5.0)
        assert (edges[0], edges[-1]) == (-3.0, 5.0)
