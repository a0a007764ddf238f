"""Rounding of weights that learn to 16 bits: a whole part at once instead of weight by weight.

round_together(block, "bf16")       before training; the block's passes then launch far fewer kernels

Autocast launches two kernels for each weight and step: one rounds the weight, one brings its gradient back to
float32. Here one kernel rounds all weights of a part, and one brings back their gradients. The numbers are
the same. A part should be no larger than a block: its gradients become known together, and until then ranks
cannot begin to exchange them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS

_ROUNDED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers whose weights autocast rounds."""


def round_together(part: nn.Module, precision: Precision) -> None:
    """Round the weights of a part's matrices and convolutions together, if `precision` has 16 bits.

    This happens in each pass under autocast. If activations are recomputed, autocast rounds the weights in
    the second forward pass.

    Args:
        part: a module that is called once in a pass, by one thread at a time; neither sharded, wrapped nor
            compiled.
        precision: the precision in which it is called.
    """
    dtype = MEANINGS[precision].dtype
    layers = [layer for layer in part.modules() if isinstance(layer, _ROUNDED)]
    places: list[tuple[nn.Module, str]] = [
        (layer, name)
        for layer in layers
        for name, weight in layer.named_parameters(recurse=False)
        if weight.dtype == torch.float32
    ]
    if dtype is None or not places:
        return
    swap = _Swap(places, dtype)
    part.register_forward_pre_hook(swap.enter)
    part.register_forward_hook(swap.leave, always_call=True)


class _Swap:
    """Hooks that put rounded weights in place of a part's own while it computes."""

    def __init__(self, places: list[tuple[nn.Module, str]], dtype: torch.dtype) -> None:
        self._places, self._dtype = places, dtype
        self._own: list[Any] = []

    def enter(self, part: nn.Module, arguments: Any) -> None:
        """Put rounded weights in place of the part's own, under autocast."""
        if self._own:  # Ctrl-C in a pass: torch calls no hook then
            self._put_back()
        own: list[Any] = [layer._parameters[name] for layer, name in self._places]
        if not torch.is_autocast_enabled(own[0].device.type):
            return
        rounded = _Rounded.apply(self._dtype, *own)
        self._own = own
        for (layer, name), weight in zip(self._places, rounded, strict=True):
            layer._parameters[name] = weight

    def leave(self, part: nn.Module, arguments: Any, output: Any) -> None:
        """Put the part's own weights back, also after an error."""
        self._put_back()

    def _put_back(self) -> None:
        for (layer, name), weight in zip(self._places, self._own, strict=False):
            layer._parameters[name] = weight
        self._own = []


class _Rounded(torch.autograd.Function):
    """Rounding of tensors by one kernel, and of their gradients back to float32 by another."""

    @staticmethod
    def forward(context: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        """Round `weights` to `dtype`."""
        context.set_materialize_grads(False)
        context.learning = context.needs_input_grad[1:]
        rounded = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(rounded, weights)
        fixed = (one for one, learns in zip(rounded, context.learning, strict=True) if not learns)
        context.mark_non_differentiable(*fixed)
        return tuple(rounded)

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients in float32."""
        known = [one for one in gradients if one is not None]
        exact = [torch.empty_like(one, dtype=torch.float32) for one in known]
        if known:
            torch._foreach_copy_(exact, known)
        left = iter(exact)
        return None, *(None if one is None else next(left) for one in gradients)
