"""The model of tile tasks: stored pixels in, a number or the logits of classes for each tile out.

encoder     image_BCHW as stored -> tokens, or the class token's attention   (trainer.model.encoder)
output      one of these -> value, or logits                                 one linear layer
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTModel

from trainer.devices.choice import Precision
from trainer.devices.learner import Learner
from trainer.devices.rounding import round_together
from trainer.devices.sharding import Blocks
from trainer.model.class_attention import class_attention
from trainer.model.encoder import Encoder, attended, patches_valid
from trainer.model.frozen_backbone import matrices_of, round_once

START = 0.02
"""Deviation of the output layer's first weights, over the square root of their number: a normed token's
numbers are about 1, so that the first outputs differ from their mean by a fiftieth of a deviation."""
ATTENTION = ("norm1", "attention.q_proj", "attention.k_proj")
"""Parts of a block that its attention is computed from."""

PERCENT = "_percent"
"""Ending of the names of labels that are shares."""


def unit_of(label: str) -> str:
    """Return the unit of a label's numbers: "%", or "" where none is known."""
    return "%" if label.endswith(PERCENT) else ""


@dataclass(frozen=True)
class TileHead:
    """Output of a model of tiles."""

    label: str
    """Name of the label."""
    kind: str = "mean"
    """Input of the head: the class token, the mean of the patches' tokens, or the class token's attention."""
    classes: tuple[str, ...] = ()
    """Names of the classes; (): the output is a number."""
    centre: float = 0.0
    """Mean of the training tiles' labels, at which the output starts."""
    scale: float = 1.0
    """Their standard deviation, in which the loss measures errors."""

    @property
    def outputs(self) -> int:
        """Numbers that the model computes for each tile."""
        return len(self.classes) or 1

    @property
    def unit(self) -> str:
        """Unit of a number; see `unit_of`."""
        return unit_of(self.label)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(**{**values, "classes": tuple(values["classes"])})

    def to_json(self) -> dict[str, Any]:
        """Return the head as plain JSON values."""
        return {**asdict(self), "classes": list(self.classes)}


class TileModel(Learner):
    """Normalisation, backbone and a linear layer. The tile's sides must be multiples of the patch size."""

    def __init__(self, encoder: Encoder, head: TileHead) -> None:
        """Args:
        encoder: normalisation and backbone.
        head: what the linear layer computes; its weights start random.
        """
        super().__init__()
        self.encoder, self.head = encoder, head
        self.depth = int(encoder.backbone.config.num_hidden_layers)
        width = encoder.width
        if head.kind == "attention":
            rows = encoder.schema.chip_size // encoder.patch_size
            width = int(encoder.backbone.config.num_attention_heads) * rows**2
            _spare_after_attention(encoder.backbone)
        self.output = nn.Linear(width, head.outputs)
        nn.init.normal_(self.output.weight, 0.0, START / width**0.5)
        nn.init.zeros_(self.output.bias)

    def train(self, mode: bool = True) -> "TileModel":
        """Set train or eval mode, but keep the backbone in eval mode; see `Regressor.train`."""
        super().train(mode)
        self.encoder.backbone.eval()
        return self

    def blocks(self) -> Blocks:
        """See Learner."""
        layers = self.encoder.backbone.model.layer
        return Blocks(layers, self.output, matrices=matrices_of(layers))

    def round_frozen(self, precision: Precision) -> None:
        """See Learner."""
        round_once(self.encoder.backbone, precision, "apart" if self.apart else "kept")

    def round_together(self, precision: Precision) -> None:
        """See Learner."""
        for layer in self.encoder.backbone.model.layer:
            round_together(layer, precision)

    def compiled(self) -> Sequence[nn.Module]:
        """See Learner."""
        return list(self.encoder.backbone.model.layer)

    def forward(
        self, image_BCHW: Tensor, changes_BCK: Tensor | None = None, is_whole: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute outputs from stored pixels.

        Args:
            image_BCHW: as stored.
            changes_BCK: augmentation of the bands; see Normalise.
            is_whole: whether no pixel is missing; see trainer.model.encoder.attended.

        Returns:
            outputs_BK, float32: values in the label's unit (K = 1), or logits of classes; seen_B: tiles
            of which at least one patch has pixels.
        """
        pixels_BCHW, valid_BHW = self.encoder.normalise(image_BCHW, changes_BCK)
        valid_BN = patches_valid(valid_BHW, self.encoder.patch_size)
        outputs_BK = self.output(self._read(pixels_BCHW, valid_BN, is_whole)).float()
        return self.head.centre + self.head.scale * outputs_BK, valid_BN.any(1)

    def _read(self, pixels_BCHW: Tensor, valid_BN: Tensor, is_whole: bool | None) -> Tensor:
        """Return features_BF, from which the output is computed."""
        attended_BN = attended(valid_BN, is_whole)
        if self.head.kind == "attention":
            with class_attention(self.encoder.backbone, (self.depth,)) as found:
                self.encoder(pixels_BCHW, attended_BN=attended_BN)
            # A head's attention sums to 1 at most; times the patches, its numbers are about 1 as a token's.
            attention_BF: Tensor = found[self.depth].flatten(1) * valid_BN.shape[1]
            return attention_BF
        tokens_BND: Tensor = self.encoder(pixels_BCHW, attended_BN=attended_BN).float()
        if self.head.kind == "class":
            return tokens_BND[:, 0]
        weights_BN1 = valid_BN[..., None].float()
        patches_BND = tokens_BND[:, -valid_BN.shape[1] :]
        mean_BD: Tensor = (patches_BND * weights_BN1).sum(1) / weights_BN1.sum(1).clamp(min=1)
        return mean_BD

    @torch.no_grad()
    def predict(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs_BK and seen_B, see `forward`; call in eval mode."""
        outputs: tuple[Tensor, Tensor] = self(image_BCHW)
        return outputs


def _spare_after_attention(backbone: DINOv3ViTModel) -> None:
    """Let nothing learn that comes after the last attention: ranks wait for gradients that never come."""
    for name, weight in backbone.model.layer[-1].named_parameters():
        if not name.startswith(ATTENTION):
            weight.requires_grad_(False)
    backbone.norm.requires_grad_(False)
