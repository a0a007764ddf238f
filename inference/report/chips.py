"""The worst, median and best chips of an evaluation: pictures, and where each is."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from inference.report.figures import ChipPicture, chip_pictures
from inference.report.left import Left
from shards.draw.html import Numeral, figure, heading, sentence, table
from shards.draw.picture import composite_bands
from shards.format.band_values import values_of
from shards.read.dataset import Dataset
from shards.wording import counted
from trainer.score.chip_scores import CHIPS, ChipScores
from trainer.score.examples import Examples, example_rows

HEAD = ("", "key", "place", "pixels", "height (m)", "RMSE (m)", "bias (m)")


def chip_section(left: Left) -> Markup:
    """Show the chips that err most, those in the middle, and those that err least."""
    scores = left.chips
    if scores is None:
        return Markup()
    bands = composite_bands(left.dataset.schema.bands) if left.dataset else []
    shows = f" Images show {', '.join(bands)} as red, green and blue." if bands else ""
    chips = counted(scores.ranked.size, "chip")
    shown = sentence(
        f"The chips with the largest, middle and smallest RMSE, out of {chips} with measured pixels; {CHIPS} "
        f"lists them all.{shows} In the row of differences, red is predicted too high and blue too low."
    )
    if left.dataset and not left.has_the_scored_chips:
        shown += sentence(f"The dataset {left.data} has changed since these chips were scored.")
    for name, rows in example_rows(scores).items():
        if rows:
            shown += heading(f"{name.capitalize()} chips")
            shown += _pictures(left.dataset, left.examples, scores, name, rows)
            shown += table(HEAD, [_row(scores, str(n), row) for n, row in enumerate(rows, 1)])
    return shown


def _pictures(
    dataset: Dataset | None, examples: Examples | None, scores: ChipScores, name: str, rows: list[int]
) -> Markup:
    """Draw the chips in these rows that the dataset and the examples have."""
    if dataset is None or examples is None:
        return Markup()
    if examples.predicted_BHW.shape[1:] != dataset.schema.label_shape:
        return sentence(f"No pictures: the chips of the dataset {dataset.url} have another size now.")
    keys = scores.rows["key"].take(pa.array(rows)).to_pylist()
    places = pc.index_in(pa.array(keys, pa.string()), value_set=dataset.index["key"]).to_pylist()
    there = [n for n, place in enumerate(places) if place is not None and keys[n] in examples.keys]
    if not there:
        return sentence(f"No pictures: none of these chips is in the dataset {dataset.url} now.")
    batch, schema = dataset.gather(np.array([places[n] for n in there])), dataset.schema
    pictures = [
        ChipPicture(
            values_of(batch.image_BCHW[at], schema, schema.all_bands),
            batch.height_BHW[at],
            examples.predicted_BHW[examples.keys.index(keys[n])],
            f"{name} {n + 1}",
        )
        for at, n in enumerate(there)
    ]
    alt = f"{name.capitalize()} chips: image, measured and predicted heights, and their difference"
    return figure(chip_pictures(pictures, schema.all_bands), alt)


def _row(scores: ChipScores, name: str, row: int) -> tuple[str | Numeral | int, ...]:
    chip = {column: scores.rows[column][row].as_py() for column in ("key", "x", "y", "crs")}
    metrics, sums_S = scores.metrics(row), scores.sums_NS()[row]
    place = (
        "unknown" if chip["x"] is None else f"{chip['x']:,.10g} {chip['y']:,.10g} {chip['crs'] or ''}".strip()
    )
    mean = sums_S[4] / metrics.count
    numbers = (f"{mean:z.2f}", f"{metrics.rmse:z.2f}", f"{metrics.bias:+z.2f}")
    return name, chip["key"], Numeral(place), metrics.count, *map(Numeral, numbers)
