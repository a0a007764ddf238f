"""What learns how fast: groups of parameters with rates of their own, AdamW, and how rates change.

groups = parameter_groups(regressor, options)            after trainer.model.trainable decided what learns
optimiser = new_optimiser(groups, options, device)
schedule = Schedule(optimiser, options)
    schedule.after_step()                                after each step of the optimiser
    schedule.after_epoch(loss)                           after each validation
"""

from collections.abc import Iterator
from math import cos, inf, isfinite, pi
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from trainer.model.regressor import Regressor
from trainer.options import OptimiserOptions

ADAM_EPSILON = 1e-6
"""A gradient that is 0 but for rounding (a bias before a norm) must not become a full step: ranks round
differently, and would drift apart."""
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where torch has AdamW in one kernel (torch 2.13, torch/utils/_foreach_utils.py)."""
LEAST_IMPROVEMENT = 1e-4
"""Share by which a loss must be below the best one to count as better (that of torch's ReduceLROnPlateau)."""


def parameter_groups(regressor: Regressor, options: OptimiserOptions) -> list[dict[str, Any]]:
    """What learns, in groups as torch's optimisers take them; the same regressor gives the same order always.

    The decoder first, then its output layer, then the backbone from its embeddings to its last block: with n
    blocks, block i learns at `backbone_rate_factor * layer_decay ** (n - 1 - i)` of the decoder's rate, the
    embeddings as a block below the first, the final norm as the last block (layer-wise decay as for BEiT,
    Bao et al. 2021, arXiv:2106.08254). Each may come twice: with weight decay, and without.

    Raises:
        ValueError: a parameter learns that is neither the decoder's nor the backbone's.
    """
    groups = list[dict[str, Any]]()
    for name, factor, parameters in _stages(regressor, options):
        learning = {key: parameter for key, parameter in parameters.items() if parameter.requires_grad}
        spared = {key: not options.decay_norms and _is_spared(key, learning[key]) for key in learning}
        for is_spared in (False, True):
            group = {
                "name": f"{name}, no weight decay" if is_spared else name,
                "params": [learning[key] for key in learning if spared[key] == is_spared],
                "lr": options.learning_rate * factor,
                "highest_rate": options.learning_rate * factor,
                "weight_decay": 0.0 if is_spared else options.weight_decay,
            }
            if group["params"]:
                groups.append(group)
    grouped = sum(len(group["params"]) for group in groups)
    learning_in_all = sum(parameter.requires_grad for parameter in regressor.parameters())
    if grouped != learning_in_all:
        raise ValueError(f"{learning_in_all} parameters learn, {grouped} of them have a learning rate")
    return groups


def _stages(
    regressor: Regressor, options: OptimiserOptions
) -> Iterator[tuple[str, float, dict[str, nn.Parameter]]]:
    """(name, learning rate as a share of the decoder's, parameters by name); no parameter comes twice."""
    output = set(regressor.decoder.output.parameters())
    of_decoder = dict(regressor.decoder.named_parameters())
    yield "decoder", 1.0, {key: weight for key, weight in of_decoder.items() if weight not in output}
    in_output = {key: weight for key, weight in of_decoder.items() if weight in output}
    yield "decoder.output", options.output_rate_factor, in_output
    backbone, factor, decay = regressor.backbone, options.backbone_rate_factor, options.layer_decay
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
    """Whether it is a bias, a norm's or a layer scale's (all one number a channel), or a token."""
    return parameter.ndim < 2 or name.endswith(("_token", "_tokens"))


def new_optimiser(groups: list[dict[str, Any]], options: OptimiserOptions, device: torch.device) -> AdamW:
    """AdamW for `groups` on `device`, in one kernel where the device has that."""
    fused = device.type in FUSED_DEVICES
    return AdamW(
        groups, options.learning_rate, eps=ADAM_EPSILON, weight_decay=options.weight_decay, fused=fused
    )


class Schedule:
    """Sets the rates of an optimiser's groups: all rise and fall together, in proportion."""

    def __init__(self, optimiser: torch.optim.Optimizer, options: OptimiserOptions) -> None:
        """Sets the rates of the first step. The groups are those of `parameter_groups`."""
        self._optimiser, self._options = optimiser, options
        self._highest = [float(group["highest_rate"]) for group in optimiser.param_groups]
        self._step, self._best, self._stalled, self._halvings = 0, inf, 0, 0
        self._set_rates()

    @property
    def learning_rate(self) -> float:
        """The decoder's, in the step to come."""
        return self._options.learning_rate * self.factor(self._step)

    def factor(self, step: int) -> float:
        """Rates in `step` (from 0) as a share of the highest; "plateau": those of now, whatever the step.

        Cosine: Loshchilov and Hutter 2016, arXiv:1608.03983, equation 5, one cycle down to 0.
        """
        options = self._options
        if options.schedule == "plateau":
            return max(0.5**self._halvings, options.lowest_learning_rate / options.learning_rate)
        warm_up = max(1, round(options.total_steps * options.warm_up))
        if step < warm_up:
            return (step + 1) / warm_up
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + cos(pi * min(1.0, (step - warm_up) / max(1, options.total_steps - warm_up))))

    def after_step(self) -> None:
        """One step of the optimiser is done: set the rates of the next."""
        self._step += 1
        self._set_rates()

    def after_epoch(self, value: float) -> None:
        """One epoch is done and the loss is `value`: "plateau" may halve the rates."""
        if value < self._best * (1 - LEAST_IMPROVEMENT):
            self._best, self._stalled = value, 0
        else:
            self._stalled += 1
        if self._stalled > self._options.plateau_patience:
            self._halvings, self._stalled = self._halvings + 1, 0
        self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """What a stopped run needs to go on, as JSON can hold it: "best" is None before the first epoch."""
        return {
            "step": self._step,
            "best": self._best if isfinite(self._best) else None,
            "stalled": self._stalled,
            "halvings": self._halvings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave: the rates are those of the step to come."""
        self._step, self._best = state["step"], inf if state["best"] is None else state["best"]
        self._stalled, self._halvings = state["stalled"], state["halvings"]
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self._step)
        for group, highest in zip(self._optimiser.param_groups, self._highest, strict=True):
            group["lr"] = highest * factor
