"""Measure self-distillation beside lightly's parts (lightly 1.6), in one process and on the same tiles.

It needs an interpreter of its own that has Treeline's requirements, and lightly without its own:

    python3.11 -m venv peer
    peer/bin/pip install -c constraints.txt -e . pytorch-lightning
    peer/bin/pip install --no-deps lightly==1.6.0 torchvision==0.29.1
    peer/bin/python benchmarks/pretrain_peer.py --rounds 7

What is compared takes turns in each round:

    crops       two global and four local crops with flips; lightly's way is torchvision's, image by image
    head, loss  heads of student and teacher, loss, backward pass, centre, from the same tokens
    step        on the same crops: teacher, student, loss, backward pass, optimiser, running mean; lightly's
                way is one pass of the backbone for each crop
    all         crops and step

Medians are printed, with their range, and the ratio lightly / Treeline: above 1, Treeline is faster.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

# A torchvision built for CUDA refuses to be imported beside a CPU torch, which lacks two of its operators.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lightly.loss import DINOLoss  # noqa: E402
from lightly.models.modules import DINOProjectionHead  # noqa: E402
from lightly.models.utils import update_momentum  # noqa: E402
from pretrain import new_fit, write_tiles  # noqa: E402
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop  # noqa: E402

from shards.read.dataset import open_dataset  # noqa: E402
from trainer.data.feed import Fed, feed  # noqa: E402
from trainer.data.step_inputs import StepKey  # noqa: E402
from trainer.devices.cards import chosen_here  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.fit.loop import Fit  # noqa: E402
from trainer.pretrain.distillation import centred_targets, cross_entropy_sums, next_centre  # noqa: E402
from trainer.pretrain.objective_of_dino import GLOBAL_VIEWS  # noqa: E402
from trainer.pretrain_config import RECIPES, PretrainConfig  # noqa: E402

KEY = StepKey(0, 0, 0)
Part = Callable[[], Any]


class Lightly:
    """Student and teacher with lightly's heads and loss, on copies of the same backbone."""

    def __init__(self, fit: Fit, config: PretrainConfig, tile: int) -> None:
        """Args:
        fit: Treeline's training, whose backbone and options are taken.
        config: its options.
        tile: pixels along each side of a tile.
        """
        options, model = config.dino, fit.model
        self.config, self.student = config, deepcopy(model.student.backbone)
        sizes = model.student.width, options.head_width, options.bottleneck, options.prototypes
        self.head, self.teacher_head = (
            DINOProjectionHead(*sizes, batch_norm=False, norm_last_layer=False) for _ in range(2)
        )
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher = deepcopy(self.student)
        self.loss = DINOLoss(
            options.prototypes,
            teacher_temp=options.teacher_temperature,
            student_temp=options.student_temperature,
            center_momentum=options.centre_momentum,
        )
        learning = [*self.student.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.AdamW(
            [weight for weight in learning if weight.requires_grad], 1e-3, fused=True
        )
        self.learning = learning
        views, (whole, part) = config.views, fit.objective.sizes
        self.wide = Compose([RandomResizedCrop(whole, views.global_scale), RandomHorizontalFlip()])
        self.narrow = Compose([RandomResizedCrop(part, views.local_scale), RandomHorizontalFlip()])

    def crops(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """Return the crops of each view, (B, C, size, size)."""
        makers = [self.wide] * GLOBAL_VIEWS + [self.narrow] * self.config.views.local_crops
        return [torch.stack([make(pixels_CHW) for pixels_CHW in pixels_BCHW]) for make in makers]

    def step(self, crops: list[Tensor]) -> None:
        """Take a step."""
        momentum = self.config.dino.teacher_momentum
        update_momentum(self.student, self.teacher, momentum)
        update_momentum(self.head, self.teacher_head, momentum)
        with torch.no_grad():
            taught = [self.teacher_head(token(self.teacher, crop)) for crop in crops[:GLOBAL_VIEWS]]
        learnt = [self.head(token(self.student, crop)) for crop in crops]
        self.loss(taught, learnt).backward()
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def from_tokens(self, tokens_WBD: Tensor) -> None:
        """Run heads and loss, forward and backward."""
        with torch.no_grad():
            taught = [self.teacher_head(tokens_BD) for tokens_BD in tokens_WBD[:GLOBAL_VIEWS]]
        self.loss(taught, [self.head(tokens_BD) for tokens_BD in tokens_WBD]).backward()


def token(backbone: nn.Module, crop_BCSS: Tensor) -> Tensor:
    """Return class tokens_BD."""
    tokens_BD: Tensor = backbone(crop_BCSS).last_hidden_state[:, 0]
    return tokens_BD


def parts_of(fit: Fit, fed: Fed, config: PretrainConfig, theirs: Lightly) -> dict[str, tuple[Part, Part]]:
    """Return what is compared: Treeline's, then lightly's."""
    objective: Any = fit.objective
    model: Any = fit.model
    crops = objective.crops(fed, KEY)
    given = [view for size in crops for view in size.pixels_NCSS.unflatten(0, (size.views, -1))]
    pixels_BCHW, _ = model.student.normalise(fed.image_BCHW)
    tokens_WBD = torch.randn(len(given), len(pixels_BCHW), model.student.width)
    options = config.dino

    def head_and_loss() -> None:
        with torch.no_grad():
            taught_VBK = model.teacher_head(tokens_WBD[:GLOBAL_VIEWS])
            targets_VBK = centred_targets(taught_VBK, model.centre_K, options.teacher_temperature)
        learnt_WBK = model.student_head(tokens_WBD)
        seen_WB = torch.ones(learnt_WBK.shape[:2], dtype=torch.bool)
        total, pairs = cross_entropy_sums(targets_VBK, learnt_WBK, seen_WB, options.student_temperature, 0)
        (total / pairs).backward()
        model.centre_K.copy_(next_centre(model.centre_K, taught_VBK.mean((0, 1)), options.centre_momentum))

    made = objective.crops

    def step_on_crops(fed: Fed) -> None:
        fit._step(fed)
        fit._settle()

    def step() -> None:
        objective.crops = lambda *_: crops
        step_on_crops(fed)
        objective.crops = made

    return {
        "crops": (lambda: made(fed, KEY), lambda: theirs.crops(pixels_BCHW)),
        "head, loss": (head_and_loss, lambda: theirs.from_tokens(tokens_WBD)),
        "step": (step, lambda: theirs.step(given)),
        "all": (lambda: step_on_crops(fed), lambda: theirs.step(theirs.crops(pixels_BCHW))),
    }


def main() -> None:
    """Read the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        data = write_tiles(Path(scratch) / "tiles", given.batch, given.size)
        options = {
            **RECIPES["dino"],
            "patch_size": given.patch,
            "prototypes": given.prototypes,
            "batch_size": given.batch,
            "freeze_last_layer": 0.0,
        }
        config = PretrainConfig.of(data, scratch, **options)
        fit = new_fit(config, Ranks(device=torch.device(chosen_here("auto"))))
        fit.model.train()
        dataset = open_dataset(data)
        batches = dataset.batches(dataset.chips("train"), given.batch)
        (fed,) = feed(batches, dataset.schema, torch.device(chosen_here("auto")))
        parts = parts_of(fit, fed, config, Lightly(fit, config, given.size))
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in parts}
        for number in range(given.rounds + 1):
            for name, both in parts.items():
                for part, taken in zip(both, times[name], strict=True):
                    begun = time.perf_counter()
                    part()
                    if number:  # the first round warms up
                        taken.append(time.perf_counter() - begun)
    print("| part | Treeline (s) | lightly (s) | lightly / Treeline |\n|---|---|---|---|")
    for name, both in times.items():
        ours, theirs = (
            f"{statistics.median(taken):.3f} ({min(taken):.3f}-{max(taken):.3f})" for taken in both
        )
        ratio = statistics.median(both[1]) / statistics.median(both[0])
        print(f"| {name} | {ours} | {theirs} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
