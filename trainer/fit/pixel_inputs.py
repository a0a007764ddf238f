"""Inputs of a step that learns labels of pixels: images and labels are flipped and turned alike."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from trainer.chip_options import AugmentOptions
from trainer.data.augment import band_changes, corners_of, symmetries_of
from trainer.data.feed import Fed
from trainer.data.step_inputs import Places, StepKey, equal_parts, part_of
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
    stands_in: bool
    """Whether the only chip stands for none; it has no label."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs."""
        if count == 1:
            return [self]
        return [self._rows(rows) for rows in equal_parts(count, len(self.image_BCHW))]

    def pieces_over_ranks(self, places: Places, count: int) -> list[Self]:
        """Cut the global batch, and return this rank's chips of each piece, or a chip that stands in.

        Which chips share a piece does not depend on the number of ranks, and batch norm needs that. Where
        damaged shards were left out, places are those of the chips that are left.

        Args:
            places: places of this rank's chips in the global batch.
            count: number of pieces, at most that of the chips in the global batch.
        """
        own = 0 if self.stands_in else len(self.image_BCHW)
        if count == 1:
            return [self]
        parts = [places.within(part, own) for part in equal_parts(count, places.size)]
        return [self._rows(rows) if rows.stop > rows.start else self._stand_in() for rows in parts]

    def _stand_in(self) -> Self:
        first = self._rows(slice(0, 1))
        return replace(first, label_BHW=torch.full_like(first.label_BHW, torch.nan), stands_in=True)

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
    features, stands_in = features_of(fed, learning), fed.batch.stands_in
    return PixelInputs(image_BCHW, label_BHW, features, changes_BCK, numbers_B, stands_in)


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
