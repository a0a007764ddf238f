"""Cut chips from scenes: images and the height rasters that match them.

scenes_source    a source of images and height rasters
scene_matching   rasters that serve an image: heights, ground, masks
scene_table      the table of candidate chips
strips           rows of chips, read once
image_grid       rasters on an image's grid
image_check      what is strange about images
label_check      what is strange about heights
"""
