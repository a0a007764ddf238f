"""A dataset -> a regressor, and how good it is.

Start at `model` for the regressor, `loop` for how it learns, `evaluate` for how it is scored.
"""
