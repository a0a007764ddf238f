"""Datasets made from what people have: chip pairs, tables, tars, whole scenes, or a synthetic landscape."""
