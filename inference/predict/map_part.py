"""Part of a map that is wanted (--bounds, --area), and blocks that are there already, whatever their size.

A map of a part is smaller: its grid is that of the whole map, cut at whole pixels. Its blocks are computed as
those of the whole map, so its pixels are the same, and the whole map takes them over.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import Affine

from inference.scenes.area import Area
from inference.tiling.windows import Block, Span
from shards.errors import InputError
from shards.raster.grid import Grid

ROUNDING = 1e-6
"""Share of a pixel by which an edge may miss it: coordinates are not exact."""


@dataclass(frozen=True)
class MapPart:
    """Part of the map of one scene."""

    window: Block
    """Rows and columns of the whole map."""
    area: Any = None
    """Polygons in the map's CRS, outside of which nothing is wanted; None: everything in the window is."""
    digits: str = ""
    """Digits that stand for the area; "" without one."""

    @property
    def suffix(self) -> str:
        """Text that tells this part of a map from others."""
        edges = (self.window.rows, self.window.columns)
        numbers = [str(edge) for span in edges for edge in (span.start, span.stop)]
        return "+" + "_".join([*numbers, *[self.digits] * bool(self.digits)])

    def grid(self, whole: Grid) -> Grid:
        """Return the grid of the part."""
        rows, columns = self.window.rows, self.window.columns
        return Grid(
            whole.crs,
            whole.transform @ Affine.translation(columns.start, rows.start),
            len(rows),
            len(columns),
        )

    def touches(self, block: Block, whole: Grid) -> bool:
        """Tell whether anything in a block of the map is wanted."""
        if overlap(block, self.window) is None:
            return False
        return self.area is None or bool(shapely.intersects(self.area, _ground(block, whole)))

    def cut(self, block: Block, stored_CHW: NDArray[Any], nodata: int, whole: Grid) -> tuple[Block, Any]:
        """Return what is wanted of a block, and its place in the part; pixels outside the area are nodata."""
        inside = overlap(block, self.window)
        if inside is None:
            raise AssertionError(f"{block}: lies outside {self.window}")
        row, column = inside.rows.start - block.rows.start, inside.columns.start - block.columns.start
        stored_CHW = stored_CHW[:, row : row + len(inside.rows), column : column + len(inside.columns)]
        if self.area is not None and not shapely.contains(self.area, _ground(inside, whole)):
            rows, columns = (np.arange(span.start, span.stop) + 0.5 for span in (inside.rows, inside.columns))
            x_HW, y_HW = whole.corners(rows, columns, whole.crs)
            stored_CHW = np.where(shapely.intersects_xy(self.area, x_HW, y_HW), stored_CHW, nodata).astype(
                stored_CHW.dtype
            )
        return _moved(inside, -self.window.rows.start, -self.window.columns.start), stored_CHW


@dataclass(frozen=True)
class WantedPart:
    """Part of all scenes that the user wants."""

    bounds: tuple[float, ...] = ()
    """Left, bottom, right and top in a scene's CRS; (): no bounds."""
    area: Area | None = None

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            InputError: they are none.
        """
        if not self.bounds:
            return
        numbers = " ".join(f"{number:.10g}" for number in self.bounds)
        if len(self.bounds) != 4 or not np.isfinite(self.bounds).all():
            raise InputError(f"--bounds {numbers}: give left, bottom, right and top")
        left, bottom, right, top = self.bounds
        if not (left < right and bottom < top):
            raise InputError(f"--bounds {numbers}: is empty; give left, bottom, right and top, in this order")

    def __bool__(self) -> bool:
        return bool(self.bounds or self.area)

    def __str__(self) -> str:
        bounds = [f"--bounds {' '.join(f'{number:.10g}' for number in self.bounds)}"] * bool(self.bounds)
        return " and ".join([*bounds, *([f"--area {self.area.url}"] if self.area else [])])

    def part(self, whole: Grid) -> MapPart | None:
        """Return the part of a map on the grid `whole`; None if nothing of it is wanted."""
        window: Block | None = Block(Span(0, whole.height), Span(0, whole.width))
        polygons = self.area.in_crs(whole.crs) if self.area else None
        boxes = [self.bounds] * bool(self.bounds)
        if polygons is not None:
            if polygons.is_empty:
                return None
            boxes.append(tuple(shapely.bounds(polygons).tolist()))
        for box in boxes:
            window = window and overlap(window, _pixels(box, whole))
        if window is None:
            return None
        part = MapPart(window, polygons, self.area.digits if self.area else "")
        return part if part.touches(window, whole) else None


def overlap(block: Block, other: Block) -> Block | None:
    """Return the pixels that two blocks share; None if there are none."""
    rows, columns = (
        Span(max(one.start, two.start), min(one.stop, two.stop))
        for one, two in ((block.rows, other.rows), (block.columns, other.columns))
    )
    return Block(rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def without(block: Block, others: Iterable[Block]) -> Iterator[Block]:
    """Yield disjoint blocks that cover what `block` does not share with any of the others."""
    others = list(others)
    for number, other in enumerate(others):
        shared = overlap(block, other)
        if shared is None:
            continue
        rows, columns = block.rows, block.columns
        around = (
            Block(Span(rows.start, shared.rows.start), columns),
            Block(shared.rows, Span(columns.start, shared.columns.start)),
            Block(shared.rows, Span(shared.columns.stop, columns.stop)),
            Block(Span(shared.rows.stop, rows.stop), columns),
        )
        for piece in around:
            if piece.pixels:
                yield from without(piece, others[number + 1 :])
        return
    yield block


def kept_blocks(done: set[Block], grid: Grid, size: int) -> tuple[Block, ...]:
    """Choose, of the finished blocks of a map, those of another cut that can be used: no two share a pixel.

    Args:
        done: finished blocks.
        grid: grid of the whole map.
        size: side of the blocks into which the map is cut now; 0: in no regular ones.
    """

    def is_of_now(block: Block) -> bool:
        pairs = (block.rows, grid.height), (block.columns, grid.width)
        return all(
            span.start % size == 0 and span.stop == min(span.start + size, length) for span, length in pairs
        )

    of_now = [block for block in done if size and is_of_now(block)]
    chosen = list[Block]()
    for block in sorted(done.difference(of_now), key=_edges):
        if not any(overlap(block, other) for other in (*of_now, *chosen)):
            chosen.append(block)
    return tuple(chosen)


def _edges(block: Block) -> tuple[int, ...]:
    return -block.pixels, block.rows.start, block.columns.start


def _moved(block: Block, rows: int, columns: int) -> Block:
    return Block(
        Span(block.rows.start + rows, block.rows.stop + rows),
        Span(block.columns.start + columns, block.columns.stop + columns),
    )


def _pixels(box: tuple[float, ...], grid: Grid) -> Block:
    """Return the whole pixels around a box in the grid's CRS."""
    left, bottom, right, top = box
    pixel_2N = grid.pixels(np.array([[left, right, left, right], [bottom, bottom, top, top]]))
    low = np.floor(pixel_2N.min(1) + ROUNDING).astype(int).tolist()
    high = np.ceil(pixel_2N.max(1) - ROUNDING).astype(int).tolist()
    return Block(Span(low[1], high[1]), Span(low[0], high[0]))


def _ground(block: Block, grid: Grid) -> Any:
    """Return the rectangle of a block in the grid's CRS."""
    rows, columns = block.rows, block.columns
    corners = (
        (columns.start, rows.start),
        (columns.stop, rows.start),
        (columns.stop, rows.stop),
        (columns.start, rows.stop),
    )
    return shapely.Polygon([grid.transform @ corner for corner in corners])
