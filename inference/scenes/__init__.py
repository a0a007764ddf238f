"""Find and open scenes.

scene         a scene open for prediction
scene_list    scenes from files, patterns, folders, lists
stac_scenes   scenes that STAC names
"""
