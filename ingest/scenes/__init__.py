"""Cut chips from scenes: images matched with height rasters.

scenes_source    images and height rasters
scene_matching   which rasters serve which image
scene_table      the chips of a scene's grid
strips           rows of chips, read once
image_grid       rasters on an image's grid
"""
