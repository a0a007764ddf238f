"""What tests of several modules ask of chips and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from shards.format.schema import Chip
from shards.read.dataset import Dataset


def assert_chips_are_themselves(dataset: Dataset, written: Any, batch: Any) -> None:
    """Every chip of `batch` has the pixels that were written under its key."""
    keys = dataset.index["key"].to_pylist()
    for number, image_CHW, height_HW in zip(batch.chips, batch.image_BCHW, batch.height_BHW, strict=True):
        chip = written.chips[keys[number]]
        np.testing.assert_array_equal(image_CHW, chip.image_CHW)
        np.testing.assert_array_equal(height_HW, chip.height_HW)


def in_another_layout(chips: Sequence[Chip]) -> list[Chip]:
    """The same chips, columns first and big-endian in memory."""
    return [
        replace(
            chip,
            image_CHW=np.asfortranarray(chip.image_CHW.astype(chip.image_CHW.dtype.newbyteorder(">"))),
            height_HW=np.asfortranarray(chip.height_HW.astype(">f4")),
        )
        for chip in chips
    ]
