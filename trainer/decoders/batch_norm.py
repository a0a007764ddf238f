"""Batch norm over the chips of all ranks, whose running statistics change once a step.

    norms = BatchNorms(model, ranks.sum)        once, before the model is wrapped; without ranks: None
    norms.count(True)                           before a pass in train mode: whether its chips count
    norms.note()                                after a pass that the step is made of
    norms.update()                              after the step; norms.forget() where it was left out

Ioffe and Szegedy 2015 (arXiv:1502.03167). torch's SyncBatchNorm would not do: it needs GPUs, and counts the
chip that stands in where a rank has none. torch's own layers change their running statistics in each forward
pass, also where a step has several passes or is left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

AddUp = Callable[[Tensor], Tensor]
"""Function that adds up a tensor over ranks; every rank calls it."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with the names, the state and, in eval mode, the results of nn.BatchNorm2d.

    By itself it is that layer. A `BatchNorms` sets the attributes below.
    """

    # Of the class, so that a layer of torch's becomes one of these by its class alone.
    add_up: AddUp | None = None
    """Function that adds up over ranks; None: this process has all chips."""
    counts: bool = True
    """Whether the chips of the next pass count, rather than stand in for none."""
    is_deferred: bool = False
    """Whether `BatchNorms` changes the running statistics, after the step, instead of the forward pass."""
    seen_2C: Tensor | None = None
    """Means and unbiased variances of the last pass in train mode."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features, (B, C, ...), in train mode by the statistics of all ranks' chips."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        values = input.numel() // input.shape[1]
        # torch's variance of a single value is not a number.
        alone = self.add_up is None and self.counts and values > 1
        normalised, self.seen_2C = self._alone(input) if alone else self._together(input)
        if not self.is_deferred:
            update([self], [self.seen_2C])
        return normalised

    def _alone(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise by this process's chips, with torch's own kernel."""
        # Running statistics that forget all that was are the statistics of this pass.
        seen_2C = input.new_zeros((2, input.shape[1]), dtype=_exact(input.dtype))
        mean_C, variance_C = seen_2C
        return batch_norm(input, mean_C, variance_C, self.weight, self.bias, True, 1.0, self.eps), seen_2C

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _together(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise by the chips of all ranks; by the running statistics where no rank has any."""
        assert self.running_mean is not None
        assert self.running_var is not None
        running_2C = torch.stack([self.running_mean, self.running_var]).to(_exact(input.dtype))
        ones_C, zeros_C = torch.ones_like(running_2C[0]), torch.zeros_like(running_2C[0])
        weight_C = ones_C if self.weight is None else self.weight
        bias_C = zeros_C if self.bias is None else self.bias
        normalised, seen_2C = _Together.apply(
            input, weight_C, bias_C, running_2C, self.eps, self.counts, self.add_up
        )
        return normalised, seen_2C

    def _check_input_dim(self, input: Tensor) -> None:
        """Take features of any number of axes."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a training, so that copies and pickles stand alone."""
        return {name: value for name, value in vars(self).items() if name not in _OF_A_TRAINING}


_OF_A_TRAINING = ("add_up", "counts", "is_deferred", "seen_2C")
_TORCHS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class BatchNorms:
    """All batch norms of a model in training, torch's own (of a user's decoder) as well."""

    def __init__(self, module: nn.Module, add_up: AddUp | None = None) -> None:
        """Take over their running statistics; the module must not get others afterwards.

        Args:
            module: the model, not wrapped. Layers of torch's become BatchNorms in place, so that hooks and
                other names of a layer stay.
            add_up: adds up over the ranks that share each batch; default: this process has all chips.
        """
        self._layers: list[BatchNorm] = []
        for layer in module.modules():
            if type(layer) in _TORCHS:
                layer.__class__ = BatchNorm
            if isinstance(layer, BatchNorm) and layer.running_mean is not None:
                layer.add_up, layer.is_deferred = add_up, True
                self._layers.append(layer)
        self._noted: list[list[Tensor]] = []

    def __bool__(self) -> bool:
        """Whether the model has any."""
        return bool(self._layers)

    def count(self, counts: bool) -> None:
        """Say whether the chips of the next pass count; one that stands in for none only takes part."""
        for layer in self._layers:
            layer.counts = counts

    def note(self) -> None:
        """Note the statistics of the last pass for the step's update."""
        self._noted.append([layer.seen_2C for layer in self._layers if layer.seen_2C is not None])

    def forget(self) -> None:
        """Forget what was noted: the step was left out."""
        self._noted.clear()

    def update(self, found_inf: Tensor | None = None) -> None:
        """Change the running statistics once, by the mean of what was noted of the step's passes.

        Args:
            found_inf: on the device, 1 where the step was left out, so that nothing changes; default: it
                was not.
        """
        noted, self._noted = self._noted, []
        if self._layers and noted:
            means = [torch.stack(of_layer).mean(0) for of_layer in zip(*noted, strict=True)]
            update(self._layers, noted[0] if len(noted) == 1 else means, found_inf)


@torch.no_grad()
def update(layers: list[BatchNorm], seen: list[Tensor], found_inf: Tensor | None = None) -> None:
    """Move each layer's running statistics towards its seen_2C; all layers together, in few kernels."""
    means = [layer.running_mean for layer in layers if layer.running_mean is not None]
    variances = [layer.running_var for layer in layers if layer.running_var is not None]
    counters = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
    running = [one for pair in zip(means, variances, strict=True) for one in pair]
    one = 1 if found_inf is None else (found_inf == 0).long()
    torch._foreach_add_(counters, one)
    sizes = [len(one_C) for one_C in running]
    before = torch.cat(running)
    target = torch.cat([seen_2C.flatten() for seen_2C in seen]).to(before.dtype)
    now = torch.lerp(before, target, _rates(layers, before))
    if found_inf is not None:
        now = torch.where(found_inf == 0, now, before)
    torch._foreach_copy_(running, now.split(sizes))


def _rates(layers: list[BatchNorm], like: Tensor) -> float | Tensor:
    """Return the share by which statistics move: the layers' momentum, without one the mean of all steps."""
    momenta = {layer.momentum for layer in layers}
    if len(momenta) == 1 and None not in momenta:
        return float(momenta.pop() or 0.0)
    rates = []
    for layer in layers:
        count = layer.num_batches_tracked
        rate = layer.momentum
        whole = 1 / count.clamp(min=1) if rate is None and count is not None else like.new_tensor(rate)
        rates.append(whole.to(like.dtype).expand(2 * layer.num_features))
    return torch.cat(rates)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Together(torch.autograd.Function):
    """Batch norm whose statistics, and their gradients, are those of the chips of all ranks."""

    @staticmethod
    def forward(
        context: Any,
        input: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        running_2C: Tensor,
        eps: float,
        counts: bool,
        add_up: AddUp | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the normalised input, and the means and unbiased variances that it was normalised by."""
        count, mean_C, square_C = _sums(input, running_2C, counts, add_up)
        some = count > 0
        mean_C = torch.where(some, mean_C / count.clamp(min=1), running_2C[0])
        variance_C = torch.where(some, square_C / count.clamp(min=1) - mean_C.square(), running_2C[1])
        unbiased_C = torch.where(some, variance_C * (count / (count - 1).clamp(min=1)), running_2C[1])
        dtype = running_2C.dtype
        seen_2C = torch.stack([mean_C, unbiased_C]).to(dtype)
        mean_C, variance_C = mean_C.to(dtype), variance_C.clamp(min=0).to(dtype)
        context.save_for_backward(input, weight_C, mean_C, variance_C, count)
        context.eps, context.counts, context.add_up = eps, counts, add_up
        context.mark_non_differentiable(seen_2C)
        return batch_norm(input, mean_C, variance_C, weight_C, bias_C, False, 0.0, eps), seen_2C

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; those of weight and bias are of this rank's chips alone, as elsewhere."""
        input, weight_C, mean_C, variance_C, count = context.saved_tensors
        gradient, rest = gradients[0], (None,) * 4
        _, weight_gradient_C, bias_gradient_C = torch.ops.aten.native_batch_norm_backward(
            gradient, input, weight_C, mean_C, variance_C, None, None, False, context.eps, [False, True, True]
        )
        sums_2C = torch.stack([weight_gradient_C, bias_gradient_C]).double()
        if context.add_up is not None:
            sums_2C = context.add_up(sums_2C if context.counts else torch.zeros_like(sums_2C))
        if not context.counts:  # nothing that it stands in for depends on it
            return torch.zeros_like(input), weight_gradient_C, bias_gradient_C, *rest
        # With x^ = (x - mean) / deviation, the gradient of x is
        # weight / deviation * (dy - mean(dy) - x^ mean(dy x^)).
        inverse_C = (variance_C.double() + context.eps).rsqrt()
        scale_C = weight_C.double() * inverse_C
        along_C, mean_gradient_C = sums_2C / count
        numbers = mean_C, scale_C, -scale_C * inverse_C * along_C, -scale_C * mean_gradient_C
        dtype, shape = mean_C.dtype, (1, -1) + (1,) * (input.dim() - 2)
        mean, of_gradient, of_centred, of_one = (one_C.to(dtype).view(shape) for one_C in numbers)
        centred = input.to(dtype) - mean
        slope = torch.addcmul(of_one, centred, of_centred).addcmul_(gradient.to(dtype), of_gradient)
        return slope.to(input.dtype), weight_gradient_C, bias_gradient_C, *rest


def _sums(
    input: Tensor, running_2C: Tensor, counts: bool, add_up: AddUp | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, over all ranks and in float64, the number of values a channel, their sums and squares' sums."""
    channels = input.shape[1]
    sums_T = torch.zeros(1 + 2 * channels, dtype=torch.float64, device=input.device)
    if counts:
        # It rounds to the dtype of the running statistics that it is given, which otherwise do not matter.
        spoilt_2C = running_2C.clone()
        mean_C, variance_C = torch.batch_norm_update_stats(input, spoilt_2C[0], spoilt_2C[1], 0.0)
        mean_C, count = mean_C.double(), input.numel() // channels
        # Float64, in which squares keep the variance of values that are far from 0.
        square_C = variance_C.double() + mean_C.square()
        sums_T[0] = count
        sums_T[1:] = torch.cat([mean_C, square_C]) * count
    if add_up is not None:
        sums_T = add_up(sums_T)
    return sums_T[0], sums_T[1 : 1 + channels], sums_T[1 + channels :]
