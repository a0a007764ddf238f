"""`treeline evaluate` of a checkpoint of any task: heights, labels of whole tiles, classes of pixels."""

from trainer.config import EvaluateConfig
from trainer.evaluate.classes import evaluate_classes
from trainer.evaluate.heights import evaluate
from trainer.evaluate.tiles import evaluate_tiles
from trainer.model.class_checkpoint import is_of_classes
from trainer.model.tile_checkpoint import is_of_tiles
from trainer.score.class_evaluation import ClassEvaluation, write_class_evaluation
from trainer.score.evaluation import Evaluation, write_evaluation
from trainer.score.tile_evaluation import TileEvaluation, write_tile_evaluation

AnyEvaluation = Evaluation | TileEvaluation | ClassEvaluation


def evaluate_any(config: EvaluateConfig) -> AnyEvaluation:
    """Score the checkpoint on the chips of a split, by what it predicts.

    Raises:
        InputError: there is no checkpoint or no such chip, or the chips are not what it was trained on.
    """
    if is_of_tiles(config.checkpoint):
        return evaluate_tiles(config)
    if is_of_classes(config.checkpoint):
        return evaluate_classes(config)
    return evaluate(config)


def write_any(url: str, evaluation: AnyEvaluation) -> None:
    """Write the files of an evaluation below `url`."""
    if isinstance(evaluation, TileEvaluation):
        write_tile_evaluation(url, evaluation)
    elif isinstance(evaluation, ClassEvaluation):
        write_class_evaluation(url, evaluation)
    else:
        write_evaluation(url, evaluation)
