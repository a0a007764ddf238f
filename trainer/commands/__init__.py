"""Run the commands on regressors.

train              treeline train: what one rank does
train_check        what it refuses before anything starts
train_tiles        what differs where labels of whole tiles are learnt
train_classes      what differs where classes of pixels are learnt
pretrain           treeline pretrain: what one rank does
export             treeline export
begun              a run that is already there
last_lines         what came out, whether it is good, and the next command
length_by_time     how many steps fill the minutes that a training is to take
batch_of_device    how many chips a batch has where nobody says
too_little_memory  what to set where a device's memory is too small
train_on_ray       training and pre-training on Ray workers
sweep              treeline sweep
sweep_on_ray       its trials on Ray Tune
matrix             treeline matrix
matrix_cell        one of its cells: a training and its tests
matrix_on_ray      its cells as tasks on Ray
import_weights     treeline import
verify_run         treeline verify of a run, and of a token store
"""
