"""Devices and ranks: precision, sharding, time, sums of scores. This room knows modules, not regressors.

ranks        the processes that train together
sharding     a module of which every rank holds a part
learner      what a model in training is
clock        the time that an epoch's steps take
transfer     small arrays on their way to the device
exact_sums   sums that no order of chips changes
score_sums   sums from which scores of heights follow
linear       linear functions of a pixel's stored numbers
repeatable   repeatable arithmetic, bfloat16, and compilation
"""
