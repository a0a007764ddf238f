"""report.html: one self-contained page of what a demo did, from the files that its steps left."""

import os
import platform
from pathlib import Path

from markupsafe import Markup

import shards
from cluster.demo import figures
from cluster.demo.steps import Steps
from shards.commands.inspect import find_out, pictures_of, text_of
from shards.config import InspectConfig
from shards.draw.html import Numeral, figure, heading, listing, page, table
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import name_of, publish, read_bytes
from trainer.model.height_checkpoint import load_checkpoint
from trainer.run_folder.metrics_file import read_metrics
from trainer.run_folder.options_file import CONFIG
from trainer.score.evaluation import REGRESSOR, Evaluation, evaluation_picture
from trainer.score.metrics import Metrics

_PANELS = 7
_CHIPS = 12


def write_report(out: Path, evaluation: Evaluation, maps: dict[str, str], steps: Steps) -> str:
    """Write `out`/report.html; return its path.

    Args:
        out: the demo's folder.
        evaluation: scores on the unseen scenes.
        maps: map of each unseen scene.
        steps: what was done.
    """
    chips, unseen = open_dataset(str(out / "chips")), open_dataset(str(out / "chips-unseen"))
    regressor = load_checkpoint(str(out / "run")).regressor
    records = read_metrics(str(out / "run"))
    sections = {
        "Scores on scenes that it has not seen": _scores(evaluation)
        + figure(evaluation_picture(evaluation), "Predicted against measured height, and errors by class"),
        "Maps of the unseen scenes": _maps(maps, unseen),
        "Chips of the unseen scenes": figure(
            figures.sample_panels(unseen, regressor, _PANELS), "Chips, measured and predicted heights"
        ),
        "Training": figure(figures.curves(records), "Loss and validation error by epoch"),
        "Dataset": _dataset(chips),
        "What was run": steps.table() + listing(read_bytes(str(out / "run" / CONFIG)).decode()),
    }
    path = str(out / "report.html")
    publish(path, page("Canopy heights of a synthetic treeline", sections, made_on()).encode())
    return path


def made_on() -> str:
    """Say what made a report, and on which machine."""
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"Treeline {shards.__version__} on {os.cpu_count()} CPUs, {machine}"


def _scores(evaluation: Evaluation) -> Markup:
    """Make two tables: the predictors, and the regressor by height class."""
    predictors = {name: score.all for name, score in evaluation.scores.items()}
    rows = [(*_errors(name, metrics), Numeral(f"{metrics.r2:.2f}")) for name, metrics in predictors.items()]
    # Within a narrow class nearly all variance is between pixels of equal height: R2 says nothing there.
    classes = [_errors(name, metrics) for name, metrics in evaluation.scores[REGRESSOR].by_class.items()]
    head = ("pixels", "MAE (m)", "RMSE (m)", "bias (m)")
    regressor = list(predictors).index(REGRESSOR)
    return table(("predictor", *head, "R2"), rows, regressor) + table(("measured height", *head), classes)


def _errors(name: str, metrics: Metrics) -> tuple[str, int, Numeral, Numeral, Numeral]:
    mae, rmse = Numeral(f"{metrics.mae:.2f}"), Numeral(f"{metrics.rmse:.2f}")
    return name, metrics.count, mae, rmse, Numeral(f"{metrics.bias:+.2f}")


def _maps(maps: dict[str, str], unseen: Dataset) -> Markup:
    looks = (
        heading(name_of(height_map))
        + figure(
            figures.scene_and_map(scene, _heights_beside(scene), height_map, unseen.schema.bands),
            "The scene, its measured and its predicted heights",
        )
        for scene, height_map in maps.items()
    )
    return Markup().join(looks)


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
