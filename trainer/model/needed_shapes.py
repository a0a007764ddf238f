"""Whether weights are those of the model that config.json describes, seen before memory is taken for it.

check_shape(file, config["backbone"])       types and ranges of the numbers that make a backbone
check_decoder(file, config["decoder"])      the same of a decoder
check_fit(file, needed, entries)            names and shapes of tensors, as a file's header lists them

A model is described on the device "meta", where it takes no memory; a config.json of a stranger can then ask
for no more than the weights beside it have.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor
from transformers.activations import ACT2FN

from shards.errors import InputError
from shards.storage.json_marks import Between, Checked
from shards.storage.typed_json import shown, typed
from trainer.weights.run_checkpoints import DAMAGED
from trainer.weights.weights_file import Entry

_CODE = ("auto_map", "_attn_implementation", "attn_implementation", "quantization_config", "use_kernels")
"""Entries of a configuration with which transformers would fetch code, or kernels, and run them."""
_Size = Annotated[int, Between(1, 2**17)]
_Share = Annotated[float, Between(0, 1)]
_Number = Annotated[float, Between(-1e6, 1e6)]


def _check_activation(name: str) -> None:
    if name not in ACT2FN:
        raise InputError("no function of transformers")


@dataclass(frozen=True)
class BackboneNumbers:
    """Numbers of transformers' DINOv3ViTConfig, with wide ranges (DINOv3 7B has 40 blocks of 4096)."""

    hidden_size: _Size = 384
    intermediate_size: _Size = 1536
    num_hidden_layers: Annotated[int, Between(0, 512)] = 12
    num_attention_heads: Annotated[int, Between(1, 1024)] = 6
    patch_size: Annotated[int, Between(1, 1024)] = 16
    image_size: Annotated[int, Between(1, 2**17)] | list[_Size] = 224
    num_channels: Annotated[int, Between(1, 4096)] = 3
    num_register_tokens: Annotated[int, Between(0, 4096)] = 0
    hidden_act: Annotated[str, Checked(_check_activation)] = "gelu"
    attention_dropout: _Share = 0.0
    drop_path_rate: _Share = 0.0
    initializer_range: Annotated[float, Between(0, 1e6)] = 0.02
    layer_norm_eps: Annotated[float, Between(0, 1)] = 1e-5
    rope_theta: Annotated[float, Between(1e-6, 1e12)] = 100.0
    layerscale_value: _Number = 1.0
    pos_embed_shift: _Number | None = None
    pos_embed_jitter: _Number | None = None
    pos_embed_rescale: _Number | None = None
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    use_gated_mlp: bool = False
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_attention_heads):
            raise InputError(
                f"hidden_size {self.hidden_size} cannot be split into {self.num_attention_heads} heads"
            )


@dataclass(frozen=True)
class DecoderNumbers:
    """Numbers of a DecoderConfig, with wide ranges."""

    widths: list[_Size]
    norm: Literal["batch", "group"]
    dropout: _Share
    kind: str
    upsample: Annotated[int, Between(1, 64)] = 1
    outputs: Annotated[int, Between(1, 2**16)] = 1

    def __post_init__(self) -> None:
        if len(self.widths) > 16:
            raise InputError(f"{len(self.widths)} widths are more than any decoder has stages")


def check_shape(file: str, values: Any, cure: str = DAMAGED) -> None:
    """Refuse a backbone's configuration with a value out of its range, or one that names code.

    Args:
        file: file that holds it, for messages.
        values: arguments of DINOv3ViTConfig.
        cure: what to do, for messages.

    Raises:
        InputError: says which.
    """
    refuse_code(file, values)
    typed(values, BackboneNumbers, file, cure, strict=False)


def refuse_code(file: str, values: Any) -> None:
    """Refuse a configuration of transformers that names code or kernels.

    Raises:
        InputError: says which entry does.
    """
    for name in _CODE if isinstance(values, dict) else ():
        # transformers writes the names of its own three ways to compute attention.
        if values.get(name) not in (None, {}, False, "sdpa", "eager"):
            raise InputError(
                f"{file}: {name} is {shown(values[name])}, which names code; Treeline never loads code that "
                "comes with weights: take a copy without it"
            )


def check_decoder(file: str, values: Any) -> None:
    """Refuse a decoder's configuration with a value out of its range; see `check_shape`."""
    typed(values, DecoderNumbers, file, DAMAGED, strict=False)


def check_fit(file: str, needed: Mapping[str, Tensor], entries: Iterable[Entry], prefix: str = "") -> None:
    """Refuse weights whose tensors are not those that a model needs.

    Args:
        file: the weights, for messages.
        needed: tensors of the model by name; their values do not matter.
        entries: tensors of the file.
        prefix: prefix of the names of those that are for the model.

    Raises:
        InputError: names a tensor.
    """
    found = {
        entry.name.removeprefix(prefix): entry.shape for entry in entries if entry.name.startswith(prefix)
    }
    for name, tensor in needed.items():
        if name not in found:
            raise InputError(f"{file}: lacks {prefix}{name}, which config.json's model needs; {DAMAGED}")
        if found[name] != tuple(tensor.shape):
            raise InputError(
                f"{file}: {prefix}{name} has the shape {list(found[name])}, config.json's model needs "
                f"{list(tensor.shape)}; {DAMAGED}"
            )
    if left := sorted(found.keys() - needed.keys()):
        raise InputError(f"{file}: {shown(prefix + left[0])} is no tensor of config.json's model; {DAMAGED}")
