"""A checkpoint's description, for the maps that are made with it: of heights, of classes or of tiles."""

from dataclasses import dataclass

from inference.maps.map_file import LARGEST_CLASS
from inference.predict.map_content import MapContent
from shards.errors import InputError
from trainer.model.checkpoint import CLASSES, TILES, ModelHeader, format_of
from trainer.model.class_checkpoint import ClassCheckpoint, load_class_checkpoint
from trainer.model.encoder import Encoder
from trainer.model.height_checkpoint import Checkpoint, load_checkpoint
from trainer.model.pixel_model import PixelModel
from trainer.model.tile_checkpoint import TileCheckpoint, load_tile_checkpoint


@dataclass(frozen=True, kw_only=True)
class MapHeader(ModelHeader):
    """A checkpoint's description of its model and of what the maps show."""

    content: MapContent


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
        return _header(of_classes, of_classes.model, content)
    if kind == TILES:
        of_tiles = load_tile_checkpoint(url, with_weights=False, trust=trust)
        encoder, head = of_tiles.model.encoder, of_tiles.model.head
        classes = _in_bytes(url, numbered(head.classes)) if head.classes else ()
        content = MapContent("tiles", head.label, classes, head.unit, encoder.schema.chip_size)
        return _header(of_tiles, encoder, content)
    of_heights = load_checkpoint(url, with_weights=False, trust=trust)
    regressor = of_heights.regressor
    return _header(of_heights, regressor, MapContent(), regressor.decoder.has_spread)


def _header(
    read: Checkpoint | ClassCheckpoint | TileCheckpoint,
    model: PixelModel | Encoder,
    content: MapContent,
    has_spread: bool = False,
) -> MapHeader:
    return MapHeader(
        schema=model.schema,
        patch_size=model.patch_size,
        has_spread=has_spread,
        trained_on=read.trained_on,
        metrics=read.metrics,
        fingerprint=read.fingerprint,
        statistics=model.statistics,
        content=content,
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
