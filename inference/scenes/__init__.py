"""Find and open scenes.

scene         a scene open for prediction
array_pixels  an array as the pixels of a scene
finding       what is found in a scene that is unlike training
scene_list    scenes from files, patterns, folders, lists
stac_scenes   scenes that STAC names
"""
