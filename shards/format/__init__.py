"""Define what is stored: schema, keys, manifest, index, shards as bytes, statistics.

schema           what one chip holds; the chip itself
key              chip keys: their form, the facts in them, their split
scene_names      what the names of scenes and masks say
derived          scale and offset of bands, and bands made of two others, as options say them
band_values      what the value of a stored pixel is, and of a derived band's
manifest         dataset.json
index            index.parquet and rejected.parquet
tar              one tar shard as an array of equal rows
zarr_v3          one shard as Zarr v3
histogram        counts of each value
statistics       exact statistics from those counts, by source and sensor
npy              .npy files, never unpickled
npz              .npz files, sizes first
height_classes   the eight height classes
file_names       names of a dataset's files, and what may be removed beside them
missing          which pixels are missing
sealed           JSON files that hold their own checksum
verified         what treeline verify finds, and how a stored file is compared
path_names       names that are safe to become paths
shard_cut        how many chips a shard holds
"""
