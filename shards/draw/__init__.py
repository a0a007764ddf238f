"""Draw pictures, charts and pages.

picture   composites, coloured heights, PNG
charts    the charts of inspect
html      the skeleton of every page
"""
