"""`treeline evaluate`: a regressor's scores on chips, beside those of the two baselines."""

from dataclasses import dataclass
from typing import Any

import torch

from shards.errors import InputError
from shards.progress import progress
from shards.reader import open_dataset
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.config import EvaluateConfig
from trainer.metrics import Score

REGRESSOR, LINEAR, MEAN = "regressor", "per-pixel linear regression", "training mean"


@dataclass(frozen=True)
class Evaluation:
    """Scores by predictor, on the same pixels."""

    scores: dict[str, Score]
    chips: int
    checkpoint: str
    data: str
    split: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        scores = {
            name: {
                "all": score.all.to_json(),
                "by_class": {label: metrics.to_json() for label, metrics in score.by_class.items()},
            }
            for name, score in self.scores.items()
        }
        about = {"checkpoint": self.checkpoint, "data": self.data, "split": self.split, "chips": self.chips}
        return {**about, "scores": scores}

    def table(self) -> str:
        """Lines to print: a row a predictor, then the regressor by height class."""
        head = f"{'':30}{'pixels':>12}{'MAE m':>9}{'RMSE m':>9}{'bias m':>9}{'R2':>9}"
        rows = [(name, score.all) for name, score in self.scores.items()]
        rows += [(f"  {name}", metrics) for name, metrics in self.scores[REGRESSOR].by_class.items()]
        lines = [
            f"{name:30}{m.count:12,}{m.mae:9.2f}{m.rmse:9.2f}{m.bias:9.2f}{m.r2:9.2f}"
            for name, m in rows
            if m.count
        ]
        return "\n".join([head, *lines])


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Score the checkpoint on the chips of a split.

    Raises:
        InputError: the split is empty, or its chips are not what the regressor was trained on.
    """
    checkpoint, dataset = load_checkpoint(config.checkpoint), open_dataset(config.data)
    trained_schema = checkpoint.regressor.schema
    if (dataset.schema.bands, dataset.schema.dtype) != (trained_schema.bands, trained_schema.dtype):
        raise InputError(
            f"{config.data}: chips are {dataset.schema.dtype} {' '.join(dataset.schema.bands)}, but the "
            f"checkpoint was trained on {trained_schema.dtype} {' '.join(trained_schema.bands)}"
        )
    chips = dataset.chips(config.split, config.limit)
    if not chips.size:
        raise InputError(f"{config.data}: no chip is in the split {config.split!r}; choose another --split")
    scores = {name: Score.empty() for name in (REGRESSOR, LINEAR, MEAN)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    regressor = checkpoint.regressor.to(device)
    with progress("evaluate", chips.size, "chips") as advance:
        for batch in dataset.batches(chips, config.batch_size):
            predicted_BHW, _ = regressor.predict(torch.from_numpy(batch.image_BCHW).to(device))
            scores[REGRESSOR].add(predicted_BHW.cpu().numpy(), batch.height_BHW)
            _add_baselines(scores, checkpoint, batch.image_BCHW, batch.height_BHW)
            advance(len(batch.chips))
    return Evaluation(scores, chips.size, config.checkpoint, config.data, config.split)


def _add_baselines(
    scores: dict[str, Score], checkpoint: Checkpoint, image_BCHW: Any, height_BHW: Any
) -> None:
    linear_BHW = checkpoint.baselines.linear(image_BCHW)
    scores[LINEAR].add(linear_BHW, height_BHW)
    scores[MEAN].add(linear_BHW * 0 + checkpoint.baselines.mean_height, height_BHW)
