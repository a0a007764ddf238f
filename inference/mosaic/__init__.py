"""Combine overlapping maps.

run               treeline mosaic
common_grid       the common grid, and where maps lie on it
placed_map        maps read on that grid
overlap           whether maps overlap at all
edge_distance     distances of pixels from where their map ends
combine_heights   several observations of a pixel combined into one height
"""
