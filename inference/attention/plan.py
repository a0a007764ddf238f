"""What is to be looked at, and with what: the options of `treeline attention`, and what they name."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inference.attention.beside import Layer, RasterLayer, label_layer, raster_layers
from inference.attention.sampling import MOST_PIXELS
from inference.attention.tiles import Tile, chip_tiles, raster_findings, raster_tiles
from inference.attention.windows import Cut, Looking, cuts_of, some_of
from inference.config import AttentionConfig
from shards.errors import InputError
from shards.format.band_values import difference
from shards.raster.finding import Finding, say_findings
from shards.read.dataset import Dataset, open_dataset
from trainer.devices.cards import chosen_here, computes
from trainer.devices.choice import Precision
from trainer.model.backbone import build_backbone
from trainer.model.encoder import Encoder
from trainer.model.frozen_backbone import placed_on
from trainer.model.load_encoder import LoadedEncoder, load_encoder


@dataclass(frozen=True, eq=False)
class Work:
    """Tiles to look at, the encoder that looks at them, and the layers beside."""

    config: AttentionConfig
    loaded: LoadedEncoder
    looking: Looking
    cuts: list[Cut]
    layer: int
    """Layer that is drawn."""
    beside: list[Layer]
    above: dict[str, float | None]
    """Layers of which large numbers are to be found, with the least of them; None: above the median."""
    computed_in: Precision
    """Precision in which the device computes."""
    findings: dict[str, tuple[Finding, ...]]
    """Findings about rasters that do not fit the training, by URL; a raster without any is left out."""

    @property
    def encoder(self) -> Encoder:
        """Normalisation and backbone."""
        return self.loaded.encoder

    @property
    def depth(self) -> int:
        """Number of the backbone's layers."""
        return len(self.encoder.backbone.model.layer)

    @property
    def heads(self) -> int:
        """Number of heads in each layer."""
        return int(self.encoder.backbone.config.num_attention_heads)

    @property
    def measured(self) -> list[Layer]:
        """Layers beside in which something is to be found."""
        return [one for one in self.beside if one.name in {*self.config.classes, *self.above}]

    @property
    def measured_layers(self) -> tuple[int, ...]:
        """Layers of the backbone whose heads are measured."""
        return tuple(range(1, self.depth + 1)) if self.config.layers == "all" else (self.layer,)

    @property
    def measured_cuts(self) -> list[Cut]:
        """Windows that are measured."""
        return some_of(self.cuts, max(1, MOST_PIXELS // self.looking.size**2)) if self.measured else []


def check_options(config: AttentionConfig) -> None:
    """Refuse options that can be told wrong by themselves.

    Raises:
        InputError: says which.
    """
    if not config.tiles and not config.data:
        raise InputError("no tile is named; give rasters, or a dataset with --data")
    for name, least in (("tile_size", 0), ("layer", 0), ("limit", 0), ("batch_size", 1), ("seed", 0)):
        if getattr(config, name) < least:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {getattr(config, name)}: give {least} or more")
    if config.layers == "all" and not (config.classes or config.above):
        raise InputError("--layers all: nothing is measured without --classes or --above; give one of them")


def prepared(config: AttentionConfig) -> Work:
    """Load the checkpoint and find tiles and layers beside.

    Raises:
        InputError: an option, the checkpoint, a tile or a raster cannot be used.
    """
    device = chosen_here(config.device, config.precision)
    weights = "" if config.weights == "random" else config.weights
    loaded = load_encoder(config.checkpoint, weights, trust=config.trust)
    if config.weights == "random":
        encoder = untrained(loaded.encoder, config.seed)
        loaded = LoadedEncoder(encoder, "random", loaded.fingerprint, loaded.trained_on)
    encoder, depth = loaded.encoder, len(loaded.encoder.backbone.model.layer)
    if config.layer > depth:
        raise InputError(f"--layer {config.layer}: {config.checkpoint} has {depth} layers")
    size = config.tile_size or encoder.schema.chip_size
    if size % encoder.patch_size:
        raise InputError(
            f"--tile-size {size}: must be a multiple of the backbone's patches of {encoder.patch_size} pixels"
        )
    dataset = _dataset(config, encoder) if config.data else None
    tiles = (
        _chips(config, dataset)
        if dataset
        else raster_tiles(config.tiles, encoder.schema, config.bands, config.nodata)
    )
    findings = raster_findings(tiles, encoder.statistics)
    say_findings(findings, config.on_mismatch)
    beside = _beside(config, tiles, dataset)
    placed_on(encoder, config.precision, torch.device(device))
    looking = Looking(tiles, size, config.batch_size, config.precision)
    above = _above(config.above)
    _check_measured(beside, config.classes, above)
    asked = computes(config.precision, device)
    asked.say()
    cuts, layer = cuts_of(tiles, size), config.layer or depth
    return Work(config, loaded, looking, cuts, layer, beside, above, asked.precision, findings)


def _check_measured(beside: Sequence[Layer], classes: Sequence[str], above: Iterable[str]) -> None:
    """Refuse layers in which nothing can be found."""
    by_name = {one.name: one for one in beside}
    for option, name in (*(("--classes", one) for one in classes), *(("--above", one) for one in above)):
        if name not in by_name:
            there = ", ".join(by_name) or "none"
            raise InputError(
                f"{option} {name}: no layer beside has this name (there are: {there}); see --beside"
            )
        if by_name[name].is_rgb:
            raise InputError(f"{option} {name}: has several bands; give rasters of one band")


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """Make an encoder of the same shape on the CPU, with random weights and the same normalisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(encoder.backbone.config.to_diff_dict())
    return Encoder(encoder.schema, encoder.bands, encoder.statistics, backbone).eval()


def _dataset(config: AttentionConfig, encoder: Encoder) -> Dataset:
    dataset = open_dataset(config.data)
    if differs := difference(dataset.schema, encoder.schema):
        raise InputError(
            f"{config.data}: chips {differs}; they must be as in training, so choose another --data or "
            "--checkpoint"
        )
    return dataset


def _chips(config: AttentionConfig, dataset: Dataset) -> list[Tile]:
    limit = None if config.keys else config.limit or None
    chips = dataset.chips(config.split, limit, config.where)
    if config.keys:
        key_of = dict(zip(dataset.index["key"].take(chips).to_pylist(), chips.tolist(), strict=True))
        if missing := [key for key in config.keys if key not in key_of]:
            raise InputError(
                f"--keys {missing[0]}: {config.data} has no such tile among those that are chosen"
            )
        chips = np.array([key_of[key] for key in dict.fromkeys(config.keys)])
    if not chips.size:
        where = f" where {config.where}" if config.where else ""
        raise InputError(
            f"{config.data}: no tile is in the split {config.split!r}{where}; choose another --split"
            f"{' or --where' if where else ''}"
        )
    return chip_tiles(dataset, chips)


def _beside(config: AttentionConfig, tiles: Sequence[Tile], dataset: Dataset | None) -> list[Layer]:
    """Find the layers beside, and refuse tiles that they do not reach."""
    names = _class_names(config.class_names)
    rasters = raster_layers(config.beside, config.classes, names)
    layers: list[Layer] = [*rasters]
    if dataset and dataset.schema.label:
        if any(one.name == dataset.schema.label for one in rasters):
            raise InputError(
                f"--beside {dataset.schema.label}: is the name of the tiles' own label; choose another name"
            )
        layers.append(label_layer(dataset.schema, config.classes, names))
    for layer in layers:
        if isinstance(layer, RasterLayer):
            for tile in tiles:
                layer.check_covers(tile)
    return layers


def _class_names(given: Sequence[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    for text in given:
        number, equals, name = text.partition("=")
        if not (number.strip().isdecimal() and equals and name.strip()):
            raise InputError(f"--class-names {text}: write NUMBER=NAME, e.g. 1=trees")
        if int(number) in names:
            raise InputError(f"--class-names {text}: class {int(number)} has a name already; give it one")
        names[int(number)] = name.strip()
    return names


def _above(given: Sequence[str]) -> dict[str, float | None]:
    least: dict[str, float | None] = {}
    for text in given:
        name, equals, number = text.partition("=")
        try:
            least[name] = float(number) if equals else None
        except ValueError:
            least[name] = math.nan
        if not math.isfinite(least[name] or 0):
            raise InputError(f"--above {text}: write NAME or NAME=NUMBER, for example ndvi=0.4")
    return least
