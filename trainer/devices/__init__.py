"""Devices and ranks: precision, sharding, time. This room knows modules, not regressors.

ranks        the processes that train together
sharding     a module of which every rank holds a part
learner      what a model in training is
clock        the time that an epoch's steps take
transfer     small arrays on their way to the device
repeatable   repeatable arithmetic, bfloat16, and compilation
"""
