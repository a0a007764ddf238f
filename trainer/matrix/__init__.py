"""Plan a matrix of trainings, and report what came of it: arrays and tables in, numbers and pages out.

regions    regions of the datasets, and the blocks of ground that their tiles lie in
plan       the cells: what each trains on, from which weights
cell_file  what a finished cell leaves: a row for each test tile
scores     errors by block, and their intervals
results    matrix.json: scores, paired differences, the verdict
heat_maps  heat maps with numbers
curves     learning curves
page       index.html
"""
