"""Find and open scenes.

scene         a scene open for prediction
masks         masks of scenes, and the pixels that they drop
area          polygons of a vector file
scene_list    scenes from files, patterns, folders, lists
stac_scenes   scenes that STAC names
"""
