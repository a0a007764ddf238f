"""A regressor + scenes -> maps of canopy height.

Start at `windows` for how a scene is cut, `block` for how heights come about, `predict` for many scenes.
"""
