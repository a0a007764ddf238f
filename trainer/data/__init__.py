"""Feed the training: batches, augmentation, stored tokens.

feed            batches to the device, one transfer ahead
step_inputs     what one step takes
augment         flips, turns, brightness, missing bands
token_store     a frozen backbone's tokens, kept
token_filling   how they are computed and written
"""
