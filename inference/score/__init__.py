"""Score maps against measured heights.

score_maps         treeline evaluate --maps
measured_heights   height rasters on a map's pixels
"""
