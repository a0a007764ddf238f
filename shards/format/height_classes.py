"""The eight height classes of the treeline maps: edges in metres and names."""

from itertools import pairwise

EDGES = (0.0, 0.001, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 35.0)
"""Edges of the classes in metres. Class i is EDGES[i] <= height < EDGES[i + 1]; lower heights count to the
first class, higher ones to the last."""

NAMES = (
    "0 m",
    *(f"{low:g}-{high:g} m" for low, high in pairwise(EDGES[1:-1])),
    "10 m and up",
)
