"""report.html: one self-contained page of what a demo did. Reads the files that the stages left."""

import base64
import html
import json
import os
import platform
from pathlib import Path

import shards
from cluster import figures
from shards.inspect import describe, sample_picture
from shards.reader import open_dataset
from shards.storage import name_of, publish, read_bytes
from trainer.checkpoint import load_checkpoint
from trainer.evaluation import REGRESSOR, Evaluation, evaluation_picture
from trainer.metrics import Metrics
from trainer.run import CONFIG, METRICS

_PANELS = 7
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1120px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.2rem }
img { max-width: 100%; display: block; margin: .5rem 0 }
table { border-collapse: collapse; margin: .5rem 0 } th { text-align: left; font-weight: 600 }
td, th { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #ddd } td + td, th + th { text-align: right }
pre { background: #f6f6f4; padding: .7rem; overflow-x: auto; font-size: .82rem; line-height: 1.35 }
tr.ours { font-weight: 600 } p.lead { color: #555; margin-top: .2rem }
"""


def write_report(out: Path, evaluation: Evaluation, maps: dict[str, str], seconds: dict[str, float]) -> str:
    """Write `out`/report.html; returns its path.

    Args:
        out: the demo's folder.
        evaluation: on the unseen scenes.
        maps: the map of each unseen scene.
        seconds: that each step took.
    """
    chips, unseen = open_dataset(str(out / "chips")), open_dataset(str(out / "chips-unseen"))
    regressor = load_checkpoint(str(out / "run")).regressor
    records = [json.loads(line) for line in read_bytes(str(out / "run" / METRICS)).splitlines()]
    looks = [
        f"<h3>{html.escape(name_of(height_map))}</h3>"
        + _image(figures.quick_look(scene, _heights_beside(scene), height_map, unseen.schema.bands), "map")
        for scene, height_map in maps.items()
    ]
    sections = {
        "Scores on scenes that it has not seen": _scores(evaluation)
        + _image(evaluation_picture(evaluation), "scores"),
        "Maps of the unseen scenes": "".join(looks),
        "Chips of the unseen scenes": _image(figures.sample_panels(unseen, regressor, _PANELS), "chips"),
        "Training": _image(figures.curves(records), "curves"),
        "Dataset": _pre(describe(chips))
        + _image(figures.histograms(chips), "histograms")
        + _image(sample_picture(chips, 12, 0), "chips"),
        "What was run": _times(seconds) + _pre(read_bytes(str(out / "run" / CONFIG)).decode()),
    }
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections.items())
    path = str(out / "report.html")
    publish(path, _page(body).encode())
    return path


def _page(body: str) -> str:
    machine = (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Treeline: the demo</title>'
        f"<style>{_STYLE}</style></head><body><h1>Canopy heights of a synthetic treeline</h1>"
        f'<p class="lead">Treeline {shards.__version__} on {machine}</p>{body}</body></html>\n'
    )


def _scores(evaluation: Evaluation) -> str:
    """Two tables: the predictors, and the regressor by height class."""
    predictors = {name: score.all for name, score in evaluation.scores.items()}
    classes = evaluation.scores[REGRESSOR].by_class
    return _metrics_table("predictor", predictors) + _metrics_table("measured height", classes)


def _metrics_table(head: str, rows: dict[str, Metrics]) -> str:
    lines = [
        f"<tr><th>{head}</th><th>pixels</th>"
        "<th>MAE (m)</th><th>RMSE (m)</th><th>bias (m)</th><th>R2</th></tr>"
    ]
    for name, m in rows.items():
        # Within a narrow class nearly all variance is between pixels of equal height: R2 says nothing there.
        r2 = f"{m.r2:.2f}" if head == "predictor" else ""
        numbers = [f"{m.count:,}", f"{m.mae:.2f}", f"{m.rmse:.2f}", f"{m.bias:+.2f}", r2]
        ours = ' class="ours"' if name == REGRESSOR else ""
        lines.append(f"<tr{ours}><td>{name}</td>{''.join(f'<td>{number}</td>' for number in numbers)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _times(seconds: dict[str, float]) -> str:
    rows = {**seconds, "in all": sum(seconds.values())}
    lines = "".join(f"<tr><td>{name}</td><td>{value:.1f}</td></tr>" for name, value in rows.items())
    return f"<table><tr><th>step</th><th>seconds</th></tr>{lines}</table>"


def _heights_beside(scene: str) -> str:
    """The height raster that the landscape wrote with a scene."""
    path = Path(scene)
    _, date, _, catalogue = path.name.split("-")[0].split("_")
    return str(path.with_name(f"lidar_{date}_{catalogue}-chm-02m.tif"))


def _image(data: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"
