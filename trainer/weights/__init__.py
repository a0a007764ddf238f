"""Files of weights, and where a run keeps them; no model is known here.

weights_file     .safetensors files, read without a second copy in memory
weights_bytes    bytes of .safetensors files, written and merged piece by piece
weights_apart    a frozen backbone's file in a run, to which checkpoints refer
run_checkpoints  the last and the best checkpoint of a run
checkpoint_sums  sizes and checksums of a checkpoint's files, in its config.json
"""
