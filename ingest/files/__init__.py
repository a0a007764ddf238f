"""Read chips from files: pairs, tables, Hugging Face datasets, tars.

pairs_source         folders of chips
chip_files           one chip's file: .npy, .npz or .tif
npy                  .npy files, never unpickled
table                tables that list files and their attributes
huggingface_source   Hugging Face datasets
nested               Arrow's nested lists as arrays
tar_members          members of a tar
tars                 other people's WebDataset tars
"""
