"""`treeline attention`: attention of the class token as rasters, pictures and numbers.

run           the command, and what it leaves
plan          its options, checked, and what they name
tiles         what is looked at: rasters or chips
windows       tiles cut into windows, read and encoded
patch_maps    numbers of patches as maps and GeoTIFFs
components    principal components of the patches' tokens
beside        layers beside a tile: other rasters, a dataset's label
comparison    how well attention finds classes, beside an untrained backbone and thresholds on bands
sampling      the windows on which that is measured
gallery       the pictures of tiles and of what lies beside them
pictures      tables of pictures
page          index.html
"""
