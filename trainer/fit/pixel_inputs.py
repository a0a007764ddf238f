"""Inputs of a step that learns labels of pixels: images and labels are flipped and turned alike."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trainer.chip_options import AugmentOptions
from trainer.data.augment import band_changes, corners_of, symmetries_of
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey, equal_parts, part_of
from trainer.decoders.chip_dropout import chip_numbers
from trainer.decoders.features import Features
from trainer.devices.transfer import to_device
from trainer.fit.learning import Learning
from trainer.model.symmetries import apply_symmetries


@dataclass(frozen=True)
class PixelInputs:
    """Inputs of one step, on one rank; axis B runs over chips."""

    image_BCHW: Tensor
    """Images as stored."""
    label_BHW: Tensor
    """Heights in metres, or numbers of classes; NaN where there is none."""
    features: Features | None
    """Features of a frozen backbone, from a token store."""
    changes_BCK: Tensor | None
    """Augmentation of the bands; see Normalise."""
    numbers_B: Tensor
    """Numbers from which dropout draws; see trainer.decoders.chip_dropout."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs."""
        if count == 1:
            return [self]
        return [self._rows(rows) for rows in equal_parts(count, len(self.image_BCHW))]

    def _rows(self, rows: slice) -> Self:
        features = self.features
        if features is not None:
            parts = (tuple(one[rows] for one in kind) for kind in (features.patches, features.classes))
            features = Features(*parts)
        return type(self)(
            **{
                **vars(self),
                "image_BCHW": self.image_BCHW[rows],
                "label_BHW": self.label_BHW[rows],
                "features": features,
                "changes_BCK": None if self.changes_BCK is None else self.changes_BCK[rows],
                "numbers_B": self.numbers_B[rows],
            }
        )


def pixel_inputs(
    fed: Fed, key: StepKey, augment: AugmentOptions, bands: int, learning: Learning
) -> PixelInputs:
    """Augment a batch of chips for a model of `bands` bands; random numbers depend on `key` alone."""
    count = fed.batch.size
    image_BCHW, label_BHW, changes_BCK = fed.image_BCHW, fed.height_BHW, None
    if augment.flips:
        symmetries_B = part_of(symmetries_of(count, *key), fed.batch, learning.ranks)
        image_BCHW, label_BHW = apply_symmetries(symmetries_B, image_BCHW, label_BHW)
    if augment.crop:
        room = image_BCHW.shape[-1] - augment.crop
        corners = part_of(corners_of(count, room, *key), fed.batch, learning.ranks)
        corners_B2 = to_device(corners, learning.ranks.device)
        image_BCHW, label_BHW = cropped(augment.crop, corners_B2, image_BCHW, label_BHW)
    changes = band_changes((count, bands), key, augment)
    if changes is not None:
        changes_BCK = to_device(part_of(changes, fed.batch, learning.ranks), learning.ranks.device)
    numbers_B = to_device(
        part_of(chip_numbers(count, *key), fed.batch, learning.ranks), learning.ranks.device
    )
    return PixelInputs(image_BCHW, label_BHW, features_of(fed, learning), changes_BCK, numbers_B)


def cropped(side: int, corners_B2: Tensor, *images: Tensor) -> tuple[Tensor, ...]:
    """Cut a square of `side` pixels from each image, (B, ..., H, W), at its own first row and column."""
    place_S = torch.arange(side, device=corners_B2.device)
    rows_BS, columns_BS = (corners_B2[:, axis, None] + place_S for axis in (0, 1))
    chip_B11 = torch.arange(len(corners_B2), device=corners_B2.device)[:, None, None]
    # Channels last for the choice: indexed axes that are apart would come first.
    return tuple(
        image.movedim(1, -1)[chip_B11, rows_BS[:, :, None], columns_BS[:, None]].movedim(-1, 1)
        if image.ndim == 4
        else image[chip_B11, rows_BS[:, :, None], columns_BS[:, None]]
        for image in images
    )


def features_of(fed: Fed, learning: Learning) -> Features | None:
    """Return the features whose rows were read beside the batch; None without a token store."""
    if learning.tokens is None:
        return None
    assert fed.others_BT is not None, "the objective reads them beside each batch"
    return learning.tokens.unpack(fed.others_BT)
