"""Devices and ranks: which device, precision, sharding, time. This room knows modules, not regressors.

choice         the kind of device, decided from --device and the GPUs there are
cards          the GPUs of this machine, and the torch that they need
choice_on_ray  the decision for Ray workers
ranks          the processes that train together
sharding       a module of which every rank holds a part
learner        what a model in training is
clock          the time that an epoch's steps take
out_of_memory  errors of a device that has too little memory
repeatable     repeatable arithmetic, bfloat16, and compilation
"""
