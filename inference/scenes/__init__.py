"""Find and open scenes.

scene         a scene open for prediction
finding       what is found in a scene that is unlike training
scene_list    scenes from files, patterns, folders, lists
stac_scenes   scenes that STAC names
"""
