"""Find and open scenes, and see whether they are what the training was.

scene         a scene open for prediction
masks         masks of scenes, and the pixels that they drop
area          polygons of a vector file
array_pixels  an array as the pixels of a scene
scene_list    scenes from files, patterns, folders, lists
stac_scenes   scenes that STAC names
sample        a few pixels of a scene, spread over it
values        whether a scene's values are those of the training
check         whether a scene is what the training was
compared      percentiles of a scene beside those of the training
units         values in another unit
band_order    bands in another order
"""
