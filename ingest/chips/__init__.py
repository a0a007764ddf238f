"""Describe sources of chips, and check every chip.

source         the contract of every source
filled_chips   a look at chips for a value that stands for nothing
own_source     a source of the user's own
check          rules that a chip must pass to be kept
attributes     columns that a source adds to the index
registration   the shift between a chip's heights and its image
"""
