"""report.html of a demo: the report of its run, with its dataset and the steps that were done."""

import os
import platform
from pathlib import Path

from markupsafe import Markup

import shards
from cluster.demo.steps import Steps
from inference.config import ReportConfig
from inference.report.run import write_page
from shards.commands.inspect import find_out, pictures_of, text_of
from shards.config import InspectConfig
from shards.draw.html import figure, listing, sentence
from shards.read.dataset import Dataset, open_dataset

_CHIPS = 12


def write_report(out: Path, maps: dict[str, str], steps: Steps) -> str:
    """Write `out`/report.html; return its path.

    Args:
        out: the demo's folder.
        maps: map of each unseen scene.
        steps: what was done.
    """
    more = {
        "Dataset": _dataset(open_dataset(str(out / "chips"))),
        "Steps": sentence(made_on()) + steps.table(),
    }
    config = ReportConfig(
        str(out / "run"),
        tuple(maps.values()),
        image=tuple(maps),
        heights=tuple(map(_heights_beside, maps)),
        evaluation=str(out / "evaluation"),
        out=str(out / "report.html"),
    )
    return write_page(config, more, "Canopy heights of a synthetic treeline").path


def made_on() -> str:
    """Say what made a report, and on which machine."""
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"Treeline {shards.__version__} on {os.cpu_count()} CPUs, {machine}"


def _dataset(chips: Dataset) -> Markup:
    findings = find_out(chips)
    pictures = pictures_of(chips, findings, InspectConfig(chips.url, chips=_CHIPS))
    alts = {"bands": "Histogram of each band", "label": "Histogram of heights", "chips": "Sampled chips"}
    drawn = (figure(pictures[name], alt) for name, alt in alts.items())
    return listing(text_of(chips, findings)) + Markup().join(drawn)


def _heights_beside(scene: str) -> str:
    """Return the height raster that the landscape wrote with a scene."""
    path = Path(scene)
    _, date, _, catalogue = path.name.split("-")[0].split("_")
    return str(path.with_name(f"lidar_{date}_{catalogue}-chm-02m.tif"))
