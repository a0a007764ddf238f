"""Write and read maps.

map_file     a map written block by block
cloud_optimised  its overviews and its copy as a Cloud-Optimised GeoTIFF
class_colours  colours of a map's classes
height_map   what counts as a height map, and its header
stac_item    the STAC item beside a map
quick_look   the picture beside a map
style        the colours beside a map, for QGIS
"""
