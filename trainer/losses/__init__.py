"""Losses of heights and classes of pixels.

loss            a loss as weighted terms, their names (TERMS), and their weights over training
loss_terms      the loss terms of pixels
patch_gradient  the loss term of edges
own_term        a loss term of the user's own
"""
