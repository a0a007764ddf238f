"""The last lines of `train`, `pretrain`, `sweep` and `evaluate`: what came out, is it good, what next."""

from shards.errors import InputError
from shards.format.manifest import understood
from shards.next_step import ANY_SCENE, next_step
from shards.read.dataset import Dataset, open_dataset
from shards.read.label_to_learn import use_of_backbone
from shards.storage.objects import join
from trainer.config import EvaluateConfig, SweepConfig, TrainConfig
from trainer.model.checkpoint import checkpoint_url
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.verdict_file import read_verdict
from trainer.score.compared import WORSE
from trainer.score.epochs import epoch_of
from trainer.score.evaluation import FOLDER
from trainer.weights.checkpoint_sums import METRICS, STATISTICS, WEIGHTS, read_config
from trainer.weights.run_checkpoints import CHECKPOINTS, DAMAGED
from trainer.weights.weights_apart import refuse_cut_off

HELD_OUT = "val_"
"""Beginning of the names of scores on validation chips."""
NOT_YET = "before you map with it, train longer (--epochs), on more chips, or with another --backbone"
"""Advice about a model that is worse than a simple one."""
WRITTEN = {"mae": "MAE", "rmse": "RMSE", "r2": "R2", "iou": "IoU"}
"""Scores whose names are written otherwise."""


def after_training(config: TrainConfig) -> str:
    """Say how good a training's best checkpoint is, which one it is, and how to go on with it."""
    dataset, verdict = open_dataset(config.data), read_verdict(config.out)
    if dataset.manifest.samples("val"):
        words, where = ("--checkpoint", config.out, "--data", config.data), config.chips.validated_where
        chosen = ("--where", where) if where else ()
        next_line = next_step("evaluate", *words, *chosen, "--out", join(config.out, FOLDER))
    else:
        next_line = _prediction(config.out, dataset)
        verdict = verdict or (
            f"not scored: no chip of {config.data} is held out; hold some out with treeline split"
        )
    return "\n".join([*([verdict] if verdict else []), best_of(config.out), next_line])


def after_pretraining(config: PretrainConfig) -> str:
    """Say which checkpoint of a pre-training is the best, and how to train or embed with it."""
    words = use_of_backbone(open_dataset(config.data).manifest, config.data, config.out)
    return f"{best_of(config.out)}\n{next_step(*words)}"


def after_sweep(config: SweepConfig, best: str) -> str:
    """Say how to train with the options in the file `best` of a sweep."""
    return next_step("train", "--config", join(config.out, best), "--out", f"{config.out.rstrip('/')}-best")


def after_evaluation(config: EvaluateConfig, verdict: str) -> str:
    """Say how to make maps with a scored checkpoint, and what to do first if `verdict` is bad."""
    next_line = _prediction(config.checkpoint, open_dataset(config.data))
    return f"{NOT_YET}\n{next_line}" if verdict.startswith(WORSE) else next_line


def best_of(run: str) -> str:
    """Sum up a run's best checkpoint in one line.

    Raises:
        InputError: a file of it is damaged: a resumed run that is done names no result that cannot be used.
    """
    url = checkpoint_url(run)
    if url == run:
        raise InputError(f"{join(run, CHECKPOINTS)}: is missing; copy it again, or choose another --out")
    refuse_cut_off(join(url, WEIGHTS))
    _, sums = read_config(url)
    _, best = (sums.read_json(name) for name in (STATISTICS, METRICS))
    with understood(join(url, METRICS), DAMAGED):
        scores = {name: value for name, value in best.items() if isinstance(value, float)}
        held_out = {name: value for name, value in scores.items() if name.startswith(HELD_OUT)}
        said = ", ".join(
            f"{WRITTEN.get(name.removeprefix(HELD_OUT), name.removeprefix(HELD_OUT))} {value:.4g}"
            for name, value in (held_out or scores).items()
            if name != "learning_rate"
        )
        return f"{url}: epoch {epoch_of(best)}, {'on validation chips ' if held_out else ''}{said}"


def _prediction(checkpoint: str, dataset: Dataset) -> str:
    """Name the command that maps the scenes of a dataset; some, if it was not made from scenes."""
    images = dataset.manifest.made_by.get("config", {}).get("images")
    scenes = images if isinstance(images, list) and images else [ANY_SCENE]
    return next_step("predict", *scenes, "--checkpoint", checkpoint, "--out", "maps")
