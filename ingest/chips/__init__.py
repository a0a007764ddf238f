"""Describe sources of chips, and check each chip.

source         what every source can do
check          whether a chip is fit to learn from
attributes     columns that a source adds to the index
registration   how far a chip's heights lie from where its image shows them
"""
