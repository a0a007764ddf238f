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
from trainer.devices.sharding import Blocks
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
        return Blocks(self.student.backbone.model.layer, self.student_head)

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
        pixels_NCSS: Tensor,
        places_NP2: Tensor,
        valid_NP: Tensor,
        factors_NL: Tensor | None = None,
    ) -> Tensor:
        """Return the student's scores_NK for crops of one size.

        Args:
            pixels_NCSS: normalised pixels.
            places_NP2: coordinates of their patches; see trainer.model.encoder.
            valid_NP: patches that are attended to.
            factors_NL: factors of the blocks; see trainer.model.encoder.
        """
        scores_NK: Tensor = self.student_head(
            self.student(pixels_NCSS, places_NP2, valid_NP, factors_NL)[:, 0]
        )
        return scores_NK

    @torch.no_grad()
    def taught(self, pixels_NCSS: Tensor, places_NP2: Tensor, valid_NP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's scores_NK and class tokens_ND."""
        tokens_ND = self.teacher(pixels_NCSS, places_NP2, valid_NP)[:, 0]
        return self.teacher_head(tokens_ND), tokens_ND

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's: momentum x teacher + (1 - momentum) x student."""
        for teacher, student in ((self.teacher, self.student), (self.teacher_head, self.student_head)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
