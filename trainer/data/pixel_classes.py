"""Labels that are a class at each pixel: from the numbers that chips store to the classes' places.

classes = PixelClasses.of(dataset)
place_BHW = classes.places(label_BHW, chips)     0 is the class with the lowest number; -1: no label
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from shards.errors import InputError
from shards.format.schema import Schema
from shards.read.dataset import Dataset
from shards.read.order import Chips
from trainer.devices.exact_sums import counted

NO_CLASS = -1
"""Place of a pixel without a label."""


@dataclass(frozen=True)
class PixelClasses:
    """Classes that a model knows, and the dataset whose chips are labelled with them."""

    schema: Schema
    """Schema with the classes, ascending by number."""
    dataset: Dataset
    """Dataset of the chips."""

    @classmethod
    def of(cls, dataset: Dataset) -> "PixelClasses":
        """Take the dataset's own classes."""
        return cls(dataset.schema, dataset)

    @cached_property
    def _numbers_K(self) -> Tensor:
        return torch.tensor([number for number, _ in self.schema.class_names], dtype=torch.float32)

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.schema.class_names)

    def places(self, label_BHW: Tensor, chips: Chips) -> Tensor:
        """Return place_BHW of the pixels' classes, int64, NO_CLASS where there is no label.

        Args:
            label_BHW: labels as stored, NaN where there is none.
            chips: numbers of these chips in the dataset.

        Raises:
            InputError: a label is none of the classes; says which chip's.
        """
        numbers_K = self._numbers_K.to(label_BHW.device)
        known_BHW = label_BHW.isfinite()
        filled_BHW = torch.where(known_BHW, label_BHW, numbers_K[0])
        place_BHW = torch.searchsorted(numbers_K, filled_BHW.contiguous()).clamp(max=self.count - 1)
        is_wrong_BHW = numbers_K[place_BHW] != filled_BHW
        if is_wrong_BHW.any():
            row, *_ = is_wrong_BHW.nonzero()[0].tolist()
            key = self.dataset.index["key"][int(chips[row])].as_py()
            names = ", ".join(f"{number} {name}" for number, name in self.schema.class_names)
            raise InputError(
                f"{self.dataset.url}: {self.schema.label} of chip {key} is "
                f"{float(label_BHW[is_wrong_BHW][0]):g} at a pixel, none of the classes {names}; ingest it "
                "again with other --class-names"
            )
        return place_BHW.masked_fill(~known_BHW, NO_CLASS)


def confusion(predicted_BHW: Tensor, place_BHW: Tensor, classes: int) -> Tensor:
    """Count pixels by true and predicted class: confusion_TP, int64; those without a label are left out."""
    places_BHW = (place_BHW * classes + predicted_BHW).masked_fill(place_BHW == NO_CLASS, classes**2)
    return counted(places_BHW, classes**2 + 1)[:-1].view(classes, classes)
