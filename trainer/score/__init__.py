"""Scores of heights: arrays in, numbers out.

metrics      MAE, RMSE, bias, R2, from sums
baselines    the mean and the linear regression to beat
intervals    95 % intervals over blocks of ground and draws
evaluation   scores by name: table, JSON, picture
"""
