"""Measure how far regions lie apart in embeddings. No torch here: arrays in, numbers and pages out.

run          treeline distances
regions      tiles of each region, drawn from a folder of embeddings; which are held out
measured     every distance of one folder of embeddings
sliced       sliced Wasserstein distances
energy       energy distances
whitening    all directions brought to one scale
told_apart   a linear classifier between regions
errors       errors of a matrix of trainings, by pair of regions and by tile
ranks        rank correlation, and what permuted regions give
nearest      errors beside distances: between regions, and to the nearest tiles
layout       a plane that keeps neighbours together
figures      the pictures
page         the page and its tables
"""
