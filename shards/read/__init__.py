"""Read datasets: order, selection, loading, batches.

read_options   how a dataset is read
order          the order of chips: a pure function of (seed, epoch)
selection      chips chosen by an expression over the index
balance        sampling weights by height
reader_state   a reader's position
arena          shards in one range of addresses, so that a batch is one gather
shard_loader   one shard mapped, fetched or decoded, and checked
row_stream     shards loaded ahead of need and dropped after use
dataset        a dataset open for reading: chips and batches
label_to_learn what a dataset has labels for
whole_chips    single chips with all their facts
chip_reader    chips epoch after epoch, resumable
"""
