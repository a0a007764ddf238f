"""What train, evaluate and predict left of a run, and what is missing, with the command that makes it.

left = read_left(ReportConfig("run", maps=("maps/*.tif",)))
left.evaluation["verdict"], left.missing
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from inference.config import ReportConfig
from inference.report.checked import check_evaluation
from shards.errors import DatasetError, InputError
from shards.format.manifest import read_json, understood
from shards.next_step import ANY_SCENE, command_line
from shards.read.dataset import Dataset, open_dataset
from shards.roles import renewed
from shards.storage.objects import exists, join, read_bytes
from shards.storage.patterns import each_file_once, expand_as_given
from trainer.config import TrainConfig
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.metrics_file import METRICS, read_metrics
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.verdict_file import read_verdict
from trainer.score.binding import AGAIN, binding
from trainer.score.chip_scores import CHIPS, ChipScores, read_chip_scores
from trainer.score.evaluation import FOLDER, PICTURE, SCORES, are_chips_of, changed_files
from trainer.score.examples import EXAMPLES, Examples, read_examples
from trainer.weights.run_checkpoints import COMPLETE, RunCheckpoints, read_run_checkpoints

OTHER = "belongs to another evaluation"
BEFORE = "an earlier version made this evaluation"
"""Reasons why a file beside evaluation.json is not shown."""


@dataclass(frozen=True)
class Left:
    """All that a report shows."""

    run: str
    options: dict[str, Any]
    """Options of the run, under their names of now."""
    records: list[dict[str, Any]]
    """Scores of each epoch, numbered from 1."""
    checkpoints: RunCheckpoints | None
    validation: str
    """What the training itself said of its best checkpoint; "" if it said nothing."""
    folder: str
    """Folder of the evaluation."""
    data: str
    """Dataset of the scored chips, as it is called now; the training's if there are no scores."""
    maps: list[str]
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Content of evaluation.json; {} if there is none."""
    picture: bytes = b""
    """PNG of the scores; empty if there is none."""
    chips: ChipScores | None = None
    examples: Examples | None = None
    missing: list[str] = field(default_factory=list)
    """What is missing, each in one line with its cure."""

    @property
    def is_pretraining(self) -> bool:
        """Whether the run learnt without labels."""
        return "method" in self.options

    @property
    def kind(self) -> type:
        """Class of the run's options."""
        return PretrainConfig if self.is_pretraining else TrainConfig

    @property
    def is_of_heights(self) -> bool:
        """Whether the run learnt heights of pixels."""
        return learns_heights(self.options)

    @cached_property
    def dataset(self) -> Dataset | None:
        """Dataset of the scored chips; None if it is not there."""
        return opened(self.data)

    @property
    def has_the_scored_chips(self) -> bool:
        """Whether the dataset is there and is as it was when its chips were scored."""
        found = self.dataset
        return found is not None and found.manifest.fingerprint == self.evaluation["fingerprint"]

    def evaluating(self) -> tuple[str, ...]:
        """Return the words of the command that makes the evaluation."""
        words = ("evaluate", "--checkpoint", self.run, "--data", self.data)
        if self.evaluation:
            asked = {name: self.evaluation.get(name) for name in ("split", "where", "limit")}
        else:
            chosen = self.options.get("val_where")
            asked = {"where": self.options.get("where") if chosen is None else chosen}
        said = [word for name, value in asked.items() if value for word in (f"--{name}", str(value))]
        return (*words, *said, "--out", self.folder)


def learns_heights(options: Mapping[str, Any]) -> bool:
    """Tell whether a run with these options learns heights of pixels."""
    return "method" not in options and options.get("task", "height") == "height"


def opened(url: str) -> Dataset | None:
    """Open the dataset at `url`; None if there is none, or a damaged one."""
    try:
        return open_dataset(url)
    except (InputError, DatasetError, OSError):
        return None


def read_left(config: ReportConfig) -> Left:
    """Read what there is of a run.

    Raises:
        InputError: there is no run, no dataset at --data, no map of such a name, or a file is damaged.
    """
    run = config.run
    if not exists(join(run, CONFIG)):
        if exists(join(run, COMPLETE)):
            raise InputError(f"{run}: is a checkpoint, not a run; give the folder that holds its {CONFIG}")
        raise InputError(
            f"{run}: no run here ({CONFIG} is missing); give the --out of treeline train or pretrain"
        )
    if config.data:
        open_dataset(config.data)  # what is asked for has to be there
    stored = read_options(join(run, CONFIG))
    options = renewed(PretrainConfig if "method" in stored else TrainConfig, stored)
    folder = config.evaluation or join(run, FOLDER)
    evaluation = _evaluation(folder, learns_heights(options))
    left = Left(
        run,
        options,
        read_metrics(run),
        read_run_checkpoints(run),
        read_verdict(run),
        folder,
        config.data or str(evaluation.get("data") or options.get("data", "")),
        each_file_once(url for pattern in config.maps for url in expand_as_given(pattern)),
        evaluation,
    )
    return _with_scores(left)


def _evaluation(folder: str, is_of_heights: bool) -> dict[str, Any]:
    """Read evaluation.json; {} if there is none of a checkpoint."""
    url = join(folder, SCORES)
    if not exists(url):
        return {}
    with understood(url, AGAIN):
        values = read_json(url)
        if "checkpoint" not in values or not values["scores"]:
            return {}
        check_evaluation(values, is_of_heights)
        return values


def _with_scores(left: Left) -> Left:
    """Read what an evaluation left beside its numbers, and note what is missing."""
    missing = []
    if not left.records:
        words = ("pretrain" if left.is_pretraining else "train", "--config", join(left.run, CONFIG))
        missing.append(_missing(METRICS, (*words, "--resume", "auto"), "no epoch is finished"))
    found: dict[str, Any] = {}
    if left.is_pretraining:
        return replace(left, missing=missing)
    if not left.evaluation:
        why = "the verdict is that of the training" if left.validation else ""
        missing.append(_missing(SCORES, left.evaluating(), why))
    else:
        if exists(join(left.folder, PICTURE)):
            found["picture"] = read_bytes(join(left.folder, PICTURE))
        else:
            missing.append(_missing(PICTURE, left.evaluating()))
        if left.is_of_heights:
            missing += _chips(left, found)
    if not left.maps:
        mapping = ("predict", ANY_SCENE, "--checkpoint", left.run, "--out", "maps")
        missing.append(f"{_missing('maps', mapping)}, then give --maps 'maps/*.tif'")
    return replace(left, missing=missing, **found)


def _chips(left: Left, found: dict[str, Any]) -> list[str]:
    """Read the sums of chips, and the examples; return what is missing."""
    for name in (CHIPS, EXAMPLES):
        if not exists(join(left.folder, name)):
            return [_missing(name, left.evaluating(), BEFORE)]
    chips, examples = read_chip_scores(left.folder), read_examples(left.folder)
    if not are_chips_of(chips, left.evaluation):
        if chips.evaluation:  # the picture may be of the other evaluation as well: it is written after them
            found.pop("picture", None)
        return [_another(left, CHIPS, chips.evaluation)]
    found["chips"] = chips
    if examples.evaluation != binding(left.evaluation):
        return [_another(left, EXAMPLES, examples.evaluation)]
    for name, wrong in changed_files(left.folder, left.evaluation).items():
        if name != PICTURE:
            raise InputError(f"{wrong}, or evaluate again")
    if left.dataset is None:
        found["examples"] = examples
        return [f"no pictures of the chips: there is no dataset at {left.data}; give its place with --data"]
    if left.has_the_scored_chips:
        _check_size(join(left.folder, EXAMPLES), examples, left.dataset.schema.label_shape)
    found["examples"] = examples
    return []


def _another(left: Left, name: str, carried: str) -> str:
    """Say that the file `name` is of another evaluation, as what it carries tells."""
    why = f"the one in {left.folder} {OTHER}" if carried else BEFORE
    return _missing(f"{name} of these scores", left.evaluating(), why)


def _check_size(url: str, examples: Examples, shape: tuple[int, int]) -> None:
    """Refuse examples that are not of the size of chips.

    Raises:
        InputError: they are not.
    """
    with understood(url, AGAIN):
        if examples.predicted_BHW.shape[1:] != shape:
            theirs = " x ".join(map(str, examples.predicted_BHW.shape[1:]))
            raise ValueError(f"its chips have {theirs} pixels, those of the dataset {shape[0]} x {shape[1]}")


def _missing(what: str, words: Sequence[str], why: str = "") -> str:
    return f"no {what}{f' ({why})' if why else ''}: run {command_line(*words)}"
