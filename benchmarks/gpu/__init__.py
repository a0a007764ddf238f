"""The checks of `benchmarks/on_gpu.py`.

bench          sizes, data and models that the checks share, and how they are timed
limits         what the device can do at most: products of matrices, copies
inputs         pixels and labels on the device are those on the host; transfers under stress
losses         losses as on the CPU, by precision and option; a run that changes device; the same bits twice
steps          kernels, waits and busy share of a training step
maps           the same map for other blocks, batches and precisions
scoring        scoring beside training
prediction     time of a block by number of windows; search for that number
memory         sharding, too little memory, a large backbone
tokens         stored tokens
devices        what Ray's workers see
rates          chips, tiles and pixels a second
"""
