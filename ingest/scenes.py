"""Rasters -> a dataset: heights are brought onto each image's grid, and both are cut to chips.

The grid of chips is anchored at the image's first pixel; a chip's key is SCENE_ROW_COLUMN, in pixels. One
row of chips is in memory at a time, so the size of a scene does not matter.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, transform_bounds
from rasterio.windows import Window

from ingest.check import HEIGHT_NODATA, Rejected, checked_height, checked_image
from ingest.config import ScenesConfig, made_by
from shards.errors import InputError
from shards.key import facts, is_valid
from shards.manifest import Manifest
from shards.progress import Advance, progress
from shards.raster import band_names, open_raster, read_window
from shards.schema import EXACT_DTYPES, Chip, Schema
from shards.storage import expand, stem_of
from shards.writer import DatasetWriter, SplitRule

PIXEL_SIZE_TOLERANCE = 0.01
"""Images of one dataset may differ so much (as a share) in the width of their pixels."""


@dataclass(frozen=True)
class Scene:
    """One image and the rasters that give its heights, all on the image's grid (which may be resampled)."""

    name: str
    image: Any
    band_numbers: tuple[int, ...]
    """1, 2, ...: the raster's bands that are kept, in the dataset's order."""
    heights: tuple[Any, ...]
    ground: tuple[Any, ...]
    source: str | None
    """Name of the first height raster."""

    def corners(self, size: int, stride: int) -> list[tuple[int, int]]:
        """(row, column) of the first pixel of each whole chip."""
        rows = range(0, self.image.height - size + 1, stride)
        columns = range(0, self.image.width - size + 1, stride)
        return [(row, column) for row in rows for column in columns]


def ingest_scenes(config: ScenesConfig) -> tuple[Manifest, str]:
    """Make the dataset; returns its manifest and one line about the rejected chips.

    Raises:
        InputError: a raster that cannot be used, no chip kept, or (strict) a chip that would be rejected.
    """
    # Once each, also where two patterns name the same file.
    images = list(dict.fromkeys(url for pattern in config.images for url in expand(pattern)))
    _refuse_repeated_names(images)
    with ExitStack() as rasters:
        heights = _open_all(config.heights, rasters)
        ground = _open_all(config.ground, rasters)
        schema = _schema(config, images[0])
        rule = SplitRule(config.val_share, config.split_by)
        stride = config.stride or config.chip_size
        total = sum(_number_of_chips(config, url, schema) for url in images)
        if not total:
            raise InputError(
                f"{images[0]}: is smaller than a chip of {schema.chip_size} pixels; see --chip-size"
            )
        with (
            DatasetWriter(config.out, schema, rule, made_by(config)) as writer,
            progress("ingest", total, "chips") as advance,
        ):
            for url in images:
                with ExitStack() as opened:
                    scene = _open_scene(config, url, schema, (heights, ground), opened)
                    _add_chips(scene, stride, writer, (schema, config.strict), advance)
            return writer.finish(), writer.describe_rejected()


def _add_chips(
    scene: Scene, stride: int, writer: DatasetWriter, rules: tuple[Schema, bool], advance: Advance
) -> None:
    schema, strict = rules
    for key, cut in _cuts(scene, schema, stride):
        try:
            writer.add(_chip(scene, key, cut, schema))
        except Rejected as rejected:
            if strict:
                raise InputError(f"{key}: {rejected}; nothing written (--strict)") from rejected
            writer.reject(key, rejected.reason, rejected.detail)
        advance(1, f"kept {writer.kept:,}, rejected {writer.rejected.total():,}")


@dataclass(frozen=True)
class Cut:
    """The pixels of one chip and where they are."""

    row: int
    column: int
    image_CHW: NDArray[Any]
    height_HW: NDArray[np.float32]
    is_whole: bool
    """Whether the image reaches over the whole chip."""


def _cuts(scene: Scene, schema: Schema, stride: int) -> Iterator[tuple[str, Cut]]:
    """Every chip of the scene with its key, row by row."""
    size = schema.chip_size
    strip_row, image_CHW, height_HW, inside_HW = -1, np.empty(0), np.empty(0, np.float32), np.empty(0, bool)
    for row, column in scene.corners(size, stride):
        if row != strip_row:
            strip_row, window = row, Window(0, row, scene.image.width, size)
            image_CHW = read_window(scene.image, indexes=list(scene.band_numbers), window=window)
            inside_HW = np.ones(image_CHW.shape[1:], bool)
            if scene.image.count > _source(scene.image).count:  # alpha, see _open_image
                inside_HW = read_window(scene.image, indexes=scene.image.count, window=window) > 0
            height_HW = _on_grid(scene.heights, window)
            if scene.ground:
                height_HW = height_HW - _on_grid(scene.ground, window)
        columns = slice(column, column + size)
        is_whole = bool(inside_HW[:, columns].all())
        cut = Cut(row, column, image_CHW[:, :, columns], height_HW[:, columns], is_whole)
        yield f"{scene.name}_{row:05d}_{column:05d}", cut


def _chip(scene: Scene, key: str, cut: Cut, schema: Schema) -> Chip:
    if not is_valid(key):
        raise Rejected("unusable key", "the scene's name is too long: at most 77 characters")
    if not scene.heights:
        raise Rejected("no height raster overlaps", scene.image.name)
    if not cut.is_whole:
        raise Rejected("nodata in image", "beyond the image's footprint")
    image_CHW = checked_image(cut.image_CHW, schema)
    height_HW = checked_height(cut.height_HW, schema)
    half = schema.chip_size / 2
    x, y = scene.image.transform @ (cut.column + half, cut.row + half)
    known, crs = facts(scene.name), scene.image.crs.to_string()
    return Chip(key, image_CHW, height_HW, scene.source, known.sensor, known.acquired, scene.name, x, y, crs)


def _on_grid(rasters: Sequence[Any], window: Window) -> NDArray[np.float32]:
    """Metres (rows, columns) from the first raster that has a value; NaN where none has."""
    merged_HW = np.full((int(window.height), int(window.width)), np.nan, np.float32)
    for raster in rasters:
        values_HW = read_window(raster, indexes=1, window=window)
        take = np.isnan(merged_HW) & (values_HW != HEIGHT_NODATA)
        merged_HW[take] = values_HW[take]
    return merged_HW


def _open_all(patterns: Sequence[str], opened: ExitStack) -> list[Any]:
    urls = [url for pattern in patterns for url in expand(pattern)]
    return [opened.enter_context(open_raster(url)) for url in urls]


def _open_image(config: ScenesConfig, url: str, opened: ExitStack) -> Any:
    """The image, resampled if --crs or --pixel-size ask for it."""
    source = opened.enter_context(open_raster(url))
    if not (config.crs or config.pixel_size):
        return source
    try:
        crs = CRS.from_user_input(config.crs) if config.crs else source.crs
    except CRSError as error:
        raise InputError(f"--crs {config.crs}: not a CRS that GDAL knows; try EPSG:3338") from error
    transform, width, height = calculate_default_transform(
        source.crs, crs, source.width, source.height, *source.bounds, resolution=config.pixel_size or None
    )
    return opened.enter_context(
        WarpedVRT(
            source,
            crs=crs,
            transform=transform,
            width=width,
            height=height,
            resampling=Resampling.bilinear,
            # Without a nodata value, alpha alone tells what lies beyond the image's footprint.
            add_alpha=source.nodata is None,
        )
    )


def _open_scene(
    config: ScenesConfig,
    url: str,
    schema: Schema,
    elevations: tuple[list[Any], list[Any]],
    opened: ExitStack,
) -> Scene:
    image = _open_image(config, url, opened)
    names = band_names(_source(image), config.bands, schema.bands)
    missing = [name for name in schema.bands if name not in names]
    if missing or image.dtypes[0] != schema.dtype:
        found = f"{image.dtypes[0]} {' '.join(names)}"
        raise InputError(f"{url}: is {found}, not {schema.dtype} {' '.join(schema.bands)} as the first image")
    _refuse_other_meaning(url, image, schema)
    resampling = Resampling[config.height_resampling]

    def serving(rasters: list[Any]) -> list[Any]:
        return [raster for raster in rasters if _overlap(raster, image)]

    def on_image_grid(raster: Any) -> Any:
        return opened.enter_context(
            WarpedVRT(
                raster,
                crs=image.crs,
                transform=image.transform,
                width=image.width,
                height=image.height,
                resampling=resampling,
                src_nodata=HEIGHT_NODATA if raster.nodata is None else raster.nodata,
                nodata=HEIGHT_NODATA,
                dtype="float32",
            )
        )

    heights, ground = (serving(rasters) for rasters in elevations)
    if config.ground and heights and not ground:
        raise InputError(f"{url}: no ground raster overlaps it, so heights are unknown; add one to --ground")
    return Scene(
        name=_scene_name(url),
        image=image,
        band_numbers=tuple(names.index(name) + 1 for name in schema.bands),
        heights=tuple(on_image_grid(raster) for raster in heights),
        ground=tuple(on_image_grid(raster) for raster in ground),
        source=_scene_name(heights[0].name) if heights else None,
    )


def _refuse_other_meaning(url: str, image: Any, schema: Schema) -> None:
    """Refuse an image whose pixels mean something else than those of the first image."""
    if image.nodata != schema.nodata:
        raise InputError(f"{url}: nodata is {image.nodata}, not {schema.nodata} as in the first image")
    pixel_size = abs(image.transform.a)
    if not math.isclose(pixel_size, schema.pixel_size, rel_tol=PIXEL_SIZE_TOLERANCE):
        raise InputError(
            f"{url}: pixels are {pixel_size:g} wide, not {schema.pixel_size:g} as in the first image; "
            "resample all with --pixel-size"
        )


def _source(image: Any) -> Any:
    """The raster that a resampled image is made from, or the image itself."""
    return getattr(image, "src_dataset", image)


def _overlap(raster: Any, image: Any) -> bool:
    """Whether they share an area of more than rounding; a common edge is none."""
    left, bottom, right, top = transform_bounds(raster.crs, image.crs, *raster.bounds)
    width = min(right, image.bounds.right) - max(left, image.bounds.left)
    height = min(top, image.bounds.top) - max(bottom, image.bounds.bottom)
    return bool(min(width, height) > 1e-3 * abs(image.transform.a))


def _schema(config: ScenesConfig, url: str) -> Schema:
    """What every image must be like: as the first one is."""
    with ExitStack() as opened:
        image = _open_image(config, url, opened)
        names = band_names(_source(image), config.bands)
        if image.dtypes[0] not in EXACT_DTYPES:
            allowed = ", ".join(EXACT_DTYPES)
            raise InputError(f"{url}: pixels are {image.dtypes[0]}; images must be one of {allowed}")
        nodata = None if image.nodata is None else int(image.nodata)
        pixel_size = abs(image.transform.a)
        every = Schema(names, image.dtypes[0], nodata, config.chip_size, pixel_size)
        every.band_positions(config.use)
        return Schema(config.use or names, every.dtype, nodata, config.chip_size, pixel_size)


def _number_of_chips(config: ScenesConfig, url: str, schema: Schema) -> int:
    with ExitStack() as opened:
        image = _open_image(config, url, opened)
        scene = Scene(_scene_name(url), image, (), (), (), None)
        return len(scene.corners(schema.chip_size, config.stride or schema.chip_size))


def _scene_name(url: str) -> str:
    """The file's stem, as a chip key may contain it."""
    return "".join(letter if is_valid(letter) else "_" for letter in stem_of(url))


def _refuse_repeated_names(urls: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for url in urls:
        other = seen.setdefault(_scene_name(url), url)
        if other != url:
            raise InputError(f"{url}: has the same name as {other}; chips are named after scenes, rename one")
