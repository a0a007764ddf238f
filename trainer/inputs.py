"""What one step of training takes: a batch, augmented, with its tokens where a store knows them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from shards.order import Chips
from shards.reader import Batch
from shards.schema import Schema
from shards.tar import arrays_of, row_layout
from trainer.decoder import Features


@dataclass(frozen=True)
class Inputs:
    """Of one rank; axis B is the chips."""

    image_BCHW: Tensor
    """As stored."""
    height_BHW: Tensor
    """Metres; NaN where there is none."""
    features: Features | None = None
    """A frozen backbone's, from a token store."""
    changes_BCK: Tensor | None = None
    """What augmentation does to the bands; see Normalise."""
    numbers_B: Tensor | None = None
    """From which dropout draws; see trainer.dropout."""

    def pieces(self, count: int) -> list["Inputs"]:
        """The same in up to `count` pieces of equal size, or nearly so."""
        if count == 1:
            return [self]
        bounds = np.linspace(0, len(self.image_BCHW), min(count, len(self.image_BCHW)) + 1).astype(int)
        return [self._rows(slice(*ends)) for ends in itertools.pairwise(bounds)]

    def _rows(self, rows: slice) -> "Inputs":
        features = self.features
        if features is not None:
            parts = (tuple(of[rows] for of in kind) for kind in (features.patches, features.classes))
            features = Features(*parts)
        return Inputs(
            self.image_BCHW[rows],
            self.height_BHW[rows],
            features,
            *(None if of is None else of[rows] for of in (self.changes_BCK, self.numbers_B)),
        )


def never_empty(batches: Iterator[Batch], schema: Schema, chips: Chips) -> Iterator[Batch]:
    """The batches, an empty one as a chip that was met before (or the first of `chips`), without heights.

    A rank whose part is empty (of the last, short batch, or for a shard that was left out) takes part in
    every collective operation, and adds nothing to loss and gradients.
    """
    rows_1S, chip_1 = np.zeros((1, row_layout(schema).span), np.uint8), chips[:1]
    for batch in batches:
        if batch.chips.size:
            rows_1S, chip_1 = batch.rows_BS[:1], batch.chips[:1]
            yield batch
        else:
            stand_in_1S = rows_1S.copy()
            image_BCHW, height_BHW = arrays_of(stand_in_1S, schema)
            height_BHW[:] = np.nan
            yield replace(
                batch, chips=chip_1, rows_BS=stand_in_1S, image_BCHW=image_BCHW, height_BHW=height_BHW
            )
