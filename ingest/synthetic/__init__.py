"""Make synthetic chips for tests, load tests and the demo.

synthetic_source   chips of any number
landscape          the synthetic landscape
"""
