"""Inputs of a step of self-distillation: crops by size and the teacher's targets, in pieces or whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.step_inputs import equal_parts
from trainer.devices.transfer import rows_where
from trainer.model.encoder import attended
from trainer.pretrain.ibot import Hidden, hidden_of

GLOBAL_VIEWS = 2


@dataclass(frozen=True)
class Crops:
    """Crops of one size; axis N runs over views, then tiles."""

    pixels_NCSS: Tensor
    """Normalised pixels."""
    places_NP2: Tensor
    """Coordinates of their patches."""
    valid_NP: Tensor
    """Patches that are attended to."""
    is_valid_NP: NDArray[np.bool_]
    """The same on the host."""
    first: int
    """Number of the first of their views among all views."""
    views: int
    """Number of views."""
    factors_NL: Tensor | None = None
    """Factors of the student's blocks (see trainer.model.encoder); None: all are 1."""
    hidden: Hidden | None = None
    """Patches that the student does not see; None: there is no loss of them."""

    @property
    def attended_NP(self) -> Tensor | None:
        """Patches to attend to; see trainer.model.encoder.attended."""
        return attended(self.valid_NP, bool(self.is_valid_NP.all()))

    @property
    def seen_WB(self) -> Tensor:
        """Views that have a valid patch."""
        seen_WB: Tensor = self.valid_NP.any(1).unflatten(0, (self.views, -1))
        return seen_WB

    @property
    def is_seen_WB(self) -> NDArray[np.bool_]:
        """The same on the host."""
        is_seen_WB: NDArray[np.bool_] = self.is_valid_NP.any(1).reshape(self.views, -1)
        return is_seen_WB

    def some(self, tiles: slice) -> Iterator[Self]:
        """Yield the crops of these tiles, a pair of views at a time."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        for view in range(0, self.views, GLOBAL_VIEWS):
            count = min(GLOBAL_VIEWS, self.views - view)
            views = slice(view, view + count)
            rows = {
                name: value.unflatten(0, (self.views, -1))[views, tiles].flatten(0, 1)
                for name, value in tensors.items()
            }
            hidden = None
            if self.hidden is not None:
                is_hidden_NP = self._rows(self.hidden.is_hidden_NP, views, tiles)
                hidden = Hidden.of(is_hidden_NP, self.valid_NP.device)
            is_valid_NP = self._rows(self.is_valid_NP, views, tiles)
            first = self.first + view
            yield replace(self, **rows, is_valid_NP=is_valid_NP, hidden=hidden, first=first, views=count)

    def _rows(self, mask_NP: NDArray[np.bool_], views: slice, tiles: slice) -> NDArray[np.bool_]:
        """Take the rows of some views of some tiles."""
        patches = mask_NP.shape[1]
        rows_NP: NDArray[np.bool_] = mask_NP.reshape(self.views, -1, patches)[views, tiles]
        return rows_NP.reshape(-1, patches)


@dataclass(frozen=True)
class DinoInputs:
    """Inputs of one step, on one rank, or a piece of them; axis B runs over tiles."""

    targets_VBK: Tensor
    """The teacher's targets."""
    sizes: Sequence[Crops]
    """The student's crops, by size."""
    health: Tensor
    """Sums over the whole part of the batch, or zeros in all pieces but the first; see HealthSums."""
    patch_targets_MK: Tensor | None = None
    """The teacher's targets for hidden patches, see trainer.pretrain.ibot; None: there is no loss of them."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs: each piece has two crops of one size, so memory does not grow with their number."""
        pieces: list[Self] = []
        for crops in self.sizes:
            for tiles in equal_parts(count, self.targets_VBK.shape[1]):
                for some in crops.some(tiles):
                    piece = type(self)(
                        self.targets_VBK[:, tiles],
                        [some],
                        torch.zeros_like(self.health) if pieces else self.health,
                        self._patch_targets(crops, tiles),
                    )
                    pieces.append(piece)
        return pieces

    def _patch_targets(self, crops: Crops, tiles: slice) -> Tensor | None:
        """Take the targets of these tiles' hidden patches; local crops have none."""
        if self.patch_targets_MK is None or crops.hidden is None:
            return None
        if crops.first:
            return self.patch_targets_MK[:0]
        is_hidden_NP = crops.hidden.is_hidden_NP
        is_hidden_VBP = is_hidden_NP.reshape(crops.views, -1, is_hidden_NP.shape[1])
        return rows_where(self.patch_targets_MK, hidden_of(is_hidden_VBP, tiles))
