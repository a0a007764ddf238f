"""Read chips from files: pairs, tables, Hugging Face datasets, tars.

pairs_source         folders of chips
chip_files           one chip's file
npy                  NumPy's files
table                tables that list files and their attributes
huggingface_source   Hugging Face datasets
nested               nested lists of Arrow as arrays
tars                 other people's WebDataset tars
"""
