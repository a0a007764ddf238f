"""Open rasters, and say where their pixels lie on the ground.

grid        pixel grids on the ground
opening     opening rasters, naming their bands
footprints  which rasters lie on a grid, from their headers
on_grid     a raster's values on another grid
"""
