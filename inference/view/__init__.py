"""Look at maps in a browser.

description  what the script in the page is told about layers and their place
page         the page around maps: style, script, policy
panel        maps in a page of their own or in a report, without a server
overview     layers of a panel, read from files
plan         what treeline view shows, checked
layers       what a layer on a server is
heights      layers of maps, measured heights and differences
pictures     layers of images and classes
tiles        a raster's pixels on a tile
server       page, tiles and values for a browser on this machine
run          treeline view
"""
