"""Draw pictures, charts and pages.

colours   colours of heights and of their differences
picture   composites, coloured heights, PNG
charts    the charts of inspect
chip_map  its map of the chips
html      the skeleton of every page
content_policy  what a page may fetch and run
"""
