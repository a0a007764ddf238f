"""Pre-training without labels: a backbone learns from tiles alone.

views                crops of tiles and speckle, on the device
draw                 the views of a step, drawn for the global batch
masked               the masked autoencoder: model and loss
masking              which patches of a tile are hidden
objective_of_masked  the masked autoencoder in the training loop
crops                the student's crops of a step, and their pieces
dino                 student, teacher and their heads
distillation         the loss of self-distillation, its centre, and signs of a collapse
dino_sums            the sums of a step, and the losses from them
ibot                 hidden patches in self-distillation
koleo                a loss that spreads class tokens
collapse             a watch that names a collapse
objective_of_dino    self-distillation in the training loop
tile_objective       what both objectives have in common
probe                what tokens tell about a label
panel                pictures of restored tiles
"""
