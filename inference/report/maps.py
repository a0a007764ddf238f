"""Maps in a report: what they show, beside their scenes and measured heights, and what made them."""

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from inference.config import ReportConfig, ViewConfig
from inference.maps.height_map import ACQUIRED, TAGS
from inference.maps.quick_look import quick_look
from inference.report.left import Left
from inference.view.overview import overview
from inference.view.panel import Layer, panel
from shards.draw.html import figure, heading, sentence
from shards.raster.grid import Grid, reaches
from shards.raster.opening import open_raster
from shards.storage.objects import name_of
from shards.storage.patterns import each_file_once, expand

MOST_PANELS = 4
"""Most maps whose pixels are in the page, to be looked at closely: each takes a megabyte or two."""
MOST_PIXELS = 800
"""Most pixels along a side of such a map in the page."""
HOW = (
    "Move the border to compare, choose what each side shows, zoom with the wheel or + and -, and point for "
    "values. Pixels are means: treeline view shows all of them. All maps have the same colours."
)
PICTURES = "Further maps are pictures, each with its own colours."


def map_section(config: ReportConfig, left: Left) -> Markup:
    """Show each map.

    Raises:
        InputError: a scene or a raster of heights is not there, or cannot be used.
    """
    shown, panels = Markup(), dict[str, tuple[list[Layer], str]]()
    for url in left.maps:
        if len(panels) < MOST_PANELS:
            layers, crs = overview(viewed_with(config, url), MOST_PIXELS)
            if layers:
                panels[url] = layers, crs
    # Maps have the same colours, so that they can be compared.
    every = [layer for layers, _ in panels.values() for layer in layers]
    for url in left.maps:
        with open_raster(url) as raster:
            tags = raster.tags()
        shown += heading(name_of(url)) + sentence(_made_by(left, tags))
        if url in panels:
            layers, crs = panels[url]
            shown += panel(layers, crs, name_of(url), alike=every)
        else:
            shown += figure(quick_look(url), f"Map {name_of(url)}")
    pictures = sentence(PICTURES) if panels and len(panels) < len(left.maps) else Markup()
    return (sentence(HOW) if panels else Markup()) + pictures + shown


def viewed_with(config: ReportConfig, url: str) -> ViewConfig:
    """Return what is looked at with the map at `url`: the first scene and all rasters that overlap it.

    Raises:
        InputError: a raster is not there, or is none.
    """
    with open_raster(url) as raster:
        grid = Grid.of(raster)
    scenes, rasters = (
        [one for one in _expanded(patterns) if _overlaps(one, grid)]
        for patterns in (config.image, config.heights)
    )
    return ViewConfig((url,), next(iter(scenes), ""), tuple(rasters))


def _expanded(patterns: Iterable[str]) -> list[str]:
    return each_file_once(url for pattern in patterns for url in expand(pattern))


def _overlaps(url: str, grid: Grid) -> bool:
    with open_raster(url) as raster:
        return reaches(Grid.of(raster).spread(grid.crs), grid, surely=True)


def _made_by(left: Left, tags: Mapping[str, str]) -> str:
    """Say what made a map, and whether the scores above are of the same checkpoint."""
    said = []
    if scene := tags.get(f"{TAGS}SCENE"):
        said.append(f"Of the scene {scene}.")
    if day := tags.get(ACQUIRED):
        said.append(f"Taken on {day}.")
    ours = left.evaluation.get("checkpoint_fingerprint")
    if theirs := tags.get(f"{TAGS}CHECKPOINT"):
        same = "the checkpoint that was scored" if ours == theirs else f"checkpoint {theirs}"
        another = "" if ours in (None, theirs) else ", which is not the one that was scored"
        said.append(f"Made with {same}{another}.")
    return " ".join(said)
