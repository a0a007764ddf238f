"""A regressor + scenes -> maps of canopy height.

Start at `windows` for how a scene is cut, `block` for how heights are blended, `predict` for a whole scene.
"""
