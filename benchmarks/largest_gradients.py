"""Measure the largest gradients of a training's first steps, for which a scale of the loss must leave room.

    treeline ingest synthetic --chips 60 --out CHIPS
    python benchmarks/largest_gradients.py CHIPS

Each recipe trains a few steps in float32 from the backbone "tiny". The largest scale is the power of 2 by
which the largest gradient of a weight may be multiplied in float16, which ends at 65,504.
"""

import sys
from collections.abc import Iterable
from math import floor, log2
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu.bench import steps_of
from trainer.commands.train import new_fit
from trainer.config import RECIPES, TrainConfig
from trainer.devices.ranks import Ranks

STEPS = 6


def main() -> None:
    """Print the largest gradient of each recipe's first steps."""
    print("recipe", "largest gradient", "largest scale", sep="\t")
    for recipe, options in RECIPES.items():
        given = {
            **options,
            "recipe": recipe,
            "backbone": "tiny",
            "balance_heights": (),
            "batch_per_worker": 0,
        }
        config = TrainConfig.of(sys.argv[1], "unused", **{**given, "batch_size": 16, "epochs": STEPS})
        largest = _largest(config)
        print(
            recipe, f"{largest:.3g}", f"2^{floor(log2(torch.finfo(torch.float16).max / largest))}", sep="\t"
        )


def _largest(config: TrainConfig) -> float:
    """Return the largest gradient of a weight in the first steps, before gradients are scaled down."""
    found, clip = list[float](), torch.nn.utils.clip_grad_norm_

    def note(weights: Iterable[torch.Tensor], most: float) -> torch.Tensor:
        weights = list(weights)
        found.append(max(float(one.grad.abs().max()) for one in weights if one.grad is not None))
        return clip(weights, most)

    torch.nn.utils.clip_grad_norm_ = note
    try:
        steps_of(new_fit(config, Ranks()), STEPS)
    finally:
        torch.nn.utils.clip_grad_norm_ = clip
    return max(found)


if __name__ == "__main__":
    main()
