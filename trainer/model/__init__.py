"""Define the regressor: normalisation, backbone, decoder; read and write checkpoints.

regressor          stored pixels in, metres out
normalise          its first layer
backbone           DINOv3: random, from a folder, a file or the hub
trainable          which of the backbone's weights learn; LoRA
checkpoint         a regressor as a folder
symmetries         the eight flips and quarter turns
meta_weights       Meta's own files as a backbone
notebook_weights   the notebook's names as ours
chmv2              Meta's CHMv2 as a regressor
"""
