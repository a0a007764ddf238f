"""A dataset -> a regressor, and how good it is.

Start at `model.regressor` for the regressor, at `fit.loop` for how it learns, and at `score.evaluation` for
how it is scored.
"""
