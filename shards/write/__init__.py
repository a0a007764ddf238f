"""Write datasets: shards, their assembly, the split.

finished_shard   one finished shard, and all that is known of it
assembly         a dataset from finished shards; the manifest last
change           a dataset whose shards stay, under a new manifest
writer           chips in, a dataset out, one after the other
split_rule       which chips are held out: by key, scene, blocks or strips
split_distance   how far apart the splits are
"""
