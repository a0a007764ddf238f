"""Show what is known of a run and of its maps, on one page.

run        treeline report
left       what train, evaluate and predict left; what is missing, and how it is made
checked    whether evaluation.json is what it should be
page       the page: its sections, and the verdict
scores     tables of scores, of heights, of classes and of tiles
chips      the worst, median and best chips
maps       maps, and what made them
found      findings about datasets and scenes
settings   options that differ from defaults, versions
figures    curves and chips, as PNG
"""
