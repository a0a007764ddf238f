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
from trainer.model.frozen_backbone import matrices_of
from trainer.pretrain.ibot import Hidden


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
        # In float32, since float16 has no length as small as the one that `normalize` tells apart from 0.
        scores_BK: Tensor = linear(normalize(narrow_BD.float()), normalize(self.prototypes_KD))
        return scores_BK


class Dino(Learner):
    """Student and teacher."""

    followers = ("teacher.", "teacher_head.", "teacher_patch_head.")

    def __init__(self, student: Encoder, head: Head, patch_head: Head | None = None) -> None:
        """Args:
        student: normalisation and backbone; the teacher starts as a copy.
        head: the student's head.
        patch_head: its head for patch tokens, if it learns from hidden patches; the mask token then learns.
        """
        super().__init__()
        student.backbone.embeddings.mask_token.requires_grad_(patch_head is not None)
        self.student, self.student_head, self.student_patch_head = student, head, patch_head
        self.teacher = deepcopy(student).requires_grad_(False)
        self.teacher_head = deepcopy(head).requires_grad_(False)
        self.teacher_patch_head: Head | None = None
        self.register_buffer("centre_K", torch.zeros(len(head.prototypes_KD)))
        if patch_head is not None:
            self.teacher_patch_head = deepcopy(patch_head).requires_grad_(False)
            self.register_buffer("patch_centre_K", torch.zeros(len(patch_head.prototypes_KD)))

    centre_K: Tensor
    """Running mean of the teacher's scores."""
    patch_centre_K: Tensor
    """The same of its scores for patches, where it has a head for them."""

    def blocks(self) -> Blocks:
        """See Learner."""
        layers = [*self.student.backbone.model.layer, *self.teacher.backbone.model.layer]
        return Blocks(layers, self.student_head, ("taught", "summaries"), matrices_of(layers))

    def compiled(self) -> Sequence[nn.Module]:
        """See Learner."""
        return [*self.student.backbone.model.layer, *self.teacher.backbone.model.layer]

    def train(self, mode: bool = True) -> "Dino":
        """Set train or eval mode, but keep the teacher in eval mode."""
        super().train(mode)
        self.teacher.eval()
        self.teacher_head.eval()
        if self.teacher_patch_head is not None:
            self.teacher_patch_head.eval()
        return self

    def forward(
        self,
        pixels_NCSS: Tensor,
        places_NP2: Tensor,
        attended_NP: Tensor | None,
        factors_NL: Tensor | None = None,
        hidden: Hidden | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the student's scores_NK, class tokens_ND and hidden patches' scores_MK for crops of a size.

        Each parameter that learns takes part, whatever is hidden, since ranks wait for all gradients.

        Args:
            pixels_NCSS: normalised pixels.
            places_NP2: coordinates of their patches; see trainer.model.encoder.
            attended_NP: patches that are attended to; None: all.
            factors_NL: factors of the blocks; see trainer.model.encoder.
            hidden: patches that are hidden, with a head for patches.
        """
        mask_NP = None if hidden is None else hidden.mask_NP
        tokens_NTD = self.student(pixels_NCSS, places_NP2, attended_NP, factors_NL, mask_NP)
        patch_scores_MK = None
        if self.student_patch_head is not None:
            assert hidden is not None, "with a head for patches, some are hidden"
            patch_scores_MK = self.student_patch_head(hidden.tokens(tokens_NTD))
        return self.student_head(tokens_NTD[:, 0]), tokens_NTD[:, 0], patch_scores_MK

    @torch.no_grad()
    def taught(
        self,
        pixels_NCSS: Tensor,
        places_NP2: Tensor,
        attended_NP: Tensor | None,
        hidden: Hidden | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the teacher's scores_NK, class tokens_ND, and scores_MK and tokens_MD of hidden patches.

        They are hidden from the student alone.
        """
        tokens_NTD = self.teacher(pixels_NCSS, places_NP2, attended_NP)
        patches_MD = patch_scores_MK = None
        if self.teacher_patch_head is not None:
            assert hidden is not None, "with a head for patches, some are hidden"
            patches_MD = hidden.tokens(tokens_NTD)
            patch_scores_MK = self.teacher_patch_head(patches_MD)
        return self.teacher_head(tokens_NTD[:, 0]), tokens_NTD[:, 0], patch_scores_MK, patches_MD

    def summaries(self, pixels_BCHW: Tensor, valid_BHW: Tensor, is_whole: bool | None = None) -> Tensor:
        """Return summaries_BF of tiles by the teacher; see Encoder."""
        return self.teacher.summaries(pixels_BCHW, valid_BHW, is_whole)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's: momentum x teacher + (1 - momentum) x student."""
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.teacher, self.student),
            (self.teacher_head, self.student_head),
        ]
        if self.teacher_patch_head is not None and self.student_patch_head is not None:
            pairs.append((self.teacher_patch_head, self.student_patch_head))
        for teacher, student in pairs:
            # Each rank moves its own rows; both are cut in the same way.
            follows, leads = (
                [rows_of(weight).tensor for weight in module.parameters()] for module in (teacher, student)
            )
            torch._foreach_lerp_(follows, leads, 1 - momentum)
