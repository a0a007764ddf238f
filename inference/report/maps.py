"""Maps in a report: what they show, beside their scenes and measured heights, and what made them."""

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from inference.config import ReportConfig, ViewConfig
from inference.maps.height_map import ACQUIRED, TAGS
from inference.maps.quick_look import quick_look
from inference.report.found import said_of_scene
from inference.report.left import Left
from inference.view.overview import overview
from inference.view.panel import Layer, panel
from shards.draw.html import figure, heading, sentence
from shards.raster.grid import Grid, reaches
from shards.raster.opening import open_raster
from shards.storage.objects import name_of
from shards.storage.patterns import each_file_once, expand_as_given

MOST_PANELS = 4
"""Most maps whose pixels are in the page, to be looked at closely: each takes a megabyte or two."""
MOST_PIXELS = 800
"""Most pixels along a side of such a map in the page."""
HOW = (
    "Drag the border to compare both sides, and choose what each side shows. Zoom with the wheel or with + "
    "and -. Point at a place for its values. Large maps are shown in fewer pixels, which are means; treeline "
    "view shows every pixel."
)
ALIKE = "All maps have the same colours."
PICTURES = "Maps to explore have the same colours; the others are pictures, each with its own."


def map_section(beside: Mapping[str, ViewConfig], left: Left) -> Markup:
    """Show each map.

    Args:
        beside: what is looked at with each map.
        left: what the run left.

    Raises:
        InputError: a scene or a raster of heights is not there, or cannot be used.
    """
    shown, panels = Markup(), dict[str, tuple[list[Layer], str]]()
    for url in left.maps:
        if len(panels) < MOST_PANELS:
            layers, crs = overview(beside[url], MOST_PIXELS)
            if layers:
                panels[url] = layers, crs
    # Maps have the same colours, so that they can be compared.
    every = [layer for layers, _ in panels.values() for layer in layers]
    for url in left.maps:
        with open_raster(url) as raster:
            tags = raster.tags()
        shown += heading(name_of(url)) + sentence(_made_by(left, tags)) + said_of_scene(tags)
        if url in panels:
            layers, crs = panels[url]
            shown += panel(layers, crs, name_of(url), alike=every)
        else:
            shown += figure(quick_look(url), f"Map {name_of(url)}")
    colours = [PICTURES] if len(panels) < len(left.maps) else [ALIKE] if len(panels) > 1 else []
    return (sentence(" ".join([HOW, *colours])) if panels else Markup()) + shown


def beside_maps(config: ReportConfig, maps: Iterable[str]) -> dict[str, ViewConfig]:
    """Return what is looked at with each map: the first scene and all rasters that overlap it.

    Raises:
        InputError: a raster is not there, or is none.
    """
    scenes, rasters = (
        {
            url: _grid(url)
            for url in each_file_once(one for pattern in patterns for one in expand_as_given(pattern))
        }
        for patterns in (config.image, config.heights)
    )
    return {url: _beside(url, scenes, rasters) for url in maps}


def _beside(url: str, scenes: Mapping[str, Grid], rasters: Mapping[str, Grid]) -> ViewConfig:
    grid = _grid(url)

    def overlapping(grids: Mapping[str, Grid]) -> list[str]:
        return [url for url, its in grids.items() if reaches(its.spread(grid.crs), grid, surely=True)]

    return ViewConfig((url,), next(iter(overlapping(scenes)), ""), tuple(overlapping(rasters)))


def _grid(url: str) -> Grid:
    with open_raster(url) as raster:
        return Grid.of(raster)


def _made_by(left: Left, tags: Mapping[str, str]) -> str:
    """Say what made a map, and whether the scores above are of the same checkpoint."""
    said = "Made"
    if scene := tags.get(f"{TAGS}SCENE"):
        said += f" from the scene {scene}"
        if day := tags.get(ACQUIRED):
            said += f" of {day}"
    ours = left.evaluation.get("checkpoint_fingerprint")
    if theirs := tags.get(f"{TAGS}CHECKPOINT"):
        same = "the checkpoint that was scored" if ours == theirs else f"checkpoint {theirs}"
        another = "" if ours in (None, theirs) else ", which is not the one that was scored"
        said += f" with {same}{another}"
    return "" if said == "Made" else f"{said}."
