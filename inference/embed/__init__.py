"""Embed tiles, here or on Ray.

run             treeline embed
embeddings      what a folder of embeddings holds; reading it
dataset_tiles   tiles of a dataset
scene_tiles     tiles cut from scenes
array_tiles     tiles of an array in memory
tiles           tiles of either kind, and the parts that they are cut into
embedder        an encoder in memory that embeds parts
engine          what embeds: this process or Ray
in_process      parts embedded in this process
in_memory       vectors of an encoder in memory, for Python
verify_embeddings  treeline verify of embeddings
on_ray          parts embedded on Ray Data
"""
