"""Make synthetic chips for tests, load tests and the demo.

synthetic_source   a source of any number of chips
landscape          scenes of the synthetic landscape
sar_source         a source of any number of SAR tiles of several regions
sar_regions        what tells the regions apart, and what varies from place to place in them
sar_landscape      the land of a SAR tile: trees, parcels, water, buildings, terrain
sar_backscatter    what a radar sees of it: VV and VH per season
sar_coherence      what repeat-pass interferometry sees of it
"""
