"""Run the whole job on a synthetic landscape.

run       treeline demo
report    its report
figures   the report's figures
"""
