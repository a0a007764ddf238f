"""Options of the training loop, of augmentation and of the optimiser, each handed to the part that uses it.

No torch here: the command line knows them.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from shards.errors import InputError
from shards.roles import flag_of


@dataclass(frozen=True)
class FitOptions:
    """Options of the training loop."""

    seed: int
    """Seed of order, augmentation and dropout."""
    epochs: int
    """Passes through the training chips, at most."""
    stop_patience: int
    """Epochs without improvement after which training stops; 0 disables."""
    global_batch: int
    """Chips per step, over all ranks."""
    accumulate: int
    """Pieces in which each rank computes its part of a batch."""
    gradient_norm: float
    """Norm that gradients are scaled down to."""
    average: float
    """Decay of the average of the weights that is scored and saved; 0 disables."""
    on_nonfinite: Literal["stop", "skip"]
    """Whether a step whose loss is not a number ends training, or is left out and counted."""
    deterministic: bool
    """Whether only algorithms are used that give the same bits in every run."""
    bf16: bool
    """Whether forward passes compute in bfloat16 where that is safe; weights stay float32."""
    compile: bool
    """Whether the model is compiled."""
    shard_model: bool
    """Whether each rank keeps a part of all weights."""


@dataclass(frozen=True)
class AugmentOptions:
    """Options of augmentation."""

    flips: bool
    """Whether chips are flipped and turned."""
    brightness: float
    """Standard deviation of the factor, around 1, on each band of a chip."""
    band_dropout: float
    """Share (0..1) of a chip's bands that are replaced by their mean."""


@dataclass(frozen=True)
class OptimiserOptions:
    """Learning rates, weight decay and how they change. Raises InputError where one is out of range."""

    total_steps: int
    """Steps of the whole training."""
    learning_rate: float = 3e-3
    """AdamW's for the decoder, at its highest."""
    output_rate_factor: float = 1.0
    """The output layer's learning rate as a multiple: it alone has to grow to the scale of metres."""
    backbone_rate_factor: float = 0.1
    """The learning rate of the backbone's last block, where it learns, as a share of the decoder's."""
    layer_decay: float = 1.0
    """Each block's learning rate as a share (0..1) of the next one's; 1: all alike."""
    weight_decay: float = 1e-2
    """AdamW's: the share of a weight that a step takes away is this times its learning rate."""
    decay_norms: bool = False
    """Whether that holds for biases, norms, tokens and layer scales too."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """"cosine": up, then down to 0; "constant": up, then level; "plateau": halved at each stall."""
    warm_up: float = 0.05
    """Share (0..1) of all steps in which the rate goes up, one step at least; not for "plateau"."""
    plateau_patience: int = 3
    """Epochs without improvement that "plateau" puts up with; the next one halves the learning rate."""
    lowest_learning_rate: float = 1e-6
    """Where halving ends, for the decoder; the others keep their proportion to it."""

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise InputError("there is no step to train: no training chip is chosen, or --epochs is 0")
        checks = {
            "learning_rate": (0 < self.learning_rate < inf, "above 0"),
            "output_rate_factor": (0 < self.output_rate_factor < inf, "above 0"),
            "backbone_rate_factor": (0 < self.backbone_rate_factor < inf, "above 0"),
            "layer_decay": (0 < self.layer_decay <= 1, "above 0 and at most 1"),
            "weight_decay": (0 <= self.weight_decay < inf, "0 or more"),
            "schedule": (self.schedule in ("cosine", "plateau", "constant"), "cosine, plateau or constant"),
            "warm_up": (0 <= self.warm_up < 1, "0 or more and below 1"),
            "plateau_patience": (self.plateau_patience >= 0, "0 or more"),
            "lowest_learning_rate": (
                self.schedule != "plateau" or 0 <= self.lowest_learning_rate <= self.learning_rate,
                f"0 or more and at most the learning rate, {self.learning_rate}",
            ),
        }
        for name, (is_good, instead) in checks.items():
            if not is_good:
                raise InputError(f"{flag_of(name)} {getattr(self, name)}: choose {instead}")
