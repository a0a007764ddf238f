"""A source of chips in rasters: heights are resampled to each image's grid, and both are cut into chips.

The grid of chips starts at the image's first pixel; a chip's key is SCENE_ROW_COLUMN, in pixels. One row of
chips is in memory at a time, so the size of a scene does not matter.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.chips.check import NO_DATE, NO_MASK, NOT_IN_TIME, OUT_OF_SEASON, Rejected
from ingest.chips.source import Candidates, CommandSource, Raw, Refused
from ingest.config import NO_LABEL, ScenesConfig, label_of
from ingest.scenes.image_check import image_findings
from ingest.scenes.image_grid import band_numbers, open_image, source_of
from ingest.scenes.label_check import are_heights, header_findings, header_reader, label_findings
from ingest.scenes.scene_matching import Serving, near_in_time
from ingest.scenes.scene_table import Integers, SceneImage, encoded, keys_of, table_of
from ingest.scenes.strips import OpenScene
from shards.errors import InputError
from shards.format.key import KeyFacts, facts, key_pattern
from shards.format.scene_names import day_in, images_of_masks, scene_name
from shards.format.schema import DTYPES, Schema
from shards.raster.band_names import ALPHA, band_names, numbers_of_bands
from shards.raster.finding import Finding, Found
from shards.raster.footprints import Placed, RasterFootprints
from shards.raster.grid import Grid
from shards.raster.height_check import HeightHeader, asked_once
from shards.raster.mask_check import mask_findings
from shards.raster.missing import nodata_to_store
from shards.raster.opening import HEADERS
from shards.raster.pixel_size import PixelSize
from shards.storage.limits import CHIPS
from shards.storage.patterns import expand


@dataclass(frozen=True)
class ScenesSource(CommandSource):
    """Images and the rasters that give their heights."""

    config: ScenesConfig

    @cached_property
    def schema(self) -> Schema:
        """Schema of the first image, with a label if there are --heights.

        Raises:
            InputError: no image is found, or the first cannot be used.
        """
        config, url = self.config, _expanded(self.config.images)[0]
        with ExitStack() as opened:
            image = open_image(config, url, opened)
            try:
                names = tuple(n for n in band_names(source_of(image), config.bands) if n != ALPHA)
            except InputError as error:
                if image.count == 1 and config.heights and not config.bands:
                    raise InputError(f"{error}, or are --images and --heights exchanged?") from None
                raise
            dtype = image.dtypes[0]
            if dtype not in DTYPES:
                raise InputError(f"{url}: pixels are {dtype}; images must be one of {', '.join(DTYPES)}")
            numbers = numbers_of_bands(url, names, config.use or names)
            nodata = nodata_to_store(source_of(image), numbers, config.nodata)
            size = PixelSize.of(Grid.of(image)).for_schema()
        label, unit, classes = label_of(config) if config.heights else NO_LABEL
        return Schema(
            config.use or names,
            dtype,
            nodata,
            config.chip_size,
            label=label,
            label_unit=unit,
            class_names=classes,
            **size,
        )

    def candidates(self) -> Candidates:
        """List every chip of every image, row by row, from headers alone.

        Columns: key, scene, x, y, crs, sensor, acquired, source (the first raster that may give heights;
        reading tells which one does); `_image` (URL), `_rasters` (a `Serving` as JSON), `_row`, `_column`
        (pixels), `_group` (a number for each row of chips). Chips of an image without heights, or of another
        season, are refused.

        Raises:
            InputError: a raster or an option cannot be used, or no image is as large as a chip.
        """
        _check_options(self.config)
        urls = _expanded(self.config.images)
        _refuse_repeated_names(urls)
        with ThreadPoolExecutor(HEADERS) as pool:
            grids = list(pool.map(self._grid, urls))
        images = [
            SceneImage(url, name := scene_name(url), _known(name, self.config), grid, *self._corners(grid))
            for url, grid in zip(urls, grids, strict=True)
        ]
        count = 0
        for image in images:
            count += image.size
            CHIPS.check(f"{image.url}: this image and those before it", count)
        if not any(image.size for image in images):
            size = self.config.chip_size
            raise InputError(f"{urls[0]}: is smaller than a chip of {size} pixels; see --chip-size")
        matching = _Matching(self.config, images)
        taken: list[tuple[SceneImage, Serving]] = []
        refused: list[Refused] = []
        for image in images:
            try:
                taken.append((image, matching.serving(image)))
            except Rejected as why:
                keys = keys_of([image]).to_pylist()
                refused += [Refused(key, why.reason, why.detail) for key in keys]
        grids_by_url = {image.url: image.grid for image in images}
        findings = partial(self._findings, grids_by_url, taken, matching)
        return Candidates(table_of(taken, self.config.chip_size), refused, self.config.on_mismatch, findings)

    def _findings(
        self, grids: dict[str, Grid], taken: list[tuple[SceneImage, Serving]], matching: "_Matching"
    ) -> Found:
        """See Candidates.findings: a few pixels are read."""
        config = self.config
        found = image_findings(config, self.schema, grids)
        parts: list[Found] = [header_findings(taken, matching.headers), matching.of_masks]
        if are_heights(config):
            parts.append(label_findings(config, self.schema, taken, matching.headers))
        for part in parts:
            for url, findings in part.items():
                found[url] = asked_once([*found.get(url, ()), *findings])
        return found

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Read the chips strip by strip; where a strip cannot be read whole, chip by chip."""
        # Numbers instead of values: the text may be long, and is the same for all chips of an image.
        images, rasters = (encoded(table[name]) for name in ("_image", "_rasters"))
        columns = (images.indices, rasters.indices, table["_row"], table["_column"])
        places = zip(*(column.to_pylist() for column in columns), strict=True)
        for (image, serving), of_image in groupby(places, key=lambda place: place[:2]):
            corners = [place[2:] for place in of_image]
            url, served = images.dictionary[image].as_py(), rasters.dictionary[serving].as_py()
            try:
                scene = OpenScene(self.config, self.schema, url, Serving.from_json(served))
            except Rejected as rejected:
                yield from [rejected] * len(corners)
                continue
            with scene:
                for row, of_row in groupby(corners, key=lambda corner: corner[0]):
                    yield from _chips(scene, row, [column for _, column in of_row])

    def _grid(self, url: str) -> Grid:
        """Return the image's grid.

        Raises:
            InputError: bands, type, nodata or pixel size differ from the first image's.
        """
        with ExitStack() as opened:
            image = open_image(self.config, url, opened)
            numbers = band_numbers(self.config, url, image, self.schema)
            _refuse_other_meaning(url, image, numbers, self.schema)
            return Grid.of(image)

    def _corners(self, grid: Grid) -> tuple[Integers, Integers]:
        """Return rows and columns of the first pixels of whole chips."""
        size, stride = self.config.chip_size, self.config.stride or self.config.chip_size
        rows, columns = (np.arange(0, side - size + 1, stride) for side in (grid.height, grid.width))
        return rows, columns


class _Matching:
    """The rasters given by the options, matched with images."""

    def __init__(self, config: ScenesConfig, images: list[SceneImage]) -> None:
        self.config = config
        read = header_reader(config)

        def of_mask(_: str, raster: Any) -> list[Finding]:
            return mask_findings(raster, config.mask_drop)

        self._heights, self._ground, self._masks = (
            RasterFootprints(_expanded(patterns) if patterns else [], look)
            for patterns, look in ((config.heights, read), (config.ground, read), (config.mask, of_mask))
        )
        self.headers: dict[str, HeightHeader | None] = {**self._heights.found, **self._ground.found}
        self.of_masks: Found = self._masks.found
        self._images_of_mask = images_of_masks(self._masks.urls, [image.name for image in images])

    def serving(self, image: SceneImage) -> Serving:
        """Find the rasters that serve the image.

        Raises:
            Rejected: the image is of another season, or has no heights or no mask.
            InputError: its heights are surface elevations, and no ground raster overlaps it.
        """
        config, day = self.config, image.known.acquired or day_in(image.name)
        if config.months and day is None:
            raise Rejected(NO_DATE, f"{image.url}: its name says no day; see --key-pattern")
        if config.months and day is not None and int(day[5:7]) not in config.months:
            raise Rejected(OUT_OF_SEASON, f"{image.url}: taken on {day}")
        overlapping = self._heights.overlapping(image.grid)
        if config.heights and not overlapping:
            raise Rejected("no height raster overlaps", image.url)
        heights = near_in_time(overlapping, day, config.max_days)
        if overlapping and not heights:
            raise Rejected(NOT_IN_TIME, f"{image.url}: none within {config.max_days} days")
        ground = tuple(self._ground.overlapping(image.grid))
        if config.ground and not ground:
            raise InputError(
                f"{image.url}: no ground raster overlaps it, so heights are unknown; add one to --ground"
            )
        everyone = frozenset({image.name})
        masks = tuple(
            mask
            for mask in self._masks.overlapping(image.grid)
            if image.name in self._images_of_mask.get(mask.url, everyone)
        )
        if config.mask and not masks:
            raise Rejected(NO_MASK, image.url)
        return Serving(heights, ground, masks, self._metres(heights + ground))

    def _metres(self, rasters: tuple[Placed, ...]) -> dict[str, float]:
        """Return the length of the unit of rasters that are not in metres."""
        headers = {raster.url: self.headers[raster.url] for raster in rasters}
        return {
            url: header.unit.metres
            for url, header in headers.items()
            if header is not None and not header.unit.is_metre
        }


def _chips(scene: OpenScene, row: int, columns: list[int]) -> Iterator[Raw | Rejected]:
    """Read the chips of a strip; if it is damaged, each alone: a chip is good if its own pixels are."""
    size = scene.schema.chip_size
    try:
        strip = scene.strip(row, min(columns), max(columns) + size)
    except Rejected:
        strip = None
    for column in columns:
        try:
            yield scene.chip(strip or scene.strip(row, column, column + size), column)
        except Rejected as rejected:
            yield rejected


def _check_options(config: ScenesConfig) -> None:
    if config.stride < 0:
        raise InputError(f"--stride {config.stride}: give 1 pixel or more, or 0 for the chip size")
    if config.pixel_size < 0:
        raise InputError(f"--pixel-size {config.pixel_size:g}: give a size above 0, or 0 for the image's own")
    if not set(config.months) <= set(range(1, 13)):
        raise InputError(f"--months {' '.join(map(str, config.months))}: give numbers from 1 to 12")
    if config.max_days is not None and config.max_days < 0:
        raise InputError(f"--max-days {config.max_days}: give 0 or more")


def _expanded(patterns: tuple[str, ...]) -> list[str]:
    """Expand patterns to URLs, each once even where two patterns match the same file."""
    return list(dict.fromkeys(url for pattern in patterns for url in expand(pattern)))


def _known(name: str, config: ScenesConfig) -> KeyFacts:
    """Return the facts that all keys of a scene share; unless a pattern names the scene, it is the file."""
    pattern = key_pattern(config.key_pattern) if config.key_pattern else None
    known = facts(f"{name}_00000_00000", pattern)
    return replace(known, scene=(pattern and known.scene) or name)


def _refuse_other_meaning(url: str, image: Any, numbers: list[int], schema: Schema) -> None:
    """Refuse an image whose missing pixels cannot be marked, or whose pixel size is not the first image's."""
    own = nodata_to_store(source_of(image), numbers, None)
    if schema.nodata is None and own is not None:
        raise InputError(
            f"{url}: marks missing pixels (nodata {own:g}, or a mask), and the first image does not; give "
            f"--nodata {own:g}"
        )
    size, first = PixelSize.of(Grid.of(image)), PixelSize.of_schema(schema)
    if not size.is_like(first):
        raise InputError(
            f"{url}: pixels are {size}, not {first} as in the first image; resample all with --pixel-size "
            "(and --crs where CRSs have other units)"
        )


def _refuse_repeated_names(urls: list[str]) -> None:
    seen: dict[str, str] = {}
    for url in urls:
        other = seen.setdefault(scene_name(url), url)
        if other != url:
            raise InputError(
                f"{url}: has the same name as {other}; chips are named after scenes, so rename one"
            )
