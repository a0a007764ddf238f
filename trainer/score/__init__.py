"""Scores of heights, of classes of pixels and of labels of tiles: arrays in, numbers out.

exact_totals sums that add up exactly, rounded once
metrics      MAE, RMSE, bias, R2, from sums
baselines    the mean and the linear regression to beat
ridge        ridge regression of labels on features of tiles
logistic     logistic regression of classes on features of tiles
thresholds   best IoU and AUC of a score that is to find a class
intervals    95 % intervals over blocks of ground and draws
epochs       number of an epoch in a record of its scores
compared     a model beside its baselines, in words
evaluation   scores by name: table, JSON, picture
binding      what ties files of one evaluation together
chip_scores  sums of single chips: chips.parquet
examples     predictions of the worst, middle and best chips: examples.npz
tile_scores      errors of numbers, confusion of classes
class_baselines  the commonest class and the linear regression to beat
class_report     what reports of classes have in common: verdict, table, confusion
class_evaluation scores of classes of pixels by name: table, JSON, picture
tile_baselines   the mean and the ridge regression to beat
tile_evaluation  scores of tiles by name: table, JSON, rows, picture
"""
