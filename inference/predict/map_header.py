"""A checkpoint's description, for the maps that are made with it: of heights, of classes or of tiles."""

from dataclasses import dataclass
from typing import Any

from inference.maps.map_file import LARGEST_CLASS
from inference.predict.map_content import MapContent
from shards.errors import InputError
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.model.checkpoint import CLASSES, TILES, format_of
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import read_checkpoint_header
from trainer.model.tile_checkpoint import load_tile_checkpoint


@dataclass(frozen=True)
class MapHeader:
    """A checkpoint's description of its model and of what the maps show."""

    schema: Schema
    """Schema of the chips that it was trained on."""
    patch_size: int
    """Pixels along each side of a patch of its backbone."""
    has_spread: bool
    """Whether the model itself estimates how uncertain a height is."""
    trained_on: dict[str, Any]
    """Dataset's URL and fingerprint, and the code's version."""
    metrics: dict[str, Any]
    """Scores after the checkpoint's epoch."""
    fingerprint: str
    content: MapContent
    statistics: Statistics
    """Statistics of the chips that normalise the images."""


def read_map_header(url: str, trust: str = "") -> MapHeader:
    """Read the description of the checkpoint at `url` without holding its weights in memory.

    For `trust` see trainer.model.trust.

    Raises:
        InputError: there is no checkpoint, it is damaged, or its classes do not fit into a map.
    """
    kind = format_of(url)
    if kind == CLASSES:
        of_classes = load_class_checkpoint(url, with_weights=False, trust=trust)
        schema = of_classes.model.schema
        content = MapContent("pixel classes", schema.label, _in_bytes(url, schema.class_names))
        size, read = of_classes.model.patch_size, of_classes
        return MapHeader(
            schema,
            size,
            False,
            read.trained_on,
            read.metrics,
            read.fingerprint,
            content,
            of_classes.model.statistics,
        )
    if kind == TILES:
        of_tiles = load_tile_checkpoint(url, with_weights=False, trust=trust)
        encoder, head = of_tiles.model.encoder, of_tiles.model.head
        classes = _in_bytes(url, numbered(head.classes)) if head.classes else ()
        content = MapContent("tiles", head.label, classes, head.unit, encoder.schema.chip_size)
        return MapHeader(
            encoder.schema,
            encoder.patch_size,
            False,
            of_tiles.trained_on,
            of_tiles.metrics,
            of_tiles.fingerprint,
            content,
            encoder.statistics,
        )
    header = read_checkpoint_header(url, trust)
    return MapHeader(
        header.schema,
        header.patch_size,
        header.has_spread,
        header.trained_on,
        header.metrics,
        header.fingerprint,
        MapContent(),
        header.statistics,
    )


def numbered(names: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    """Give names of classes their numbers: themselves if all are whole numbers of a byte, else 1, 2, ..."""
    if all(name.isdecimal() and int(name) <= LARGEST_CLASS for name in names):
        return tuple((int(name), name) for name in names)
    return tuple(enumerate(names, 1))


def _in_bytes(url: str, classes: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    """Refuse classes that a map of bytes has no number for, beside one for missing pixels."""
    highest = max(number for number, _ in classes)
    if highest > LARGEST_CLASS or len(classes) > LARGEST_CLASS:
        raise InputError(
            f"{url}: has {len(classes)} classes up to number {highest}; a map holds numbers up to "
            f"{LARGEST_CLASS}, one of which means missing: train on fewer classes"
        )
    return classes
