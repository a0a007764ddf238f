"""Map of one scene: where it goes, its blocks, and how they are assembled once all are done."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from rasterio._err import CPLE_BaseError  # PROJ's errors have no public name
from rasterio.errors import RasterioError
from shapely.errors import ShapelyError

from inference.maps.map_file import NODATA, map_writer
from inference.maps.quick_look import quick_look_url, write_quick_look
from inference.maps.stac_item import item_url, write_stac_item
from inference.maps.style import style_url, write_style
from inference.predict.block_tasks import MapJob
from inference.predict.map_folder import MapFolder
from inference.predict.map_part import MapPart, WantedPart, overlap, without
from inference.scenes.check import findings_of
from inference.scenes.masks import Masks, SceneMasks
from inference.scenes.scene import Scene
from inference.scenes.scene_list import map_stem
from inference.tiling.windows import Block, blocks_of
from shards.errors import DatasetError, InputError, one_line
from shards.format.manifest import StoredObject
from shards.format.statistics import Statistics
from shards.raster.finding import FINDINGS_TAG, Finding, OnMismatch, findings_by_code, kind_of, refusal
from shards.raster.grid import Grid
from shards.storage.checksum import hexadecimal
from shards.storage.objects import name_of, version_of, whole_url

OPENED_AT_ONCE = 16
"""Scenes whose headers are read at the same time, because on S3 each takes several requests."""
FEW = 32
"""Most scenes whose headers are read twice, so that a mistake of all is found before anything starts."""
SMALLER_TAG = "TREELINE_BLOCKS_WITH_SMALLER_BATCH"
"""Metadata of a map: number of its blocks that memory was too small for with --batch-size."""


@dataclass(frozen=True)
class SceneMap:
    """Map that is to be made of one scene."""

    scene: str
    """URL of the scene."""
    url: str
    """URL of the map."""
    grid: Grid
    """Grid of the map."""
    version: str
    """Version of the scene's file."""
    identity: str
    """Digits that stand for the scene's version and everything else that the map depends on."""
    findings: tuple[Finding, ...] = ()
    """Findings about a scene that does not fit the training."""
    masks: SceneMasks | None = None
    """Masks of the scene."""
    part: MapPart | None = None
    """Part of the map that is wanted; None: the whole."""
    kept: tuple[Block, ...] = ()
    """Finished blocks of another cut, which take the place of those of this one."""

    @property
    def stem(self) -> str:
        """Name of the map's file without its ending."""
        return map_stem(name_of(self.url))

    @property
    def name(self) -> str:
        """Name in the ledger; it changes when the scene's file is replaced."""
        return f"{self.stem}-{self.identity}"

    @property
    def made(self) -> str:
        """Name in the ledger under which the map is noted as complete; that of a part is its own."""
        return self.name + (self.part.suffix if self.part else "")

    def blocks(self, size: int) -> Iterator[Block]:
        """Cut what is wanted of the map into disjoint blocks: those that are kept, then others row by row."""
        part, grid = self.part, self.grid
        kept = [block for block in self.kept if not part or part.touches(block, grid)]
        yield from kept
        for block in blocks_of(grid.height, grid.width, size):
            wanted = overlap(block, part.window) if part else block
            for piece in without(wanted, kept) if wanted else ():
                if not part or part.touches(piece, grid):
                    yield piece


@dataclass(frozen=True)
class Failed:
    """Scene that has no map, and the reason."""

    scene: str
    reason: str
    is_refused: bool = False
    """Whether this was known before the work began: it cannot be mapped, or is unlike the training."""
    kind: str = ""
    """What scenes that are refused for one reason have in common, whatever their numbers; "" if unknown."""


@dataclass(frozen=True)
class Outside:
    """Scene of which nothing is wanted."""

    scene: str
    where: str
    """Bounds and CRS of the scene."""


@dataclass(frozen=True)
class Targets:
    """Maps that are asked for."""

    urls: dict[str, str]
    """URL of each map, by the URL of its scene."""
    statistics: Statistics
    """Statistics of the training."""
    masks: Masks | None
    """Masks of the scenes; None: they have none."""
    wanted: WantedPart
    """Part of the maps that is wanted."""


def without_use(targets: Targets, job: MapJob) -> list[Failed]:
    """Return why no scene can be mapped, if the headers of all say so; [] of more than FEW scenes."""
    failed: list[Failed] = []
    for scene in targets.urls if len(targets.urls) <= FEW else ():
        try:
            with Scene(scene, job.schema, job.bands, nodata=job.nodata) as opened:
                Grid.of(opened.raster)
            return []
        except InputError as error:
            failed.append(Failed(scene, error.line, is_refused=True))
    return failed


def survey(
    targets: Targets, job: MapJob, made_with: str, folder: MapFolder, on_mismatch: OnMismatch
) -> Iterator[SceneMap | Failed | Outside]:
    """Describe the map to make of each scene, in order, from the scene's header and a few of its pixels.

    A scene whose map is complete is not checked again.

    Args:
        targets: the maps.
        job: settings of the run.
        made_with: digits that stand for the checkpoint and the options.
        folder: contents of --out.
        statistics: statistics of the training.
        on_mismatch: which scenes that are unlike the training are refused.
    """
    masks, wanted = targets.masks, targets.wanted

    def look(scene: str) -> SceneMap | Failed | Outside:
        try:
            with Scene(scene, job.schema, job.bands, nodata=job.nodata) as opened:
                version, grid = version_of(scene), Grid.of(opened.raster)
                whole = job.content.grid(grid)
                part = wanted.part(whole) if wanted else None
                if wanted and part is None:
                    bounds = " ".join(f"{edge:.10g}" for edge in grid.bounds)
                    return Outside(scene, f"{bounds} in {grid.crs}")
                depends_on, of_scene = f"{version} {made_with}", None
                if masks:
                    of_scene = masks.of(scene, grid)
                    depends_on += f" {of_scene.names} {of_scene.versions}"
                identity = hexadecimal(depends_on.encode())[:8]
                found = SceneMap(scene, targets.urls[scene], whole, version, identity, (), of_scene, part)
                if folder.has({found.name, found.made}, found.url):
                    return found
                findings = findings_of(opened, targets.statistics) + opened.assumed
                if masks and of_scene:
                    findings += masks.findings(of_scene)
                if reason := refusal(scene, findings, on_mismatch):
                    return Failed(scene, reason, is_refused=True, kind=kind_of(findings))
                return replace(found, findings=findings)
        except InputError as error:
            return Failed(scene, error.line, is_refused=True)

    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        yield from threads.map(look, targets.urls)


def complete(scene_map: SceneMap, job: MapJob) -> str:
    """Assemble a map whose blocks are all in the ledger, and write the files that are wanted beside it.

    Returns:
        Why there is no map, in one line: a block is missing or damaged, or no pixel has a value. Empty if
        everything is written.
    """
    try:
        _assemble(scene_map, job)
    except (DatasetError, InputError, RasterioError) as error:
        return str(error)
    return write_beside(scene_map.url, job, set())


def _assemble(scene_map: SceneMap, job: MapJob) -> None:
    valid, ledger = 0, job.ledger
    smaller = ledger.smaller_blocks(scene_map.name) & set(scene_map.blocks(job.block_side))
    tags = {**dict(job.tags), **job.content.tags, "TREELINE_SCENE": name_of(scene_map.scene)}
    if recorded := findings_by_code(scene_map.findings):
        tags[FINDINGS_TAG] = json.dumps(recorded)
    if smaller:
        tags[SMALLER_TAG] = str(len(smaller))
    bands, part, grid = job.content.bands(job.options), scene_map.part, scene_map.grid
    if part:
        grid = part.grid(scene_map.grid)
        tags["TREELINE_PART"] = " ".join(f"{edge:.10g}" for edge in grid.bounds)
    if scene_map.masks:
        tags["TREELINE_MASK"] = scene_map.masks.names
    made_of = {
        "scene": whole_url(scene_map.scene),
        "scene_version": scene_map.version,
        "checkpoint": whole_url(job.checkpoint),
        "fingerprint": job.fingerprint,
    }

    def describe(stored: StoredObject) -> None:
        ledger.describe(scene_map.made, stored, made_of)

    with map_writer(scene_map.url, grid, bands, tags, describe) as write:
        for block in scene_map.blocks(job.block_side):
            stored_CHW = ledger.read(scene_map.name, block, block in smaller)
            if part:
                block, stored_CHW = part.cut(block, stored_CHW, NODATA, scene_map.grid)
            valid += int(np.count_nonzero(stored_CHW[0] != NODATA))
            write(block, stored_CHW)
        if not valid:
            cut = " within --bounds or --area" * bool(part) + " outside its masks" * bool(scene_map.masks)
            raise DatasetError(f"{scene_map.scene}: {nothing_valid(job, cut)}")


def nothing_valid(job: MapJob, cut: str = "") -> str:
    """Say that there is nothing to map; `cut` says which pixels were looked at, if not all."""
    what = "pixel" if job.content.tile == 1 else f"whole tile of {job.content.tile} pixels"
    return f"no {what}{cut} has all bands that the model reads"


def write_beside(url: str, job: MapJob, there: set[str]) -> str:
    """Write the files that are wanted beside the map at `url`, except those that are `there` already.

    Returns:
        Why they cannot be written, in one line; empty if they are.
    """
    picture, item, colours = (name_of(beside) not in there for beside in beside_map(url))
    try:
        if colours:
            write_style(url, job.palette)
        if job.quick_look and picture:
            write_quick_look(url, job.palette)
        if job.stac and (item or (job.quick_look and picture)):  # an item names the picture
            write_stac_item(url, job.quick_look)
    except (InputError, RasterioError, CPLE_BaseError, ShapelyError, ValueError) as error:
        return f"{url}: its style, picture or STAC item cannot be written ({one_line(error)})"
    return ""


def beside_map(url: str) -> tuple[str, str, str]:
    """Return the URLs of the picture, of the STAC item and of the style beside the map at `url`."""
    return quick_look_url(url), item_url(url), style_url(url)
