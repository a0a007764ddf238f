"""Open rasters, and say where their pixels lie on the ground.

opening      opening rasters
grid         pixel grids on the ground
pixel_size   size of pixels in metres
band_names   names of bands, and their synonyms
missing      what a raster says is missing
footprints   which rasters lie on a grid, from their headers
on_grid      a raster's values on another grid
"""
