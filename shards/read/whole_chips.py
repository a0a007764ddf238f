"""Chips of a dataset with all their facts, as they were written."""

from collections.abc import Iterator

from shards.format.schema import ORIGIN, Chip
from shards.read.dataset import Dataset
from shards.read.order import Chips


def whole_chips(dataset: Dataset, numbers: Chips) -> Iterator[Chip]:
    """Yield the chips with these numbers, in this order.

    Raises:
        DatasetError: a shard's bytes are not those that were written.
    """
    batch = dataset.gather(numbers)
    names = list(dataset.manifest.attributes)
    rows = dataset.index.select([*ORIGIN, *names]).take(numbers).to_pylist()
    for place, row in enumerate(rows):
        # A null is an attribute that the chip was added without.
        attributes = {name: value for name in names if (value := row.pop(name)) is not None}
        yield Chip(
            image_CHW=batch.image_BCHW[place],
            height_HW=batch.height_BHW[place],
            attributes=attributes,
            **row,
        )
