"""Predict maps, here or on Ray.

run           treeline predict
map_folder    what is at --out, and whether maps may go there
map_options   the options that a map depends on
block         one block: windows predicted and blended
predictor     a regressor in memory that predicts blocks
block_tasks   a block as a task, its pixels, and its result
ledger        which blocks and maps are done
scene_map     one scene's map, assembled from its blocks
map_making    missing blocks predicted, maps assembled
engine        what predicts: this process or Ray
in_process    blocks predicted in this process
on_ray        blocks predicted on Ray Data
summary       what the command prints at the end
"""
