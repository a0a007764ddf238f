"""Treeline in Python: datasets, models and scores, by the code of the commands.

dataset = treeline.open("chips")
model = treeline.load("run")
heights = model.predict("scene.tif")
print(treeline.evaluate(checkpoint="run", data="chips").table())

Options have the names and the defaults of the commands', with _ instead of - (`treeline COMMAND --help-all`).
Importing this module loads neither numpy nor torch (docs/python.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from shards.errors import DatasetError, InputError

if TYPE_CHECKING:
    from typing import Literal

    import pyarrow as pa
    from numpy.typing import NDArray

    from inference.config import Weighting
    from inference.embed.in_memory import VectorMaker, Vectors
    from inference.predict.in_memory import Map, MapMaker
    from shards.format.schema import Chip, Schema
    from shards.format.statistics import Statistics
    from shards.raster.finding import OnMismatch
    from shards.raster.height_unit import HeightUnit
    from shards.read.dataset import Batch
    from shards.read.dataset import Dataset as StoredDataset
    from shards.read.order import Chips, Part
    from trainer.data.torch_chips import TorchChips
    from trainer.devices.choice import Kind, Precision, Wanted
    from trainer.evaluate.run import AnyEvaluation
    from trainer.model.load_any import AnyModel

    Split = Literal["train", "val", "test", "buffer", "all"]

__all__ = ["Dataset", "DatasetError", "InputError", "Map", "Model", "Vectors", "evaluate", "load", "open"]
_HOMES = {"Map": "inference.predict.in_memory", "Vectors": "inference.embed.in_memory"}
"""Modules of the types that other modules define."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'treeline' has no attribute {name!r}")


class Selection(TypedDict, total=False):
    """Which chips are read, and in which order."""

    split: Split
    """Split whose chips are read; default: train."""
    where: str
    """Chips to read, as an expression over the index: "height_max > 2"; default: all of the split."""
    limit: int | None
    """Number of chips to read; a larger limit has all chips of a smaller one. Default: all."""
    seed: int | None
    """Seed of the order; default: chips come as they are stored."""
    epoch: int
    """Number of a pass over the chips, from 0: each has an order of its own."""
    part: Part
    """Part of every batch that this process reads: `shards.Part(rank, world_size)`; default: all."""


class Dataset:
    """A dataset, open for reading: chips by number or key, and batches. `treeline.open` opens one.

    A chip's number is its row in the index. Iterating yields all chips, one by one; batches are far faster.
    """

    def __init__(self, stored: StoredDataset) -> None:
        self._stored = stored

    @property
    def url(self) -> str:
        """Place of the dataset."""
        return self._stored.url

    @property
    def schema(self) -> Schema:
        """Bands, types, sizes and label of the chips."""
        return self._stored.schema

    @property
    def index(self) -> pa.Table:
        """Index: a row for each chip, with its key, split, place, heights and attributes."""
        return self._stored.index

    @property
    def statistics(self) -> Statistics:
        """Statistics of the training split."""
        return self._stored.statistics

    def __len__(self) -> int:
        """Return the number of chips, of all splits."""
        return int(self._stored.manifest.first_chip[-1])

    def __getitem__(self, number: int) -> Chip:
        """Read the chip with this number; negative numbers count from the end.

        Raises:
            IndexError: there is no such chip.
        """
        import numpy as np

        from shards.read.whole_chips import whole_chips

        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"{self.url}: there is no chip {number}; it has {count:,}")
        return next(whole_chips(self._stored, np.array([number % count])))

    def __iter__(self) -> Iterator[Chip]:
        """Read all chips, one by one."""
        return (self[number] for number in range(len(self)))

    def chip(self, key: str) -> Chip:
        """Read the chip with this key.

        Raises:
            InputError: there is no such chip.
        """
        import pyarrow.compute as pc

        number = pc.index(self.index["key"], key).as_py()
        if number < 0:
            raise InputError(f"{self.url}: no chip has the key {key!r}; dataset.index lists all")
        return self[number]

    def chips(self, split: Split = "all", where: str = "", limit: int | None = None) -> Chips:
        """Return the numbers of the chips of a split that match `where`, ascending.

        Raises:
            InputError: there is no such split, or `where` cannot be understood.
        """
        return self._stored.chips(split, limit, where)

    def batches(self, batch_size: int, **selection: Unpack[Selection]) -> Iterator[Batch]:
        """Read batches of stored pixels: `batch.image_BCHW`, `batch.height_BHW`, and numbers `batch.chips`.

        The last batch may have fewer chips than the others.

        Raises:
            InputError: the selection cannot be understood, or selects no chip.
        """
        order, part = self._order(selection)
        return self._stored.batches(order, batch_size, part)

    def torch(self, batch_size: int, **selection: Unpack[Selection]) -> TorchChips:
        """Return batches of tensors, an iterable dataset of PyTorch for a DataLoader with batch_size=None.

        Arguments and errors are those of `batches`.
        """
        from trainer.data.torch_chips import TorchChips

        order, part = self._order(selection)
        return TorchChips(self._stored, order, batch_size, part)

    def _order(self, selection: Selection) -> tuple[Chips, Part]:
        """Return the chips that are selected, in the order of the epoch, and this process's part."""
        from shards.read.order import Part

        _check(selection, Selection)
        split = selection.get("split", "train")
        chips = self.chips(split, selection.get("where", ""), selection.get("limit"))
        if not chips.size:
            raise InputError(f"{self.url}: no chip of the split {split!r} is selected; choose others")
        seed = selection.get("seed")
        if seed is not None:
            chips = self._stored.epoch(chips, seed, selection.get("epoch", 0))
        return chips, selection.get("part", Part())


def open(url: str | os.PathLike[str]) -> Dataset:
    """Open the dataset at a path or s3://...

    Raises:
        InputError: there is no dataset.
        DatasetError: its manifest is damaged.
    """
    from shards.read.dataset import open_dataset

    return Dataset(open_dataset(os.fspath(url)))


class LoadOptions(TypedDict, total=False):
    """How a model is loaded: as `treeline predict` does, and `treeline embed` (weights)."""

    device: Wanted
    precision: Precision
    weights: Literal["teacher", "student"] | None
    trust: str


class SceneOptions(TypedDict, total=False):
    """How a scene is read."""

    bands: tuple[str, ...]
    nodata: float | None
    asset: str


class MapOptions(TypedDict, total=False):
    """What a map depends on: options of `treeline predict`."""

    on_mismatch: OnMismatch
    window: int
    overlap: float
    weights: Weighting
    symmetries: Literal[1, 8]
    spread: bool
    batch_size: int
    block: int


class SceneMapOptions(MapOptions, SceneOptions, total=False):
    """What the map of a scene depends on."""

    mask: tuple[str, ...]
    mask_drop: tuple[int, ...]
    bounds: tuple[float, ...]
    area: str


class VectorOptions(TypedDict, total=False):
    """What the vectors of tiles depend on: options of `treeline embed`."""

    on_mismatch: OnMismatch
    tokens: Literal["class", "mean", "patches"]
    tile_size: int
    batch_size: int


class SceneVectorOptions(VectorOptions, SceneOptions, total=False):
    """What the vectors of a scene's tiles depend on."""


class Model:
    """A model in memory, of any task, or a pre-trained backbone. `treeline.load` loads one.

    Its checkpoint must stay where it is while it is used.
    """

    def __init__(self, url: str, model: AnyModel, device: Kind, options: LoadOptions) -> None:
        """Take a model that is on the device; see `load`."""
        from inference.config import PredictConfig
        from trainer.model.tile_model import TileModel

        self._model, self._weights = model, options.get("weights")
        self.url = url
        """Folder of the checkpoint itself."""
        self.device = device
        """Device that it computes on."""
        self.precision: Precision = options.get("precision", PredictConfig.precision)
        """Numbers that it computes with."""
        self._fixed = {"precision": self.precision, "trust": options.get("trust", "")}
        self.schema: Schema = model.encoder.schema if isinstance(model, TileModel) else model.schema
        """Format of the images that it takes."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of an image, in the order in which an array has them."""
        return self.schema.bands

    @overload
    def predict(self, image: NDArray[Any], **options: Unpack[MapOptions]) -> Map: ...
    @overload
    def predict(self, image: str | os.PathLike[str], **options: Unpack[SceneMapOptions]) -> Map: ...
    def predict(self, image: NDArray[Any] | str | os.PathLike[str], **options: Any) -> Map:
        """Predict the map of a scene or an array, with the numbers that `treeline predict` writes.

        Args:
            image: a scene, as a path or s3://...; or image_CHW, stored pixels in the order of `bands`. In an
                array NaN, the nodata value of training and what a numpy mask hides are missing.
            options: see `SceneMapOptions`, for an array `MapOptions`.

        Raises:
            InputError: the image or an option cannot be used (on_mismatch), or the model predicts nothing.
        """
        if isinstance(image, (str, os.PathLike)):
            return self._map_maker.of_scene(os.fspath(image), _check(options, SceneMapOptions))
        return self._map_maker.of_array(image, _check(options, MapOptions))

    @overload
    def embed(self, image: NDArray[Any], **options: Unpack[VectorOptions]) -> Vectors: ...
    @overload
    def embed(self, image: str | os.PathLike[str], **options: Unpack[SceneVectorOptions]) -> Vectors: ...
    def embed(self, image: NDArray[Any] | str | os.PathLike[str], **options: Any) -> Vectors:
        """Describe tiles by vectors of the encoder, with the numbers that `treeline embed` writes.

        Args:
            image: a scene or image_CHW, as for `predict`, whose tiles lie side by side; or tiles image_BCHW.
            options: see `SceneVectorOptions`, for an array `VectorOptions`.

        Raises:
            InputError: the image or an option cannot be used, or the image is unlike the training.
        """
        if isinstance(image, (str, os.PathLike)):
            return self._vector_maker.of_scene(os.fspath(image), _check(options, SceneVectorOptions))
        return self._vector_maker.of_array(image, _check(options, VectorOptions))

    @cached_property
    def _map_maker(self) -> MapMaker:
        from inference.predict.in_memory import MapMaker
        from trainer.model.encoder import Encoder

        if isinstance(self._model, Encoder):
            raise InputError(
                f"{self.url}: only its encoder is loaded, which predicts nothing; train a model on it "
                "(treeline train --backbone)"
            )
        return MapMaker(self.url, self._model, self.device, self._fixed)

    @cached_property
    def _vector_maker(self) -> VectorMaker:
        from inference.embed.in_memory import VectorMaker

        fixed = self._fixed | {"weights": self._weights}
        return VectorMaker(self.url, self._model, self.device, fixed)


def load(run: str | os.PathLike[str], **options: Unpack[LoadOptions]) -> Model:
    """Load the model of the checkpoint at `run`, or the best one of the training or pre-training there.

    Raises:
        InputError: there is no checkpoint, it is damaged, or an option cannot be used.
    """
    _check(options, LoadOptions)
    from inference.config import PredictConfig
    from trainer.devices.cards import chosen_here, computes, usable
    from trainer.model.checkpoint import checkpoint_url
    from trainer.model.frozen_backbone import placed_on
    from trainer.model.load_any import load_any

    url = checkpoint_url(os.fspath(run))
    precision = options.get("precision", PredictConfig.precision)
    device = chosen_here(options.get("device", PredictConfig.device), precision)
    model = load_any(url, options.get("weights"), options.get("trust", ""))
    computes(precision, device).say()
    return Model(url, placed_on(model, precision, usable(device)), device, options)


class ScoreOptions(TypedDict, total=False):
    """What is scored: options of `treeline evaluate`."""

    checkpoint: str
    data: str
    split: Split
    where: str
    limit: int | None
    batch_size: int
    precision: Precision
    device: Wanted
    trust: str
    maps: tuple[str, ...]
    heights: tuple[str, ...]
    ground: tuple[str, ...]
    height_unit: HeightUnit | None
    height_band: int | None
    on_mismatch: OnMismatch


def evaluate(**options: Unpack[ScoreOptions]) -> AnyEvaluation:
    """Score a model on the chips of a dataset, or maps where height rasters cover them.

    Returns:
        Scores and those of baselines: `table()` as the command prints them, `to_json()` as it writes them.

    Raises:
        InputError: an option cannot be used, or nothing can be scored.
    """
    from trainer.config import EvaluateConfig

    config = EvaluateConfig(**_check(options, ScoreOptions))
    if config.scores_maps:
        from inference.config import MapScoreConfig
        from inference.score.score_maps import score_maps
        from shards.wording import arguments_named

        return arguments_named()(score_maps)(MapScoreConfig.of(config))
    from trainer.evaluate.run import evaluate_any

    return evaluate_any(config)


def _check(options: Any, known: Any) -> dict[str, Any]:
    """Return options as the commands take them, with lists as tuples; refuse unknown ones."""
    names = sorted(known.__optional_keys__)
    for name in options:
        if name not in names:
            raise InputError(f"{name}: is no option here; there are {', '.join(names)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
