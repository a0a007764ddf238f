"""The options of `treeline train` and `treeline evaluate`, and the named recipes that set many at once.

Precedence: the defaults below < --recipe < --config FILE < flags.
"""

from dataclasses import dataclass
from typing import Any, Literal

from shards.options import ReadOptions


@dataclass(frozen=True)
class TrainConfig:
    """A dataset -> a regressor."""

    data: str
    """The dataset: a folder or s3://..."""
    out: str
    """Where checkpoints (best, last), metrics.jsonl, config.yaml and TensorBoard's log are written."""
    recipe: Literal["tiny", "notebook"] = "tiny"
    """Named set of options; what is given besides overrides it."""
    workers: int = 0
    """Ray workers; 0: train in this process, without Ray."""
    seed: int = 0
    """Of weights, order and augmentation."""
    bands: tuple[str, ...] = ("nir", "red", "green")
    """Bands that the backbone sees, in its order."""
    backbone: str = "tiny"
    """"tiny" (random weights), a folder, or a model on the Hugging Face hub."""
    train_backbone: bool = True
    """Whether the backbone learns; otherwise it is frozen."""
    new_band_from: Literal["red", "green", "blue"] = "red"
    """The pretrained band whose patch weights start a band that the backbone does not know."""
    decoder_widths: tuple[int, ...] = (64, 32, 16, 8)
    """Channels of the decoder after each of its four doublings."""
    norm: Literal["batch", "group"] = "group"
    """The decoder's normalisation; with "group" a chip's height does not depend on its batch."""
    dropout: float = 0.0
    """Share (0..1) of the decoder's channels dropped while training."""
    flips: bool = True
    """Train on the eight flips and quarter turns of chips."""
    underestimate_factor: float = 1.0
    """How many times more a too low height costs than a too high one; 1: plain squared error."""
    learning_rate: float = 3e-3
    """AdamW's for the decoder, at its highest."""
    output_rate_factor: float = 10.0
    """The output layer's learning rate as a multiple: it alone has to grow to the scale of metres."""
    backbone_rate_factor: float = 0.1
    """The backbone's learning rate, where it learns, as a share of the decoder's."""
    weight_decay: float = 1e-2
    """AdamW's."""
    gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """"cosine": up over 5 % of the steps, then down to 0; "plateau": halved when validation stalls."""
    plateau_patience: int = 3
    """Epochs without improvement before the learning rate is halved."""
    lowest_learning_rate: float = 1e-6
    """Where halving ends."""
    epochs: int = 30
    """At most so many times through the training chips."""
    stop_patience: int = 0
    """Stop after so many epochs without improvement; 0: never."""
    batch_size: int = 16
    """Chips per step, over all workers together."""
    batch_per_worker: int = 0
    """Chips per step and worker (batch size = this times workers); 0: --batch-size counts."""
    where: str = ""
    """Train on these chips only: an expression over the index, e.g. "source != 'AK_IFSAR'"."""
    limit: int | None = None
    """Train on so many chips only; a smaller choice is part of any larger one."""
    balance_heights: tuple[float, ...] = ()
    """Edges in metres of bins of the chips' maximum height that are met equally often; default: as stored."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """Whether a shard that is damaged or cannot be read ends the run, or is left out and named."""
    cache: str = ""
    """Local folder that keeps what was fetched of a remote dataset; shared by the processes of a machine."""
    cache_gigabytes: float = 100.0
    """Size at which the cache drops what was used least recently."""
    baseline_chips: int = 20_000
    """Training chips to which the two baselines (mean, per-pixel linear regression) are fitted."""

    @property
    def global_batch(self) -> int:
        """Chips per step over all workers."""
        return self.batch_per_worker * max(1, self.workers) or self.batch_size


RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "notebook": {
        "backbone": "facebook/dinov3-vitl16-pretrain-sat493m",
        "train_backbone": False,
        "decoder_widths": (512, 256, 128, 64),
        "norm": "batch",
        "dropout": 0.2,
        "flips": False,
        "underestimate_factor": 3.0,
        "learning_rate": 5e-5,
        "output_rate_factor": 1.0,
        "weight_decay": 1e-3,
        "schedule": "plateau",
        "epochs": 100,
        "stop_patience": 10,
        "batch_per_worker": 16,
    },
}
"""Differences from the defaults. `notebook`: how regressors were trained so far, without its faults."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How good a regressor is on chips, beside the training mean and a per-pixel linear regression."""

    checkpoint: str
    """A checkpoint's folder, or a training run's (its best checkpoint is taken)."""
    data: str
    """The dataset: a folder or s3://..."""
    split: Literal["train", "val", "all"] = "val"
    """Which of its chips."""
    out: str = ""
    """Folder for evaluation.json and evaluation.png; default: only print."""
    batch_size: int = 64
    """Chips at a time."""
    where: str = ""
    """Evaluate these chips only: an expression over the index, e.g. "sensor == 'WV03'"."""
    limit: int | None = None
    """Evaluate so many chips only."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """Whether a shard that is damaged or cannot be read ends the run, or is left out and named."""
    cache: str = ""
    """Local folder that keeps what was fetched of a remote dataset; shared by the processes of a machine."""
    cache_gigabytes: float = 100.0
    """Size at which the cache drops what was used least recently."""


def read_options(config: TrainConfig | EvaluateConfig) -> ReadOptions:
    """How the dataset is read."""
    cache_bytes = round(config.cache_gigabytes * 1e9)
    return ReadOptions(on_bad_shard=config.on_bad_shard, cache=config.cache, cache_bytes=cache_bytes)
