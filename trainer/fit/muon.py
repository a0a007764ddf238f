"""Muon for matrices and kernels, AdamW for all other weights, as one optimiser.

optimiser = Muon(groups, ...)           groups with "matrices" are Muon's (trainer.fit.optimiser.grouped)

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's averaged gradient by
the nearest matrix whose singular values are all about 1, so that a step changes every direction alike. A
convolution's kernel is seen as a matrix of outputs x (inputs x height x width); a transposed one's first axis
is its inputs. torch.optim.Muon would not do: it takes matrices alone, one at a time and in bfloat16, and
cannot leave out a step without a wait of the host.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.optim import AdamW

from trainer.devices.sharding import rows_of

MATRICES = "matrices"
"""Entry of a group: whether Muon learns its weights."""
MOMENTUM = 0.95
"""Share of the gradients' average that a step keeps (Jordan et al.)."""
ITERATIONS, FACTORS = 5, (3.4445, -4.7750, 2.0315)
"""Newton-Schulz iterations, and the factors of X, X^3 and X^5 in each (Jordan et al.); they bring singular
values from 0.002 on to between 0.7 and 1.2."""
EPSILON = 1e-7
"""Number added to a matrix's norm, so that a gradient of 0 gives a step of 0."""
WIDE = 2
"""Columns for each row from which it is cheaper to compute with squares. In bfloat16 they are too coarse."""
TOGETHER = 2**25
"""Most numbers of equal matrices that are orthogonalised at once; bounds memory."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def matrices_of(module: nn.Module) -> set[Tensor]:
    """Return the weights that are matrices: those of linear layers and convolutions.

    Kernels of channels apart (depthwise) are none, nor are vectors and LoRA's adapters, which are factors of
    a matrix.
    """
    adapters = {
        weight
        for layer in module.modules()
        if isinstance(layer, LoraLinear)
        for name, weight in layer.named_parameters()
        if "lora" in name
    }
    layers = (layer for layer in module.modules() if isinstance(layer, (*_LAYERS, *_TRANSPOSED)))
    weights = {layer.weight for layer in layers if getattr(layer, "groups", 1) == 1}
    return {weight for weight in weights - adapters if min(_as_matrix(weight)) > 1}


def _as_matrix(weight: Tensor) -> tuple[int, int]:
    """Return the rows and columns of a weight that is seen as a matrix."""
    rows = weight.shape[0]
    return rows, weight.numel() // max(1, rows)


@torch.no_grad()
def orthogonalised(matrices_KRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return matrices with the same singular vectors, and singular values of about 1; 0 stays 0.

    Args:
        matrices_KRC: matrices of one shape.
        dtype: numbers to compute with.
    """
    is_tall = matrices_KRC.shape[-2] > matrices_KRC.shape[-1]
    one = matrices_KRC.mT if is_tall else matrices_KRC
    # The Frobenius norm is at least the largest singular value.
    one = (one / (torch.linalg.vector_norm(one, dim=(-2, -1), keepdim=True) + EPSILON)).to(dtype)
    of_square = one.shape[-1] >= WIDE * one.shape[-2] and dtype == torch.float32
    one = _by_squares(one) if of_square else _by_products(one)
    return (one.mT if is_tall else one).to(matrices_KRC.dtype)


def _by_products(one_KRC: Tensor) -> Tensor:
    """Return X after all iterations, each of which makes aX + b(XX')X + c(XX')^2 X of it."""
    linear, cubic, quintic = FACTORS
    for _ in range(ITERATIONS):
        square_KRR = one_KRC @ one_KRC.mT
        both_KRR = torch.baddbmm(square_KRR, square_KRR, square_KRR, beta=cubic, alpha=quintic)
        one_KRC = torch.baddbmm(one_KRC, both_KRR, one_KRC, beta=linear)
    return one_KRC


def _by_squares(one_KRC: Tensor) -> Tensor:
    """Return the same for wide matrices, with two products of their width instead of ten.

    All iterations multiply X from the left by polynomials of XX', whose product is gathered first.
    """
    linear, cubic, quintic = FACTORS
    square_KRR = one_KRC @ one_KRC.mT
    gathered_KRR = torch.eye(one_KRC.shape[-2], dtype=one_KRC.dtype, device=one_KRC.device)
    gathered_KRR = gathered_KRR.expand_as(square_KRR)
    for _ in range(ITERATIONS):
        both_KRR = torch.baddbmm(square_KRR, square_KRR, square_KRR, beta=cubic, alpha=quintic)
        gathered_KRR = torch.baddbmm(gathered_KRR, both_KRR, gathered_KRR, beta=linear)
        half_KRR = torch.baddbmm(square_KRR, both_KRR, square_KRR, beta=linear)
        square_KRR = torch.baddbmm(half_KRR, half_KRR, both_KRR, beta=linear)
    return gathered_KRR @ one_KRC


class Muon(AdamW):
    """Muon for the groups of matrices, AdamW for the others.

    A fused AdamW leaves everything as it is where its attribute `found_inf` is 1, and so does Muon; see
    trainer.fit.optimiser.step_unless.
    """

    def __init__(self, groups: list[dict[str, Any]], numbers: torch.dtype, **options: Any) -> None:
        """Args:
        groups: groups of parameters; those with "matrices" are Muon's.
        numbers: type in which matrices are orthogonalised.
        **options: options of AdamW.
        """
        self._numbers = numbers
        super().__init__(groups, **options)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with all weights that have a gradient."""
        groups = self.param_groups
        for group in groups:
            if group.get(MATRICES):
                self._step_matrices(group)
        self.param_groups = [group for group in groups if not group.get(MATRICES)]
        try:
            super().step()
        finally:
            self.param_groups = groups

    @torch.no_grad()
    def _step_matrices(self, group: Mapping[str, Any]) -> None:
        for weights in _alike(group["params"]):
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            self._step_alike(weights, momenta, group["lr"], group["weight_decay"])

    def _step_alike(
        self, weights: list[nn.Parameter], momenta: list[Tensor], rate: float, decay: float
    ) -> None:
        """Take a step with weights of one shape; see `torch.optim.Muon` for the formulas."""
        held = [_rows(weight) for weight in weights]
        held_momenta = [_rows(momentum) for momentum in momenta]
        gradients_KRC = torch.stack(
            [_flat(_rows(weight.grad)) for weight in weights if weight.grad is not None]
        )
        before_KRC = torch.stack([_flat(one) for one in held_momenta])
        momenta_KRC = before_KRC.lerp(gradients_KRC, 1 - MOMENTUM)
        updates_KRC = gradients_KRC.lerp(momenta_KRC, MOMENTUM)  # Nesterov's
        updates_KRC = _of_whole(updates_KRC, weights[0], self._numbers)
        rows, columns = _as_matrix(weights[0])
        weights_KRC = torch.stack([_flat(one) for one in held])
        learnt_KRC = weights_KRC * (1 - rate * decay)
        learnt_KRC.add_(updates_KRC, alpha=-rate * max(1.0, rows / columns) ** 0.5)
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None:
            is_none = found_inf != 0
            learnt_KRC = torch.where(is_none, weights_KRC, learnt_KRC)
            momenta_KRC = torch.where(is_none, before_KRC, momenta_KRC)
        for tensors, values_KRC in ((held, learnt_KRC), (held_momenta, momenta_KRC)):
            values = [value.view(one.shape) for value, one in zip(values_KRC, tensors, strict=True)]
            torch._foreach_copy_(tensors, values)


def _alike(weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield lists of weights of one shape that have a gradient; their order depends on the shapes alone."""
    shapes = sorted(
        (tuple(weight.shape), number) for number, weight in enumerate(weights) if weight.grad is not None
    )
    for _, members in groupby(shapes, key=lambda member: member[0]):
        alike = [weights[number] for _, number in members]
        count = max(1, TOGETHER // alike[0].numel())
        for first in range(0, len(alike), count):
            yield alike[first : first + count]


def _rows(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a tensor."""
    return rows_of(tensor).tensor


def _flat(rows: Tensor) -> Tensor:
    """Return rows as rows of a matrix; a rank may have none."""
    return rows.reshape(len(rows), rows.shape[1:].numel())


def _of_whole(updates_KRC: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Orthogonalise matrices of which this rank may have some rows only; return its rows."""
    if not isinstance(weight, DTensor):
        return orthogonalised(updates_KRC, dtype)
    rows, columns = _as_matrix(weight)
    size = len(updates_KRC), rows, columns
    sharded = DTensor.from_local(
        updates_KRC,
        weight.device_mesh,
        (Shard(1),),
        run_check=False,
        shape=torch.Size(size),
        stride=(rows * columns, columns, 1),
    )
    first, count = rows_of(weight).first, updates_KRC.shape[1]
    return orthogonalised(sharded.full_tensor(), dtype)[:, first : first + count]
