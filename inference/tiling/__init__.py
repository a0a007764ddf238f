"""Cut scenes into blocks and windows, and blend windows.

windows   the global grid of windows, and blocks
halo      the pixels that a block is computed from
blend     overlapping windows blended in a fixed order
"""
