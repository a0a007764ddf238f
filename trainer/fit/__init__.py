"""Train: loop, losses, optimiser.

loop              the training loop
learning          what is learnt from, by which ranks
scoring           one pass over chips that adds up scores
variant           what a variant of training does otherwise
sample_panel      sample chips as the regressor sees them
objective         what a training minimises and reports
heights           heights as an objective
loss              terms of a loss, their weights over training
loss_terms        the terms
optimiser         learning rates and schedule per parameter group
weight_average    an average of the weights
flops             operations per chip, and the device's peak
notebook_faults   the notebook's faults, as one variant
"""
