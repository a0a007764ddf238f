"""What `accuracy.py` compares: places with known heights, peers of Treeline's regressor, paired scores.

places     rasters to learn from and rasters to be scored on
peers      U-Nets as anybody trains them in an afternoon
ours       Treeline's own training, for a given time of the processor
maps       a map of a place's test part, made in the same way by every model
paired     scores, and differences of scores with a bootstrap over blocks and seeds
"""
