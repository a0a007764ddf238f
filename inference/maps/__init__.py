"""Write and read maps.

map_file     writing a map
height_map   what a height map is, from its header
stac_item    the STAC item beside a map
quick_look   the picture beside a map
"""
