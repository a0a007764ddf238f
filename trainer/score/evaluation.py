"""Results of an evaluation: scores by name, as a table, a JSON file and a picture. No torch here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shards.draw.picture import COLOUR_MAP, EDGE, SERIES, SMALL, new_figure, png, tidy
from shards.errors import DatasetError
from shards.format.height_classes import NAMES
from shards.format.manifest import StoredObject, write_json
from shards.storage.objects import exists, join, publish, read_bytes
from shards.storage.typed_json import typed
from trainer.score import chip_scores
from trainer.score.baselines import MEAN
from trainer.score.binding import AGAIN, binding
from trainer.score.chip_scores import CHIPS, ChipScores
from trainer.score.compared import Compared
from trainer.score.examples import EXAMPLES, Examples
from trainer.score.metrics import DENSITY_TOP_M, Metrics, Score

REGRESSOR, LINEAR = "regressor", "per-pixel linear regression"
COLUMNS = {REGRESSOR: chip_scores.OWN, LINEAR: chip_scores.LINEAR, MEAN: chip_scores.MEAN}
"""Starts of the columns of errors in chips.parquet."""
SCORES, PICTURE = "evaluation.json", "evaluation.png"
"""Files of an evaluation, of heights, classes or tiles."""
FILES = "files"
"""Entry of evaluation.json with sizes and checksums of the files beside it."""
SHARING = "sharing_scenes"
"""Entry of evaluation.json: number of chips of the scored split whose scene also has training chips."""
FOLDER = "evaluation"
"""Folder of the scores below a run's, where `treeline report` looks for them."""


@dataclass(frozen=True)
class Evaluation:
    """Scores by name: first the one evaluated, then those it is compared with, or its parts."""

    scores: dict[str, Score]
    about: dict[str, Any]
    """Description of what was scored, as plain JSON values."""
    by_chip: ChipScores | None = None
    """Sums of each chip; None for maps."""
    examples: Examples | None = None
    """Predictions of a few chips; None for maps."""
    notes: tuple[str, ...] = ()
    """Lines of the table below the scores."""

    @property
    def chips(self) -> int:
        """Number of chips scored."""
        return int(self.about["chips"])

    @property
    def first(self) -> Score:
        """Score of what is evaluated."""
        return next(iter(self.scores.values()))

    @property
    def verdict(self) -> str:
        """Compare the regressor with its baselines, in a sentence; "" for maps, which have none."""
        if not {REGRESSOR, LINEAR, MEAN} <= self.scores.keys():
            return ""
        return compared_heights({name: score.all.rmse for name, score in self.scores.items()}).verdict

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain JSON values."""
        scores = {
            name: {
                "all": score.all.to_json(),
                "by_class": {label: metrics.to_json() for label, metrics in score.by_class.items()},
            }
            for name, score in self.scores.items()
        }
        return {**self.about, **({"verdict": self.verdict} if self.verdict else {}), "scores": scores}

    def table(self) -> str:
        """Return lines to print: the verdict, a row for each score, then the first one by height class."""
        width = max(30, *(len(name) + 2 for name in self.scores))
        head = f"{'':{width}}{'pixels':>12}{'MAE m':>9}{'RMSE m':>9}{'bias m':>9}{'R2':>9}"
        lines = [f"{_row(name, score.all, width)}{score.all.r2:9.2f}" for name, score in self.scores.items()]
        # No R2 by class: between pixels of nearly equal height there is no variance to explain.
        classes = self.first.by_class.items()
        lines += [_row(f"  {name}", metrics, width) for name, metrics in classes if metrics.count]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*([self.verdict] if self.verdict else []), head, *lines, *notes])


def compared_heights(errors: Mapping[str, float]) -> Compared:
    """Compare regressors by the RMSE."""
    return Compared(errors, "RMSE", "{:.2f} m")


def _row(name: str, metrics: Metrics, width: int) -> str:
    return f"{name:{width}}{metrics.count:12,}{metrics.mae:9.2f}{metrics.rmse:9.2f}{metrics.bias:9.2f}"


def write_evaluation(url: str, evaluation: Evaluation) -> None:
    """Write evaluation.json and evaluation.png below `url`, and of chips chips.parquet and examples.npz."""
    values, files = evaluation.to_json(), dict[str, bytes]()
    if evaluation.by_chip:
        files[CHIPS] = evaluation.by_chip.to_bytes(binding(values))
    if evaluation.examples:
        files[EXAMPLES] = evaluation.examples.to_bytes(binding(values))
    files[PICTURE] = evaluation_picture(evaluation)
    for name, data in files.items():
        publish(join(url, name), data)
    listed = [asdict(StoredObject.of(name, data)) for name, data in files.items()]
    write_json(join(url, SCORES), {**values, FILES: listed})


def changed_files(url: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Compare the files beside an evaluation.json with it.

    Args:
        url: folder of the evaluation.
        values: content of evaluation.json, which lists nothing if an earlier version wrote it.

    Returns:
        what is wrong with files that are there, by their names.
    """
    found = dict[str, str]()
    for stored in typed(values.get(FILES, []), list[StoredObject], join(url, SCORES), AGAIN):
        where = join(url, stored.name)
        if exists(where):
            try:
                stored.check(where, read_bytes(where))
            except DatasetError as error:
                found[stored.name] = str(error)
    return found


def are_chips_of(chips: ChipScores, values: Mapping[str, Any]) -> bool:
    """Tell whether these are the chips of an evaluation: by what they carry, and by their sums.

    Args:
        chips: the chips.
        values: content of evaluation.json.
    """
    if chips.evaluation != binding(values):
        return False
    totals = {name: Metrics.from_json(score["all"]) for name, score in values["scores"].items()}
    return all(name in totals and chips.adds_up_to(totals[name], start) for name, start in COLUMNS.items())


def evaluation_picture(evaluation: Evaluation) -> bytes:
    """Draw predicted against measured height as a density, and the errors by height class, as a PNG."""
    score = evaluation.first
    assert score.density_PM is not None, "what is evaluated is drawn"
    figure = new_figure(11, 4.4)
    density_axes, class_axes = figure.subplots(1, 2, width_ratios=(1, 1.3))
    counts = np.ma.masked_equal(score.density_PM, 0)
    extent = (0, DENSITY_TOP_M, 0, DENSITY_TOP_M)
    image = density_axes.imshow(counts, origin="lower", extent=extent, norm="log", cmap=COLOUR_MAP)
    density_axes.plot([0, DENSITY_TOP_M], [0, DENSITY_TOP_M], color=EDGE, linewidth=0.8)
    density_axes.set(xlabel="measured height (m)", ylabel="predicted height (m)")
    density_axes.set_title(f"{score.all.count:,} pixels, RMSE {score.all.rmse:.2f} m, R2 {score.all.r2:.2f}")
    bar = figure.colorbar(image, ax=density_axes, label="pixels")
    bar.ax.tick_params(labelsize=SMALL)
    places = np.arange(len(NAMES))
    # Many scores are a total and its maps: they have no room here, so only the first, the total, is drawn.
    shown = list(evaluation.scores.items())[: len(SERIES) if len(evaluation.scores) <= len(SERIES) else 1]
    width = 0.8 / len(shown)
    for number, (name, other) in enumerate(shown):
        errors = [metrics.rmse for metrics in other.by_class.values()]
        middles = places + (number - (len(shown) - 1) / 2) * width
        class_axes.bar(middles, errors, width, label=name, color=SERIES[number])
    class_axes.set_xticks(places, NAMES, rotation=30, ha="right", fontsize=SMALL)
    class_axes.set(ylabel="RMSE (m)", title="by measured height")
    class_axes.legend(frameon=False, fontsize=SMALL)
    tidy(density_axes)
    tidy(class_axes)
    return png(figure)
