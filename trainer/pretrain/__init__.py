"""Pre-training without labels: a backbone learns from tiles alone.

encoder       tokens of patches, some left out, at any coordinates
views         crops of tiles, and changes of their pixels, on the device
masked        the masked autoencoder: model, masks, loss
masking       which patches of a tile are hidden
dino          student, teacher and their heads
distillation  the loss of self-distillation, its centre, and what tells a collapse
objectives    both methods as objectives of the training loop
probe         what tokens tell about a label
"""
