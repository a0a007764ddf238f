"""Findings about datasets and scenes, which their files record: what a reader of the scores should know."""

from collections.abc import Mapping

from markupsafe import Markup

from inference.report.left import Left, opened
from shards.draw.html import Cell, sentence, table
from shards.raster.finding import findings_in, recorded_findings
from shards.raster.opening import open_raster
from shards.storage.objects import name_of


def findings_section(left: Left) -> Markup:
    """List the findings about the datasets and the maps of a run; empty if there are none.

    Raises:
        InputError: a map cannot be opened.
    """
    rows: list[tuple[Cell, ...]] = []
    trained = str(left.options.get("data", ""))
    for url in dict.fromkeys((trained, left.data)):
        dataset = left.dataset if url == left.data else opened(url)
        if dataset:
            said = (line for lines in recorded_findings(dataset.manifest.made_by).values() for line in lines)
            rows += [(f"dataset {url}", line) for line in said]
    for url in left.maps:
        with open_raster(url) as raster:
            rows += [(f"map {name_of(url)}", found.line) for found in findings_in(raster.tags())]
    return table(("about", "finding"), rows) if rows else Markup()


def said_of_scene(tags: Mapping[str, str]) -> Markup:
    """Say how the scene of a map with these tags differs from the training; empty if it does not."""
    found = "; ".join(finding.line for finding in findings_in(tags))
    return sentence(f"Its scene is not as it should be: {found}") if found else Markup()
