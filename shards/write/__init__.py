"""Write datasets: shards, their assembly, the split.

finished_shard   one finished shard, and all that is known of it
index_rows       rows of an index, on disk as they come
index_of_tars    the index made again from tar shards
assembly         a dataset from finished shards; the manifest last
change           a dataset whose shards stay, under a new manifest
shard_places     folders of shards after a split
rewriting        shards written anew, each with chips of one split
writer           chips in, a dataset out, one after the other
places           where chips lie
split_rule       which chips are held out: by key, scene, blocks, strips or bands
split_advice     the split that would keep held-out chips apart
split_auto       the way to split that suits the chips
split_bands      bands at an angle: where they lie, and which chips are in them
split_turn       the turn in which bands are dealt to splits
split_distance   how far apart the splits are
leakage          distances and shared scenes of splits, in words
"""
