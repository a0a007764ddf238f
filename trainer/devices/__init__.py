"""Devices: which one, ranks, precision, sharding, time, sums of scores. It knows modules, not regressors.

choice         the kind of device, decided from --device and the GPUs there are
cards          the GPUs of this machine, and the torch that they need
choice_on_ray  the decision for Ray workers
ranks          the processes that train together
sharding       a module of which every rank holds a part
learner        what a model in training is
clock          the time that an epoch's steps take
transfer       small arrays on their way to the device
exact_sums     sums that no order of chips changes
score_sums     sums from which scores of heights follow
linear         linear functions of a pixel's stored numbers
out_of_memory  errors of a device that has too little memory
precision      float32, TF32, bfloat16 and float16
rounding       rounding of weights that learn to 16 bits, a part at a time
repeatable     repeatable arithmetic, and compilation
"""
