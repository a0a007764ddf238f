"""Whether maps overlap, so that a mosaic of them says more than each alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

from inference.maps.height_map import height_map
from inference.mosaic.common_grid import endless_grid, meet, placed
from inference.scenes.scene_list import MAP_ENDING
from shards.errors import InputError
from shards.raster.opening import HEADERS

MOST_OPENED = 64
"""Most maps whose headers are read to see whether they overlap."""


def are_height_maps(urls: Sequence[str]) -> bool:
    """Tell from their names whether maps are of heights, which alone can be merged and scored."""
    return all(url.endswith(MAP_ENDING) for url in urls)


def do_overlap(urls: Sequence[str]) -> bool:
    """Tell whether any two of the first height maps have ground in common."""
    if len(urls) < 2:
        return False
    try:
        with ThreadPoolExecutor(HEADERS) as pool:
            headers = list(pool.map(height_map, urls[:MOST_OPENED]))
        grid = endless_grid(headers[0], "", 0)
        places = [placed(one, grid).place for one in headers]
    except InputError:  # a map that a mosaic would refuse
        return False
    return any(meet(one, other) is not None for one, other in combinations(places, 2))
