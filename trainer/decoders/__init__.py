"""Turn tokens into heights.

features       what every decoder takes and can do
make           the decoder that is asked for
detail         tokens for what, convolutions of the pixels for where
residual       four doublings with residual blocks
dpt            CHMv2's head and height bins
linear         one linear layer
chip_dropout   dropout by numbers of each chip's own
"""
