"""Run the commands on regressors.

train            treeline train: what one rank does
train_on_ray     training on Ray workers
sweep            treeline sweep
sweep_on_ray     its trials on Ray Tune
evaluate         treeline evaluate, of chips
import_weights   treeline import
"""
