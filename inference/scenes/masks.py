"""Masks that `predict` is given for its scenes: which belong to a scene, and which pixels they drop.

    masks = Masks(("clouds/*.tif",), scenes, drop=(1,))
    of_scene = masks.of(scene, Grid.of(raster))       # by place and name, as in ingest
    OpenMasks(of_scene).masked(grid, block)           # masked_HW

A pixel is dropped if the mask's pixel that holds its middle has one of the values, in any CRS. So it depends
on its place alone. Where no mask reaches, nothing is dropped.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from inference.tiling.windows import Block
from shards.errors import InputError
from shards.format.scene_names import images_of_masks, scene_name
from shards.raster.finding import Finding
from shards.raster.footprints import Placed, RasterFootprints
from shards.raster.grid import Grid
from shards.raster.mask_check import mask_findings
from shards.raster.on_grid import nearest_values
from shards.raster.opening import OpenRasters, read_window
from shards.storage.objects import name_of, version_of, whole_url
from shards.storage.patterns import expand

ROWS_AT_ONCE = 256
"""Rows whose places are computed at a time, since each takes several times the memory of a pixel."""


@dataclass(frozen=True)
class SceneMasks:
    """Masks of one scene."""

    placed: tuple[Placed, ...]
    """Masks, and the rows and columns of the scene that each can reach."""
    versions: tuple[str, ...]
    """Versions of their files, see `shards.storage.objects.version_of`."""
    drop: tuple[int, ...]
    """Values that make a pixel unusable."""

    @property
    def names(self) -> str:
        """Names of the masks' files."""
        return ", ".join(name_of(mask.url) for mask in self.placed)

    def to_json(self) -> str:
        """Encode as text, as a task carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SceneMasks":
        """Decode what `to_json` made."""
        told = json.loads(text)
        placed = tuple(Placed(*one) for one in told["placed"])
        return cls(placed, tuple(told["versions"]), tuple(told["drop"]))


class Masks:
    """Masks of a run, matched with its scenes."""

    def __init__(self, patterns: tuple[str, ...], scenes: Iterable[str], drop: tuple[int, ...]) -> None:
        """Read the header of each mask.

        Raises:
            InputError: a pattern matches no file, or a mask cannot be used.
        """
        urls = list(dict.fromkeys(whole_url(url) for pattern in patterns for url in expand(pattern)))
        self._drop = tuple(sorted(set(drop)))
        self._footprints = RasterFootprints(urls, lambda _, raster: mask_findings(raster, self._drop))
        self._images_of_mask = images_of_masks(urls, map(scene_name, scenes))
        self._versions: dict[str, str] = {}

    def findings(self, masks: SceneMasks) -> tuple[Finding, ...]:
        """Find what is strange about the masks of a scene."""
        return tuple(
            replace(found, line=f"its mask {name_of(mask.url)} {found.line}")
            for mask in masks.placed
            for found in self._footprints.found[mask.url]
        )

    def of(self, scene: str, grid: Grid) -> SceneMasks:
        """Find the masks of a scene.

        Raises:
            InputError: it has none.
        """
        name = scene_name(scene)
        placed = tuple(
            mask
            for mask in self._footprints.overlapping(grid)
            if name in self._images_of_mask.get(mask.url, {name})
        )
        if not placed:
            raise InputError(
                f"{scene}: no --mask covers it and is named after it or after no scene; add its mask, or "
                "predict it without --mask into another --out"
            )
        for mask in placed:
            self._versions.setdefault(mask.url, version_of(mask.url))
        return SceneMasks(placed, tuple(self._versions[mask.url] for mask in placed), self._drop)


class OpenMasks:
    """Masks of a scene, open while its blocks are read."""

    def __init__(self, masks: SceneMasks) -> None:
        """Check that the masks are those that the run began with.

        Raises:
            InputError: one was replaced.
        """
        for mask, version in zip(masks.placed, masks.versions, strict=True):
            if version_of(mask.url) != version:
                raise InputError(
                    f"{mask.url}: was replaced while a map was being made with it; run the command again"
                )
        self._masks, self._open = masks, OpenRasters()

    def masked(self, grid: Grid, block: Block) -> NDArray[np.bool_]:
        """Tell (rows, columns) which pixels of a block of the scene are dropped.

        Raises:
            InputError: a mask's file is damaged.
        """
        masked_HW = np.zeros((len(block.rows), len(block.columns)), np.bool_)
        for mask in self._masks.placed:
            top, bottom = max(block.rows.start, mask.top), min(block.rows.stop, mask.bottom)
            left, right = max(block.columns.start, mask.left), min(block.columns.stop, mask.right)
            for row in range(top, bottom, ROWS_AT_ONCE):
                rows, columns = np.arange(row, min(row + ROWS_AT_ONCE, bottom)), np.arange(left, right)
                if not columns.size:
                    break
                first_row, first_column = row - block.rows.start, left - block.columns.start
                part = np.s_[first_row : first_row + rows.size, first_column : first_column + columns.size]
                masked_HW[part] |= self._dropped(mask.url, grid, rows, columns)
        return masked_HW

    def close(self) -> None:
        """Close all masks."""
        self._open.close()

    def _dropped(self, url: str, grid: Grid, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
        own = Grid.of(self._open[url])
        if (shift := _shift(grid, own)) is not None:
            return self._dropped_there(url, own, rows + shift[0], columns + shift[1])
        middle_2HW = grid.corners(rows + 0.5, columns + 0.5, own.crs)
        everywhere_HW = np.ones((rows.size, columns.size), np.bool_)
        value_HW = nearest_values(partial(self._read, url), own, middle_2HW, everywhere_HW)
        return np.isin(value_HW, self._masks.drop)

    def _dropped_there(
        self, url: str, own: Grid, rows: NDArray[Any], columns: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Tell which pixels of the mask itself are dropped, False beyond its edges."""
        dropped_HW = np.zeros((rows.size, columns.size), np.bool_)
        row_N, column_N = (
            np.flatnonzero((place_N >= 0) & (place_N < length))
            for place_N, length in ((rows, own.height), (columns, own.width))
        )
        if row_N.size and column_N.size:
            first_row, first_column = int(rows[row_N[0]]), int(columns[column_N[0]])
            value_HW = self._read(url, Window(first_column, first_row, column_N.size, row_N.size))
            dropped_HW[np.ix_(row_N, column_N)] = np.isin(value_HW, self._masks.drop)
        return dropped_HW

    def _read(self, url: str, window: Window) -> NDArray[np.float64]:
        """Read values, NaN where an alpha band says that there is none.

        The nodata value counts as a value: it may be one of those to drop, as in ingest.
        """
        raster = self._open[url]
        value_HW: NDArray[np.float64] = read_window(raster, indexes=1, window=window).astype(np.float64)
        if ColorInterp.alpha in raster.colorinterp:
            alpha = raster.colorinterp.index(ColorInterp.alpha) + 1
            value_HW[read_window(raster, indexes=alpha, window=window) == 0] = np.nan
        return value_HW


def _shift(grid: Grid, own: Grid) -> tuple[int, int] | None:
    """Return rows and columns from a scene's first pixel to a mask's; None if their pixels do not coincide.

    Most masks have their scene's pixels, and need no places on the ground.
    """
    (a, b, _, d, e, _), (own_a, own_b, _, own_d, own_e, _) = grid.transform[:6], own.transform[:6]
    if own.crs != grid.crs or (a, b, d, e) != (own_a, own_b, own_d, own_e):
        return None
    column, row = own.pixels(np.array([[grid.transform.c], [grid.transform.f]]))[:, 0].tolist()
    return (int(row), int(column)) if row.is_integer() and column.is_integer() else None
