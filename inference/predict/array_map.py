"""Map of an array, in memory: the blocks, windows and batches of a scene with the same pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.maps.map_file import NODATA
from inference.predict.block_tasks import MapJob
from inference.predict.predictor import Predictor
from inference.tiling.halo import Halo, halo_block
from inference.tiling.windows import blocks_of


def map_of_array(image_CHW: NDArray[Any], job: MapJob, predictor: Predictor) -> NDArray[Any]:
    """Predict the map of stored pixels, as stored_CHW: NODATA where there is no value.

    Args:
        image_CHW: pixels as chips store them, in the order of the schema's bands.
        job: settings; its scenes and places do not matter.
        predictor: predictor of the same job.
    """
    shape = image_CHW.shape[1], image_CHW.shape[2]
    rows, columns = (-(-side // job.content.tile) for side in shape)
    stored_CHW = np.full((len(job.content.bands(job.options)), rows, columns), NODATA, job.content.dtype)
    for block in blocks_of(rows, columns, job.block_side):
        read = halo_block(job.content.in_scene(block, shape), job.options.grid, shape)
        pixels_CHW = image_CHW[:, read.rows.start : read.rows.stop, read.columns.start : read.columns.stop]
        halo = Halo(pixels_CHW, read.rows.start, read.columns.start, shape)
        place = slice(block.rows.start, block.rows.stop), slice(block.columns.start, block.columns.stop)
        stored_CHW[:, *place] = predictor(predictor.ready(block, halo)).stored_CHW
    return stored_CHW
