"""Open rasters, and say where their pixels lie on the ground.

opening      opening rasters
formats      which formats are read, by which of GDAL's drivers
virtual      what virtual rasters may be made of
sidecars     files beside a raster: which are read, and what belongs into the raster
geopackage   whether a file is a GeoPackage
grid         pixel grids on the ground
pixel_size   size of pixels in metres
band_names   names of bands, and their synonyms
missing      what a raster says is missing
mask_check   what is strange about a mask
mask_band    whether a band only marks pixels
footprints   which rasters lie on a grid, from their headers
on_grid      a raster's values on another grid
height_unit  units of heights, and their lengths
height_check whether a raster's values are heights of plants
sample_windows small windows, spread and along the edges
filled       a value that stands for nothing
few_windows  a few windows, evenly spread
gdal_advice  commands that mend rasters, for messages
finding      what is not as it should be, its cure, and whether it is refused
"""
