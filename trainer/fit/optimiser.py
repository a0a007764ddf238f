"""The optimiser: groups of parameters with their own learning rates, AdamW or Muon, and the rates' schedule.

groups = parameter_groups(regressor, options)            after trainer.model.trainable chose what learns
optimiser = new_optimiser(groups, options, device)
schedule = Schedule(optimiser, options, total_steps)
step_unless(optimiser, not_finite(numbers_N))            or optimiser.step()
    schedule.after_step()                                after each step of the optimiser
    schedule.after_epoch(loss)                           after each validation
"""

from collections.abc import Iterable, Iterator
from math import cos, inf, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import DINOv3ViTModel

from shards.errors import InputError
from trainer.devices.choice import Precision
from trainer.fit.muon import MATRICES, Muon, matrices_of
from trainer.model.pixel_model import PixelModel
from trainer.options import OptimiserOptions

ADAM_EPSILON = 1e-6
"""AdamW's epsilon. It keeps a gradient that is 0 but for rounding (a bias before a norm) from becoming a full
step: ranks round differently, and would drift apart."""
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices for which torch has AdamW in one kernel (torch 2.13, torch/utils/_foreach_utils.py)."""
LEAST_IMPROVEMENT = 1e-4
"""Share by which a loss must be below the best one to count as better, as in torch's ReduceLROnPlateau."""
LEAST_RISE = 1e-3
"""Share of the time that the first step counts for while nobody knows how long it takes."""
NO_DECAY = "no weight decay"
"""End of the name of a group without weight decay."""
BY_MUON = "matrices"
"""End of the name of a group that Muon learns."""
NEVER_MUON = ("decoder.output", "output", "backbone.embeddings")
"""Stages that AdamW learns whole: what enters a model and what leaves it is no map between equals."""
Stage = tuple[str, float, dict[str, nn.Parameter]]
"""Part of a model: name, learning rate as a share of the highest, parameters by name."""


def parameter_groups(
    model: PixelModel, options: OptimiserOptions, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """Return what learns of a model of pixels, in groups for a torch optimiser; see `grouped`.

    First comes the decoder, then its output layer, then the backbone from its embeddings to its last block,
    unless they share a group.
    """
    decoder = dict(model.decoder.named_parameters())
    output = set(model.decoder.output.parameters())
    stages: list[Stage] = [
        ("decoder", 1.0, {key: weight for key, weight in decoder.items() if weight not in output}),
        (
            "decoder.output",
            options.output_rate_factor,
            {key: weight for key, weight in decoder.items() if weight in output},
        ),
    ]
    return grouped(model, [*stages, *backbone_stages(model.backbone, options)], options, decay_norms)


def grouped(
    model: nn.Module, stages: Iterable[Stage], options: OptimiserOptions, decay_norms: bool = False
) -> list[dict[str, Any]]:
    """Return what learns, in groups for a torch optimiser; the order depends on the model alone.

    Stages with one rate share their groups, since each group costs a kernel and its launch: one group with
    weight decay, and one without. With `decay_norms` biases, norms, tokens and layer scales have it, too.
    Each group has "places", which tell where `by_place` finds its parameters.

    Raises:
        ValueError: a parameter learns that belongs to no stage.
    """
    matrices = matrices_of(model) if options.optimiser == "muon" else set[Tensor]()
    merged = dict[tuple[float, str], dict[str, Any]]()
    parts = 0
    for name, factor, parameters in stages:
        learning = {key: parameter for key, parameter in parameters.items() if parameter.requires_grad}
        kinds = dict[str, str]()
        for key, weight in learning.items():
            is_spared = not decay_norms and _is_spared(key, weight)
            by_muon = weight in matrices and name not in NEVER_MUON
            kinds[key] = BY_MUON if by_muon else NO_DECAY if is_spared else ""
        for kind in ("", NO_DECAY, BY_MUON):
            weights = [learning[key] for key in learning if kinds[key] == kind]
            if not weights:
                continue
            highest = factor * (options.muon_rate if kind == BY_MUON else options.learning_rate)
            group = merged.setdefault(
                (factor, kind),
                {
                    "stages": [],
                    "params": [],
                    "places": [],
                    "lr": highest,
                    "highest_rate": highest,
                    "weight_decay": 0.0 if kind == NO_DECAY else options.weight_decay,
                    **({MATRICES: True} if kind == BY_MUON else {}),
                },
            )
            group["stages"].append(name)
            group["params"] += weights
            group["places"] += [(parts, number) for number in range(len(weights))]
            parts += 1
    groups = [{"name": _named(group.pop("stages"), kind), **group} for (_, kind), group in merged.items()]
    rated = sum(len(group["params"]) for group in groups)
    learning_in_all = sum(parameter.requires_grad for parameter in model.parameters())
    if rated != learning_in_all:
        raise ValueError(f"{learning_in_all} parameters learn, {rated} of them have a learning rate")
    return groups


def _named(stages: list[str], kind: str) -> str:
    """Name a group after its first and last stage, and its kind."""
    name = stages[0] if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
    return f"{name}, {kind}" if kind else name


def by_place(optimiser: torch.optim.Optimizer) -> dict[tuple[int, int], nn.Parameter]:
    """Return what learns by its place: the number of a stage's part, and its own number there.

    A part is what has weight decay, or has none. Norms are added up in this order, however stages share
    groups, and states of layout 2 (trainer.run_folder.state_parts) name moments after places.
    """
    placed = {
        place: weight
        for group in optimiser.param_groups
        for place, weight in zip(group["places"], group["params"], strict=True)
    }
    return dict(sorted(placed.items()))


def backbone_stages(backbone: DINOv3ViTModel, options: OptimiserOptions) -> Iterator[Stage]:
    """Yield the stages of a backbone, from its embeddings to its last block.

    Of n blocks, block i learns at `backbone_rate_factor * layer_decay ** (n - 1 - i)` of the highest rate,
    the embeddings like a block below the first, the final norm like the last block (layer-wise decay as for
    BEiT, Bao et al. 2021, arXiv:2106.08254).
    """
    factor, decay = options.backbone_rate_factor, options.layer_decay
    blocks = len(backbone.model.layer)
    yield "backbone.embeddings", factor * decay**blocks, dict(backbone.embeddings.named_parameters())
    for number, block in enumerate(backbone.model.layer):
        yield (
            f"backbone.block.{number}",
            factor * decay ** (blocks - 1 - number),
            dict(block.named_parameters()),
        )
    yield "backbone.norm", factor, dict(backbone.norm.named_parameters())


def _is_spared(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether it is a bias, a norm, a layer scale (all have one number a channel) or a token."""
    return parameter.ndim < 2 or name.endswith(("_token", "_tokens"))


def new_optimiser(
    groups: list[dict[str, Any]],
    options: OptimiserOptions,
    device: torch.device,
    precision: Precision = "float32",
) -> AdamW:
    """Make the optimiser for `groups` on `device`; AdamW is one kernel where the device has it."""
    given: dict[str, Any] = {
        "lr": options.learning_rate,
        "eps": ADAM_EPSILON,
        "weight_decay": options.weight_decay,
        "fused": device.type in FUSED_DEVICES,
    }
    if options.optimiser == "adamw":
        return AdamW(groups, **given)
    # On a CPU float32 costs little and keeps ranks together; fp16 has too small a range.
    is_rounded = device.type == "cuda" and precision == "bf16"
    return Muon(groups, torch.bfloat16 if is_rounded else torch.float32, **given)


def not_finite(numbers_N: Tensor) -> Tensor:
    """Return 1.0 if one of these numbers is infinite or not a number, else 0.0; the host need not know."""
    # 0 times anything that is not finite is not a number, and so is not 0.
    return (numbers_N.sum() * 0 != 0).float()


def step_unless(optimiser: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Take a step, unless `found_inf`, which is on the device, is 1.

    A fused AdamW leaves everything as it is where its attribute `found_inf` is 1 (torch 2.13,
    torch/optim/adam.py, which torch.amp.GradScaler sets for it). So does our Muon.
    """
    vars(optimiser)["found_inf"] = found_inf
    try:
        optimiser.step()
    finally:
        del vars(optimiser)["found_inf"]


class Schedule:
    """Schedule of an optimiser's learning rates; all groups rise and fall together, in proportion."""

    def __init__(self, optimiser: torch.optim.Optimizer, options: OptimiserOptions, total_steps: int) -> None:
        """Set the rates of the first step.

        Args:
            optimiser: the optimiser; its groups come from `parameter_groups`.
            options: options of the optimiser.
            total_steps: steps of the whole training.

        Raises:
            InputError: there is no step.
        """
        if total_steps < 1:
            raise InputError("there is no step to train: no training chip is chosen, or --epochs is 0")
        self._optimiser, self._options, self._total_steps = optimiser, options, total_steps
        self._highest = [float(group["highest_rate"]) for group in optimiser.param_groups]
        self._step, self._best, self._stalled, self._halvings = 0, inf, 0, 0
        self._share: float | None = None
        self._set_rates()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the decoder in the next step."""
        return self._options.learning_rate * self.factor(self._step)

    def factor(self, step: int) -> float:
        """Return the rates in `step` (from 0) as a share of the highest; "plateau" ignores the step.

        "cosine" is one cycle of Loshchilov and Hutter 2016, arXiv:1608.03983, equation 5, down to 0.
        """
        options = self._options
        if options.schedule == "plateau":
            return max(0.5**self._halvings, options.lowest_learning_rate / options.learning_rate)
        total_steps = self._total_steps
        if self._share is not None:  # all within the warm-up, or soon after it
            return min(1.0, max(LEAST_RISE, self._share) / max(LEAST_RISE, options.warm_up))
        warm_up = max(1, round(total_steps * options.warm_up))
        if step < warm_up:
            return (step + 1) / warm_up
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + cos(pi * min(1.0, (step - warm_up) / max(1, total_steps - warm_up))))

    def follow_clock(self, share: float) -> None:
        """Set the rates of the next step while the number of steps is not known.

        Args:
            share: share (0..1) of the training's time that is over after that step.
        """
        self._share = share
        self._set_rates()

    def after_step(self) -> None:
        """Set the rates of the next step, after a step of the optimiser."""
        self._step += 1
        self._set_rates()

    def after_epoch(self, value: float) -> None:
        """Take note of an epoch's loss, `value`; "plateau" may halve the rates."""
        if value < self._best * (1 - LEAST_IMPROVEMENT):
            self._best, self._stalled = value, 0
        else:
            self._stalled += 1
        if self._stalled > self._options.plateau_patience:
            self._halvings, self._stalled = self._halvings + 1, 0
        self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to resume, as plain JSON values; "best" is None before the first epoch."""
        return {
            "step": self._step,
            "best": self._best if isfinite(self._best) else None,
            "stalled": self._stalled,
            "halvings": self._halvings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned, and set the rates of the next step."""
        self._step, self._best = state["step"], inf if state["best"] is None else state["best"]
        self._stalled, self._halvings = state["stalled"], state["halvings"]
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self._step)
        for group, highest in zip(self._optimiser.param_groups, self._highest, strict=True):
            group["lr"] = highest * factor
