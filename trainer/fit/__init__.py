"""Training: loop, objectives, optimiser.

loop              the training loop
callback          what a training tells as it goes
position          how far a training is
failures          errors that end a training
taken             a step that was taken, and its outcome
learning          the chips to learn from, and the ranks that share them
scoring           one pass over chips that adds up scores
variant           the parts of a training that variants replace
sample_panel      sample chips as the regressor sees them
objective         the interface of what a training minimises and reports
pixel_inputs      inputs of a step that learns labels of pixels
beside_baselines  a training's model beside its baselines
labelled          what objectives have in common that learn from labels
heights           heights as an objective
classes           classes of pixels as an objective
labels            labels of whole tiles as an objective
loss_scale        scale of the loss in float16
optimiser         learning rates and schedule per parameter group
muon              an optimiser of matrices beside AdamW
weight_average    a running average of the weights
flops             operations per chip, and the device's peak
notebook_faults   the notebook's faults, as one variant
"""
