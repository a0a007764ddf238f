"""Open rasters, and say where their pixels lie on the ground.

grid      pixel grids on the ground
opening   opening rasters, naming their bands
on_grid   a raster's values on another grid
"""
