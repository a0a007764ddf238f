"""Maps in a report: what they show, beside their scenes and measured heights, and what made them."""

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from inference.config import ReportConfig
from inference.maps.height_map import ACQUIRED, TAGS
from inference.maps.quick_look import quick_look
from inference.report.layers import map_layers
from inference.report.left import Left
from inference.score.measured_heights import HeightRasters
from inference.view.panel import panel
from shards.draw.html import figure, heading, sentence
from shards.raster.opening import open_raster
from shards.storage.objects import name_of
from shards.storage.patterns import each_file_once, expand

MOST_PANELS = 4
"""Most maps whose pixels are in the page, to be looked at closely: each takes a megabyte or two."""
HOW = (
    "Move the border to compare, choose what each side shows, zoom with the wheel or + and -, and point for "
    "values. Pixels are means: treeline view shows all of them."
)


def map_section(config: ReportConfig, left: Left) -> Markup:
    """Show each map.

    Raises:
        InputError: a scene or a raster of heights is not there, or cannot be used.
    """
    scenes, rasters = (_expanded(patterns) for patterns in (config.image, config.heights))
    measured = HeightRasters(rasters) if rasters else None
    shown, panels = Markup(), 0
    for url in left.maps:
        with open_raster(url) as raster:
            tags = raster.tags()
        shown += heading(name_of(url)) + sentence(_made_by(left, tags))
        found = map_layers(url, scenes, measured) if panels < MOST_PANELS else None
        if found:
            shown += panel(found.layers, found.crs, name_of(url))
            panels += 1
        else:
            shown += figure(quick_look(url), f"Map {name_of(url)}")
    return (sentence(HOW) if panels else Markup()) + shown


def _expanded(patterns: Iterable[str]) -> list[str]:
    return each_file_once(url for pattern in patterns for url in expand(pattern))


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
