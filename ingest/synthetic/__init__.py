"""Make synthetic chips for tests, load tests and the demo.

synthetic_source   a source of any number of chips
landscape          scenes of the synthetic landscape
"""
