"""Maps in a report: what they show, and what made them."""

from collections.abc import Mapping

from markupsafe import Markup

from inference.config import ReportConfig
from inference.maps.height_map import ACQUIRED, TAGS
from inference.maps.quick_look import quick_look
from inference.report.figures import scene_and_map
from inference.report.left import Left
from shards.draw.html import figure, heading, sentence
from shards.raster.opening import open_raster
from shards.storage.objects import name_of


def map_section(config: ReportConfig, left: Left) -> Markup:
    """Show each map, beside its scene and measured heights where there is one of each for every map."""
    shown = Markup()
    beside = list(zip(config.image, config.heights, strict=False))
    for number, url in enumerate(left.maps):
        with open_raster(url) as raster:
            tags = raster.tags()
        shown += heading(name_of(url)) + sentence(_made_by(left, tags))
        if len(config.image) == len(config.heights) == len(left.maps) and left.dataset:
            image, heights = beside[number]
            drawn = scene_and_map(image, heights, url, left.dataset.schema.bands)
            shown += figure(drawn, f"The scene, its measured heights, and the map {name_of(url)}")
        else:
            shown += figure(quick_look(url), f"Map {name_of(url)}")
    return shown


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
