"""Score a model on the chips of a dataset: treeline evaluate.

run            whatever the checkpoint predicts
heights        heights of pixels
tiles          labels of whole tiles
classes        classes of pixels
evaluated      the chips that are scored, and what is said of them
ground_blocks  blocks of ground for the intervals of scores
"""
