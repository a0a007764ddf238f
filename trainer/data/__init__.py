"""Input of the training: batches, augmentation, stored tokens.

choice          the chips that options choose
labels          labels of whole tiles
pixel_classes   labels that are a class at each pixel
feed            batches on their way to the device, read ahead by a thread
torch_chips     batches of tensors, for a DataLoader
transfers       rows sent to a device from memory that is used again
step_inputs     the key of a step's random numbers, this rank's part of a batch
augment         flips, turns, brightness, missing bands
token_store     a frozen backbone's tokens, kept and read
token_filling   computing and writing them
"""
