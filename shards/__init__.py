"""What is stored: the dataset contract, its bytes, its statistics and its order. Imports no other package.

Start at `manifest` for what a dataset is, `writer` for how one is made, `reader` for how one is read.
"""

__version__ = "0.1.0"
