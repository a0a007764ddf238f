"""Predict maps, here or on Ray.

run           treeline predict
map_folder    what is at --out, and whether maps may go there
map_options   the options that a map depends on
map_content   what the maps of a checkpoint show
map_header    the checkpoint's description
ready_block   a block's pixels, prepared for the device
window_batches  windows predicted in batches, row by row
block         one block of heights: windows predicted and blended
class_block   one block of classes of pixels
tile_block    one block of labels of tiles
batch_search  how many windows at a time suit a device
predictor     a model in memory that predicts blocks
block_tasks   a block as a task, its pixels, and its result
map_part      part of a map that is wanted, and blocks that are there already
ledger        which blocks and maps are done
scene_map     one scene's map, assembled from its blocks
map_making    missing blocks predicted, maps assembled
engine        what predicts: this process or Ray
array_map     an array's map, in memory
in_process    blocks predicted in this process
in_memory     maps of a model in memory, for Python
on_ray        blocks predicted on Ray Data
verify_maps   treeline verify of a folder of maps
summary       what the command prints at the end
"""
