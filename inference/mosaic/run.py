"""`treeline mosaic`: overlapping maps combined into one map on a common grid, block by block.

maps, in the order of their names       inference.maps.height_map.height_map
-> the common grid, places on it        inference.mosaic.common_grid.endless_grid, placed
-> the maps that touch a block          inference.mosaic.placed_map.OpenMaps.read
-> merit of each map's pixels           _observations (here), inference.mosaic.edge_distance
-> the block's four bands               inference.mosaic.combine_heights.combine
-> Cloud-Optimised GeoTIFF              inference.maps.map_file.map_writer
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shards
from inference.config import MosaicConfig
from inference.maps.height_map import ACQUIRED, TAGS, height_map, map_order
from inference.maps.map_file import NODATA, map_writer
from inference.maps.style import write_style
from inference.mosaic.combine_heights import BANDS, Observation, combine
from inference.mosaic.common_grid import EndlessGrid, PlacedMap, endless_grid, extent_of, meet, placed
from inference.mosaic.edge_distance import edge_distance
from inference.mosaic.placed_map import OpenMaps
from inference.scenes.scene_list import raster_urls
from inference.tiling.windows import Block, Span, blocks_of
from shards.errors import InputError
from shards.progress import progress
from shards.raster.finding import FINDINGS_TAG, Finding, findings_in, noted, noted_by_code
from shards.raster.opening import HEADERS
from shards.said import say
from shards.storage.objects import check_writable, exists, name_of, remove_unfinished
from shards.storage.one_writer import one_writer
from shards.storage.patterns import each_file_once
from shards.version import commit

COARSEST = 1024
"""Most pixels of a map along one pixel of the mosaic, because all of them are read at once."""
WIDEST_FEATHER = 4096
"""Largest feather, in pixels; each block is read with this many pixels around it."""
CM_PER_M = 100
MAPS_TAG = "TREELINE_MAPS"
"""Tag that only a mosaic has: the maps it was made from."""
LEAST = -float(np.finfo(np.float32).max)
"""Merit of a pixel whose spread is unknown: it is taken only where there is no other."""


@dataclass(frozen=True)
class Mosaic:
    """Plan of a mosaic."""

    config: MosaicConfig
    grid: EndlessGrid
    extent: Block
    maps: tuple[PlacedMap, ...]
    """Maps that reach into the extent, in the order of their names."""

    def blocks(self) -> Iterator[tuple[Block, list[PlacedMap]]]:
        """Cut the extent into disjoint blocks, counted from its first pixel, and find the maps on each."""
        whole = Span(0, len(self.extent.columns))
        for row in range(0, len(self.extent.rows), self.config.block):
            rows = Span(row, min(row + self.config.block, len(self.extent.rows)))
            of_rows = [one for one in self.maps if meet(one.place, self.on_grid(Block(rows, whole)))]
            for part in blocks_of(len(rows), len(whole), self.config.block):
                block = Block(rows, part.columns)
                yield block, [one for one in of_rows if meet(one.place, self.on_grid(block))]

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        size = self.config.block
        return -(-len(self.extent.rows) // size) * -(-len(self.extent.columns) // size)

    def on_grid(self, block: Block) -> Block:
        """Convert a block of the extent to pixels of the grid."""
        row, column = self.extent.rows.start, self.extent.columns.start
        return Block(
            Span(block.rows.start + row, block.rows.stop + row),
            Span(block.columns.start + column, block.columns.stop + column),
        )

    def findings(self) -> dict[str, list[Finding]]:
        """Read what the maps' tags say about their scenes, by the map's URL, where they say something."""
        return {one.map.url: found for one in self.maps if (found := findings_in(one.map.tags))}

    def tags(self) -> dict[str, str]:
        """List the mosaic's metadata: what it was made from and how, limited to what its pixels depend on."""
        maps = [
            {"name": name_of(one.map.url)}
            | {name.removeprefix(TAGS).lower(): value for name, value in one.map.tags.items()}
            for one in self.maps
        ]
        lines = noted_by_code({name_of(url): found for url, found in self.findings().items()})
        findings = {FINDINGS_TAG: json.dumps({code: "; ".join(of) for code, of in lines.items()})}
        feather = {"TREELINE_FEATHER": str(self.config.feather)} if self.config.method == "weighted" else {}
        return {
            "TREELINE_VERSION": shards.__version__,
            "TREELINE_COMMIT": commit(),
            "TREELINE_METHOD": self.config.method,
            **feather,
            **(findings if lines else {}),
            MAPS_TAG: json.dumps(maps, separators=(",", ":")),
        }


def mosaic(config: MosaicConfig) -> str:
    """Make the mosaic, and return the lines that the command prints.

    Raises:
        InputError: a map, an option or the output cannot be used; then nothing is left at `config.out`.
    """
    planned = plan(config)
    with one_writer(_folder_of(config.out), of=name_of(config.out)):
        _refuse_existing(config.out)  # another command may have made it meanwhile
        return _make(planned)


def _make(planned: Mosaic) -> str:
    """Write the mosaic, which only this process does."""
    config = planned.config
    remove_unfinished(_folder_of(config.out), below=False, of=name_of(config.out))
    grid = planned.grid.part(planned.extent)
    observed, several, spread_cm = 0, 0, 0
    with (
        OpenMaps(planned.grid) as maps,
        map_writer(config.out, grid, BANDS, planned.tags()) as write,
        progress(f"mosaic of {len(planned.maps)} maps", planned.block_count, "blocks") as advance,
    ):
        for block, touching in planned.blocks():
            if touching:
                stored_CHW = mosaic_block(planned, maps, planned.on_grid(block), touching)
                write(block, stored_CHW)
                observed += int((stored_CHW[1] != NODATA).sum())
                are_several_HW = stored_CHW[1] > 1
                several += int(are_several_HW.sum())
                spread_cm += int(stored_CHW[2][are_several_HW].sum(dtype=np.int64))
            advance(1)
    write_style(config.out, config.palette)
    share = f"{100 * observed / (grid.height * grid.width):.1f}% with a height"
    if several:
        share += (
            f"; {100 * several / observed:.1f}% of these from several maps, whose heights differ there by "
            f"{spread_cm / several / CM_PER_M:.2f} m (standard deviation)"
        )
    lines = [f"{config.out}: {len(planned.maps)} maps, {grid.height:,} x {grid.width:,} pixels, {share}"]
    found = [(url, finding) for url, findings in planned.findings().items() for finding in findings]
    return "\n".join([*lines, *(f"note: {line}" for line in noted(found, "note"))])


def plan(config: MosaicConfig) -> Mosaic:
    """Plan the mosaic from options and headers alone.

    Raises:
        InputError: a map, an option or the output cannot be used.
    """
    _check_options(config)
    with ThreadPoolExecutor(HEADERS) as pool:
        headers = list(pool.map(height_map, _urls(config)))
    grid = endless_grid(headers[0], config.crs, config.resolution)
    everything = [placed(one, grid) for one in headers]
    extent = extent_of(everything, grid, config.bounds)
    maps = tuple(one for one in everything if meet(one.place, extent))
    without = [one.map.url for one in maps if one.map.spread_step is None]
    if config.method == "least-uncertain" and without:
        raise InputError(
            f"{without[0]}: has no spread band, which --method least-uncertain needs; "
            "predict it with --spread, or choose another --method"
        )
    if coarse := [one.map.url for one in maps if min(one.scales) < 1 / COARSEST]:
        raise InputError(
            f"--resolution {config.resolution:g}: spans over {COARSEST:,} pixels of {coarse[0]}; give less"
        )
    if mosaics := [one.map.url for one in maps if MAPS_TAG in one.map.tags]:
        say(
            f"note: {len(mosaics)} of {len(maps)} maps are mosaics (first {mosaics[0]}); each counts as one "
            "map",
            of="",
        )
    undated = [one.map.url for one in maps if one.map.day is None]
    if undated:
        say(
            f"note: {len(undated)} of {len(maps)} maps have no known day (first {undated[0]}) and count as "
            f"oldest; give the day in a tag {ACQUIRED}, as YYYY-MM-DD",
            of="",
        )
    return Mosaic(config, grid, extent, maps)


def mosaic_block(
    planned: Mosaic, maps: OpenMaps, block: Block, touching: list[PlacedMap]
) -> NDArray[np.int16]:
    """Make stored_CHW of a block of the grid that maps touch, with bands as `combine_heights.BANDS`."""
    shape = len(block.rows), len(block.columns)
    return combine(_observations(planned.config, maps, block, touching), shape, planned.config.method)


def _observations(
    config: MosaicConfig, maps: OpenMaps, block: Block, touching: list[PlacedMap]
) -> Iterator[Observation]:
    """Read the block from one map after the other."""
    # A single map's weight does not matter.
    halo = config.feather if config.method == "weighted" and len(touching) > 1 else 0
    rows, columns = (Span(span.start - halo, span.stop + halo) for span in (block.rows, block.columns))
    own = slice(halo, halo + len(block.rows)), slice(halo, halo + len(block.columns))
    for one in touching:
        pixels = maps.read(one, Block(rows, columns), with_spread=config.method == "least-uncertain")
        merit_HW: NDArray[Any] | float = 1.0
        if halo:
            merit_HW = edge_distance(~np.isnan(pixels.height_HW), config.feather)[own]
        elif config.method == "newest":
            merit_HW = NODATA if one.map.day is None else one.map.day
        elif pixels.spread_HW is not None:
            merit_HW = np.where(np.isnan(pixels.spread_HW), LEAST, -pixels.spread_HW)
        yield Observation(pixels.height_HW[own], merit_HW, one.map.day)


def _urls(config: MosaicConfig) -> list[str]:
    """Find the maps, each once, in the order of their names."""
    return each_file_once(sorted(raster_urls(config.maps), key=map_order))


def _check_options(config: MosaicConfig) -> None:
    for name in ("block", "feather"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name} {getattr(config, name)}: give 1 pixel or more")
    if config.feather > WIDEST_FEATHER:
        raise InputError(f"--feather {config.feather}: give {WIDEST_FEATHER:,} pixels or less")
    if not 0 <= config.resolution < float("inf"):
        raise InputError(f"--resolution {config.resolution:g}: give a size above 0")
    if not config.out or config.out.endswith("/"):
        raise InputError(f"--out {config.out}: give a file, such as mosaic.tif")
    _refuse_existing(config.out)
    check_writable(_folder_of(config.out))


def _refuse_existing(out: str) -> None:
    if exists(out):
        raise InputError(f"{out}: already exists; choose another --out or delete it first")


def _folder_of(out: str) -> str:
    return out.rpartition("/")[0] or ("/" if out.startswith("/") else ".")
