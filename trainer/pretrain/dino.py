"""Self-distillation (DINO, Caron et al. 2021, arXiv:2104.14294): student, teacher and their heads.

The teacher's weights follow the student's as a running mean. Both have a head that turns a class token into
prototypes' scores; the student learns to give each crop of a tile the scores that the teacher gives others.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from trainer.devices.learner import Learner
from trainer.devices.sharding import Blocks, rows_of
from trainer.model.encoder import Encoder


class Head(nn.Module):
    """Three layers to a bottleneck, brought to length 1, then cosines with prototypes of length 1."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        """Args:
        width: numbers in a class token.
        hidden: width of the two hidden layers.
        bottleneck: width before the prototypes.
        prototypes: number of outputs.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)]
        )
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes_KD = nn.Parameter(torch.randn(prototypes, bottleneck) / bottleneck**0.5)

    def forward(self, tokens_BD: Tensor) -> Tensor:
        """Return scores_BK, each from -1 to 1."""
        first, second, third = self.layers
        narrow_BD = third(gelu(second(gelu(first(tokens_BD)))))
        scores_BK: Tensor = linear(normalize(narrow_BD), normalize(self.prototypes_KD))
        return scores_BK


class Dino(Learner):
    """Student and teacher."""

    followers = ("teacher.", "teacher_head.")

    def __init__(self, student: Encoder, head: Head) -> None:
        """Args:
        student: normalisation and backbone; the teacher starts as a copy.
        head: the student's head.
        """
        super().__init__()
        student.backbone.embeddings.mask_token.requires_grad_(False)
        self.student, self.student_head = student, head
        self.teacher = deepcopy(student).requires_grad_(False)
        self.teacher_head = deepcopy(head).requires_grad_(False)
        self.register_buffer("centre_K", torch.zeros(len(head.prototypes_KD)))

    centre_K: Tensor
    """Running mean of the teacher's scores."""

    def blocks(self) -> Blocks:
        """See Learner."""
        layers = [*self.student.backbone.model.layer, *self.teacher.backbone.model.layer]
        return Blocks(layers, self.student_head, ("taught", "summaries"))

    def compiled(self) -> Sequence[nn.Module]:
        """See Learner."""
        return [*self.student.backbone.model.layer, *self.teacher.backbone.model.layer]

    def train(self, mode: bool = True) -> "Dino":
        """Set train or eval mode, but keep the teacher in eval mode."""
        super().train(mode)
        self.teacher.eval()
        self.teacher_head.eval()
        return self

    def forward(
        self,
        pixels_by_size: Sequence[Tensor],
        places_by_size: Sequence[Tensor],
        valid_by_size: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Return the student's scores_BK for crops of each size, which pass the backbone together.

        Args:
            pixels_by_size: normalised pixels_BCSS for each size.
            places_by_size: places_BN2 of their patches; see trainer.model.encoder.
            valid_by_size: valid_BN, patches that are attended to.
        """
        crops = zip(pixels_by_size, places_by_size, valid_by_size, strict=True)
        return tuple(self.student_head(self.student(*crop)[:, 0]) for crop in crops)

    @torch.no_grad()
    def taught(self, pixels_BCSS: Tensor, places_BN2: Tensor, valid_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's scores_BK and class tokens_BD."""
        tokens_BD = self.teacher(pixels_BCSS, places_BN2, valid_BN)[:, 0]
        return self.teacher_head(tokens_BD), tokens_BD

    def summaries(self, pixels_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
        """Return summaries_BF of tiles by the teacher; see Encoder."""
        return self.teacher.summaries(pixels_BCHW, valid_BHW)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's: momentum x teacher + (1 - momentum) x student."""
        for teacher, student in ((self.teacher, self.student), (self.teacher_head, self.student_head)):
            # Each rank moves its own rows; both are cut in the same way.
            follows, leads = (
                [rows_of(weight).tensor for weight in module.parameters()] for module in (teacher, student)
            )
            torch._foreach_lerp_(follows, leads, 1 - momentum)
