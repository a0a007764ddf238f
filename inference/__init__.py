"""Maps of canopy height, from scenes and a regressor; mosaics of maps, and their scores.

Start at `tiling.windows` for how a scene is cut, at `predict.block` for how heights are computed, and at
`predict.run` for many scenes.
"""
