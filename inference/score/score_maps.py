"""`treeline evaluate --maps ... --heights ...`: scores of maps where height rasters cover them.

A map's pixel has a measured height, the mean of a raster over its area, where the raster has values on at
least half of it. Heights are rounded to the millimetre, so sums are exact, and scores do not depend on blocks
or on the order of files.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from inference.config import MapScoreConfig
from inference.maps.height_map import made_by, refuse_what_is_no_map
from inference.maps.map_file import NODATA
from inference.score.measured_heights import HeightRasters, by_name
from shards.errors import InputError
from shards.progress import PIXELS, Advance, progress
from shards.raster.few_windows import few_windows
from shards.raster.finding import FINDINGS, Finding, findings_in, noted, noted_by_code, refuse_or_note
from shards.raster.gdal_advice import declare_nodata
from shards.raster.grid import WGS84, Grid
from shards.raster.height_check import MOST_METRES, asked_once, height_findings, surface_findings
from shards.raster.opening import HEADERS, bound_cache, open_raster, read_window
from shards.said import say
from shards.storage.patterns import each_file_once, expand_as_given
from shards.version import made_by_code
from shards.wording import counted
from trainer.score.evaluation import Evaluation
from trainer.score.metrics import ExactScore

ALL_MAPS = "all maps"
BLOCK = 512
"""Largest side of the block that is scored at a time, in pixels (see ExactScore.add)."""
MILLIMETRES = 1000
"""Millimetres in a metre."""
WINDOWS = 16
"""Most windows of a map on which measured heights are looked at first."""


def score_maps(config: MapScoreConfig, block: int = BLOCK) -> Evaluation:
    """Score each map against the height rasters on it.

    Args:
        config: the options.
        block: side of the block that is scored at a time, at most BLOCK pixels; bounds the memory.

    Raises:
        InputError: a file cannot be used, or no pixel of a map has a measured height.
    """
    bound_cache()
    maps = _expanded(config.maps)
    with ThreadPoolExecutor(HEADERS) as pool:
        headers = dict(zip(maps, pool.map(_header_of_map, maps), strict=True))
    grids = {url: grid for url, (grid, _) in headers.items()}
    layers = [
        HeightRasters(_expanded(patterns), config.height_band, config.height_unit)
        for patterns in (config.heights, config.ground)
        if patterns
    ]
    found = {url: _findings(grid, layers) for url, grid in grids.items()}
    for note in refuse_or_note(found, config.on_mismatch):
        say(f"note: {note}", of="")
    of_maps = {url: in_tags for url, (_, tags) in headers.items() if (in_tags := findings_in(tags))}
    said = [(url, finding) for url, in_tags in of_maps.items() for finding in in_tags]
    findings = noted_by_code({url: [*found[url], *of_maps.get(url, ())] for url in maps})
    pixels = sum(grid.height * grid.width for grid in grids.values())
    with progress(f"score {counted(len(grids), 'map')}", pixels, PIXELS) as advance:
        scores = {url: _score(url, grid, layers, block, advance) for url, grid in grids.items()}
    exact = {ALL_MAPS: sum(scores.values(), ExactScore.empty()), **scores}
    evaluation = Evaluation(
        {name: score.in_metres() for name, score in exact.items()},
        {
            "maps": list(grids),
            "made_by": {url: tags for url, (_, tags) in headers.items()},
            "heights": layers[0].urls,
            "ground": layers[1].urls if layers[1:] else [],
            **({FINDINGS: findings} if findings else {}),
            **made_by_code(),
        },
        notes=tuple(noted(said, config.on_mismatch)),
    )
    if not evaluation.first.all.count:
        rasters = (raster.grid for layer in layers for raster in layer.rasters)
        raise InputError(
            f"{' '.join(config.maps)}: no pixel has a height in "
            f"{' '.join(config.heights + config.ground)}; maps are at {_place(grids.values())}, rasters at "
            f"{_place(rasters)}: give rasters that cover the maps"
        )
    return evaluation


def _expanded(patterns: tuple[str, ...]) -> list[str]:
    """Expand patterns to URLs, each file once, in the order of names."""
    return each_file_once(by_name(url for pattern in patterns for url in expand_as_given(pattern)))


def _header_of_map(url: str) -> tuple[Grid, dict[str, str]]:
    """Read the grid of a map, and the tags that say what made it.

    Raises:
        InputError: it is not a height map.
    """
    with open_raster(url) as raster:
        refuse_what_is_no_map(url, raster)
        return Grid.of(raster), made_by(raster)


def _score(url: str, grid: Grid, layers: list[HeightRasters], block: int, advance: Advance) -> ExactScore:
    """Score one map; `layers` are heights, or elevations of the surface and of the ground."""
    score = ExactScore.empty()
    on_map = [layer.near(grid, range(grid.height), range(grid.width)) for layer in layers]
    with open_raster(url) as raster:
        millimetres = raster.scales[0] * MILLIMETRES
        for rows, columns in _blocks(grid, block):
            near = [
                layer.near(grid, rows, columns, among) for layer, among in zip(layers, on_map, strict=True)
            ]
            if all(near):
                window = Window(columns.start, rows.start, len(columns), len(rows))
                stored_HW = read_window(raster, indexes=1, window=window)
                height_HW = np.where(stored_HW == NODATA, np.nan, 0.0)
                for layer, rasters, sign in zip(layers, near, (1, -1), strict=False):
                    height_HW += sign * layer.heights(grid, rows, columns, rasters, np.isfinite(height_HW))
                _refuse_elevations(url, height_HW, rows, columns)
                known_HW = np.isfinite(height_HW)
                predicted_N = np.rint(stored_HW[known_HW] * millimetres).astype(np.int64)
                score.add(predicted_N, np.rint(height_HW[known_HW] * MILLIMETRES).astype(np.int64))
            advance(len(rows) * len(columns))
    return score


def _blocks(grid: Grid, size: int) -> Iterator[tuple[range, range]]:
    """Cover the map with disjoint blocks of at most BLOCK and `size` pixels a side, row by row."""
    step = min(size, BLOCK)
    for row in range(0, grid.height, step):
        for column in range(0, grid.width, step):
            rows, columns = (
                range(row, min(row + step, grid.height)),
                range(column, min(column + step, grid.width)),
            )
            yield rows, columns


def _findings(grid: Grid, layers: list[HeightRasters]) -> list[Finding]:
    """Find what is strange about the measured heights on a map, from their headers and a few windows."""
    near = [layer.near(grid, range(grid.height), range(grid.width)) for layer in layers]
    if not all(near):
        return []
    of_headers = {
        str(found): found for rasters in near for one in rasters for found in one.header.findings(grid)
    }
    read = []
    for window in few_windows((0, 0, grid.height, grid.width), WINDOWS):
        rows, columns = (range(*span) for span in window.toranges())
        all_HW = np.ones((len(rows), len(columns)), np.bool_)
        found = zip(layers, near, strict=True)
        read.append([layer.heights(grid, rows, columns, among, all_HW).ravel() for layer, among in found])
    values_LN = np.concatenate([np.stack(of_layers) for of_layers in read], axis=1)
    values_LN = values_LN[:, np.isfinite(values_LN).all(0)]
    headers = [rasters[0].header for rasters in near]
    if layers[1:]:
        strange = surface_findings(values_LN[0], headers[0], values_LN[1], headers[1])
    else:
        strange = height_findings(values_LN[0], headers[0])
    return [
        Finding(found.code, f"the measured heights on it: {found.line}", found.cure, found.is_gross)
        for found in asked_once([*of_headers.values(), *strange])
    ]


def _refuse_elevations(url: str, height_HW: NDArray[np.float64], rows: range, columns: range) -> None:
    strange_N2 = np.argwhere(np.abs(height_HW) > MOST_METRES)
    if len(strange_N2):
        row, column = strange_N2[0].tolist()
        raise InputError(
            f"{url}: at row {rows[row]}, column {columns[column]} the height rasters say "
            f"{height_HW[row, column]:g} m; if these are elevations, give the ground with --ground; if this "
            f"value means no data, say so in the raster ({declare_nodata('VALUE')})"
        )


def _place(grids: Iterable[Grid]) -> str:
    """Describe the bounds of all grids, in degrees."""
    bounds_N4 = np.array([transform_bounds(grid.crs, WGS84, *grid.bounds) for grid in grids])
    (left, bottom), (right, top) = bounds_N4.min(0)[:2], bounds_N4.max(0)[2:]
    return f"longitude {left:.4f} to {right:.4f}, latitude {bottom:.4f} to {top:.4f}"
