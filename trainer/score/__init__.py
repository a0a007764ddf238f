"""Scores of heights and of labels of tiles: arrays in, numbers out.

metrics      MAE, RMSE, bias, R2, from sums
baselines    the mean and the linear regression to beat
ridge        ridge regression of labels on features of tiles
thresholds   best IoU and AUC of a score that is to find a class
intervals    95 % intervals over blocks of ground and draws
evaluation   scores by name: table, JSON, picture
tile_scores      errors of numbers, confusion of classes
tile_baselines   the mean and the ridge regression to beat
tile_evaluation  scores of tiles by name: table, JSON, rows, picture
"""
