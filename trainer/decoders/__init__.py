"""Decoders, which turn tokens into heights, or into logits of classes.

features       the interface of every decoder
make           the decoder that the configuration asks for
unet           a U-Net over the pixels, to whose bottom the tokens are added
detail         a thin U-Net over the pixels, with the tokens at its bottom
residual       four doublings with residual blocks
dpt            CHMv2's head and height bins
linear         one linear layer
own            a decoder of the user's own
norms          batch norm and group norm
batch_norm     batch norm over the chips of all ranks
chip_dropout   dropout from random numbers of each chip's own
"""
