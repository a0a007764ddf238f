"""A backbone that does not learn: rounded to 16 bits once, where autocast would round it in each pass.

round_once(backbone, "bf16", exact="kept")      in place, for training: checkpoints have the exact weights
model = placed_on(model, "bf16", device)        only to compute, on a device: half of the memory, or by block

Outputs are those of autocast. To launch fewer kernels, one product of matrices gives queries, keys and
values, and all tokens are rotated at once; those without a place turn by an angle of 0.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTAttention

from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS
from trainer.model.device_room import block_bytes, fits
from trainer.model.streamed import is_streamed, stream
from trainer.weights.weights_file import release

Module = TypeVar("Module", bound=nn.Module)
Exact = Literal["kept", "apart", "lost"]
"""Places of a rounded backbone's exact weights: kept on the host; in a file of the run's
(trainer.weights.weights_apart); nowhere."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_JOINT = ("joint_weight", "joint_bias")
"""Names of the parameters of all three projections together; those of one projection are rows of them."""


@torch.no_grad()
def round_once(
    backbone: DINOv3ViTModel,
    precision: Precision,
    exact: Exact = "lost",
    device: torch.device | None = None,
) -> None:
    """Round the blocks' matrices to the type of `precision`, in place and for good, if that has 16 bits.

    The patch embedding stays in float32: transformers takes the type of positions from it.

    Args:
        backbone: a backbone without adapters, neither sharded nor wrapped.
        precision: the precision in which it is called.
        exact: where the exact weights stay. "kept" and "apart" are for training: blocks that learn stay as
            they are, and `state_dict` names the exact weights; those that are apart have no values there and
            are on the device "meta". "lost": all blocks are rounded, and their weights cannot be saved.
        device: device to which the blocks go one by one; default: they stay where they are.
    """
    dtype = MEANINGS[precision].dtype
    if dtype is None or backbone.config._attn_implementation != "sdpa":
        return
    turns = _Turns()
    for block in backbone.model.layer:
        learns = any(weight.requires_grad for weight in block.parameters())
        if hasattr(block.attention, _JOINT[0]) or (learns and exact != "lost"):
            continue
        saved = dict[str, Tensor]()
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                for part, weight in list(layer.named_parameters()):
                    if exact != "lost":
                        saved[f"{name}.{part}"] = weight.detach().to("cpu" if exact == "kept" else "meta")
                    setattr(layer, part, _frozen(weight.to(dtype)))
                    if exact != "kept":
                        release(weight)
                # Classes, not functions put on each layer: --compile then compiles one block for all.
                layer.__class__ = _RoundedLinear
        _join(block.attention)
        block.attention.__class__ = _RoundedAttention
        block.attention.turns = turns
        block.register_state_dict_post_hook(partial(_give_exact, saved))
        if device:
            block.to(device)
            _share(block.attention)


def placed_on(
    model: Module, precision: Precision, device: torch.device, by_block: bool | None = None
) -> Module:
    """Place a model that does not learn on `device`, with its backbone rounded once; see `round_once`.

    Args:
        model: the model.
        precision: the precision in which it is called.
        device: the device.
        by_block: whether the backbone's blocks stay on the host and are copied to the device one by one
            (trainer.model.streamed). Default: if the device has no room for all.
    """
    staying = list[tuple[DINOv3ViTModel, nn.ModuleList]]()
    for part in list(model.modules()):
        if not isinstance(part, DINOv3ViTModel) or not part.model.layer:
            continue
        blocks = part.model.layer
        stays = is_streamed(part) or by_block
        if stays is None:
            is_there = next(blocks.parameters()).device.type == device.type != "cpu"
            stays = not (is_there or fits(block_bytes(part, precision), device))
        round_once(part, precision, device=None if stays else device)
        if stays:
            staying.append((part, blocks))
            part.model.layer = nn.ModuleList()
    model.to(device)
    for part, blocks in staying:
        part.model.layer = blocks
        if not is_streamed(part):
            stream(part, device)
    return model


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _join(attention: Any) -> None:
    """Join the weights of queries, keys and values in one tensor; from then on they are rows of it."""
    layers = [getattr(attention, name) for name in _PROJECTIONS]
    none_D = layers[0].weight.new_zeros(len(layers[0].weight))
    biases = [none_D if layer.bias is None else layer.bias for layer in layers]
    for name, parts in zip(_JOINT, ([layer.weight for layer in layers], biases), strict=True):
        attention.register_parameter(name, _frozen(torch.cat(parts)))
    _share(attention)


def _share(attention: Any) -> None:
    """Make the three layers' weights rows of the joint ones, in the same memory."""
    rows = zip(_PROJECTIONS, attention.joint_weight.chunk(3), attention.joint_bias.chunk(3), strict=True)
    for name, weight_DD, bias_D in rows:
        layer = getattr(attention, name)
        layer.weight = _frozen(weight_DD)
        if layer.bias is not None:
            layer.bias = _frozen(bias_D)


def _give_exact(
    saved: dict[str, Tensor], block: nn.Module, values: dict[str, Any], prefix: str, metadata: Any
) -> None:
    """Replace the rounded weights in a `state_dict` by the exact ones.

    Raises:
        RuntimeError: they are lost.
    """
    if not saved:
        raise RuntimeError("the backbone's weights are rounded to 16 bits and cannot be saved")
    for name in _JOINT:
        del values[f"{prefix}attention.{name}"]
    values.update({prefix + name: weight for name, weight in saved.items()})


class _RoundedLinear(nn.Linear):
    """A linear layer that computes in its weights' type, whether or not autocast is on."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer."""
        return linear(input.to(self.weight.dtype), self.weight, self.bias)


class _Turns:
    """Rotations of all tokens (RoPE), computed once for all blocks of a pass."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, cos: Tensor, sin: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return cos_BN11F and sin_BN11F of all tokens; the first ones have no place and are not rotated.

        Args:
            cos: cosines of the patches' angles, (N, F) or (B, 1, N, F).
            sin: their sines.
            tokens: number of tokens, the patches last.

        Returns:
            cosines, and sines of which the first half is negative; see `_turned`.
        """
        last = self._last  # another thread may replace it meanwhile
        if last is not None and last[0] is cos and last[1].shape[1] == tokens:
            return last[1:]
        cos_BNF, sin_BNF = (one[:, 0] if one.dim() == 4 else one[None] for one in (cos, sin))
        first_F, second_F = sin_BNF.chunk(2, -1)
        count, places, width = cos_BNF.shape
        cos_BNF = torch.cat([cos_BNF.new_ones(count, tokens - places, width), cos_BNF], 1)
        sin_BNF = torch.cat([-first_F, second_F], -1)
        sin_BNF = torch.cat([sin_BNF.new_zeros(count, tokens - places, width), sin_BNF], 1)
        made = cos_BNF[:, :, None, None], sin_BNF[:, :, None, None]
        if not torch.compiler.is_compiling():
            self._last = cos, *made
        return made


def _turned(numbers_BN2HF: Tensor, cos_BN11F: Tensor, sin_BN11F: Tensor) -> Tensor:
    """Rotate pairs of numbers, one of the first half and one of the second, by angles; keep their type.

    This is RoPE (Su et al. 2021, arXiv:2104.09864).
    """
    first, second = numbers_BN2HF.chunk(2, -1)
    parts = numbers_BN2HF * cos_BN11F, torch.cat([second, first], -1) * sin_BN11F
    # `out` adds and rounds in one kernel; nothing here has a gradient.
    return torch.add(*parts, out=torch.empty_like(numbers_BN2HF))


class _RoundedAttention(DINOv3ViTAttention):
    """The attention of a DINOv3 with one product for queries, keys and values."""

    joint_weight: Tensor
    joint_bias: Tensor
    turns: _Turns

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Compute what the parent class does; transformers names the arguments."""
        assert position_embeddings is not None
        joint_BND = linear(hidden_states.to(self.joint_weight.dtype), self.joint_weight, self.joint_bias)
        joint_BN3HF = joint_BND.unflatten(2, (3, self.num_heads, -1))
        turn = self.turns.of(*position_embeddings, joint_BND.shape[1])
        query_BHNF, key_BHNF = _turned(joint_BN3HF[:, :, :2], *turn).transpose(1, 3).unbind(2)
        value_BHNF = joint_BN3HF[:, :, 2].transpose(1, 2)
        read_BHNF = scaled_dot_product_attention(
            query_BHNF, key_BHNF, value_BHNF, attention_mask, scale=self.scaling
        )
        return self.o_proj(read_BHNF.transpose(1, 2).flatten(2)), None


def matrices_of(layers: Iterable[Any]) -> list[tuple[nn.Module, ...]]:
    """Name the parts of a DINOv3's layers that compute only with matrices, layer by layer."""
    return [(layer.attention, layer.mlp) for layer in layers]
