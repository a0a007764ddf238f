"""Label chips with what rasters show on their ground.

run           `treeline ingest labels`: a column of the index, from rasters
footprint     the label of one chip's footprint, from the values on it
rasters       the values of rasters on a footprint
"""
