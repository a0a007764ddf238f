"""report.html of `treeline demo --sar`: what pre-training gained, and where, from what its steps left."""

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from cluster.demo.report import made_on
from cluster.demo.steps import Steps
from inference.distances import figures
from inference.distances.page import Found
from inference.distances.run import said
from inference.report.figures import curves
from shards.draw.html import figure, listing, page, sentence
from shards.storage.objects import publish
from trainer.matrix.curves import learning_curves
from trainer.matrix.heat_maps import difference_maps, error_maps
from trainer.matrix.results import Results
from trainer.run_folder.metrics_file import read_metrics


def write_sar_report(
    out: Path, results: Results, found: Sequence[Found], steps: Steps, names: tuple[str, str]
) -> str:
    """Write `out`/report.html; return its path.

    Args:
        out: the demo's folder.
        results: what the matrix came to.
        found: distances before and after fine-tuning.
        steps: what was done.
        names: the region that pre-training did not see, and the label.
    """
    unseen, label = names
    records = read_metrics(str(out / "pretrained"))
    sections = {
        "What pre-training gained": _gained(results, unseen),
        "Pre-training": sentence(
            "Error of a ridge regression on tokens, on validation tiles that nothing learns from, beside the "
            "same on an untrained backbone and on means and deviations of bands."
        )
        + figure(curves(records, None, "%"), "Loss and probe by epoch"),
        "How far regions lie apart": _apart(found, label),
        "Where the class token looks": _looked(out / "attention"),
        "Steps": steps.table(),
    }
    path = str(out / "report.html")
    lead = f"{results.verdict} {made_on()}"
    footer = "More in matrix/index.html, distances/index.html and attention/index.html."
    publish(path, page("Radar tiles without labels, and how far they carry", sections, lead, footer).encode())
    return path


def _gained(results: Results, unseen: str) -> Markup:
    drawn = Markup()
    for limit in results.plan.config.limit:
        drawn += sentence(f"{limit} of the labels:")
        drawn += figure(error_maps(results, limit), f"Errors with {limit} of the labels, by region")
    for first, second in results.plan.pairs:
        drawn += figure(difference_maps(results, first, second), f"Error of {first} less that of {second}")
    return (
        sentence(
            f"Rows are what was trained on, columns regions tested on. Pre-training did not see {unseen}. "
            "Intervals are in matrix/index.html."
        )
        + drawn
        + figure(learning_curves(results), "Error over the number of labels")
        + listing(results.table())
    )


def _apart(found: Sequence[Found], label: str) -> Markup:
    shown = Markup()
    for name, one in zip(("Before fine-tuning", "After fine-tuning"), found, strict=True):
        shown += sentence(f"{name}:") + listing(said(one))
        shown += figure(figures.matrices(one.regions, one.measured), f"{name}: distances between regions")
        shown += figure(figures.planes(one.regions, one.layout, label, None, ""), f"{name}: tiles on a plane")
    return shown


def _looked(folder: Path) -> Markup:
    about = json.loads((folder / "attention.json").read_text())
    pictures = (folder / f"{tile['name']}.png" for tile in about["tiles"])
    return Markup().join(figure(picture.read_bytes(), picture.stem) for picture in pictures)
