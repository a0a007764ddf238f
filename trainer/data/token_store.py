"""A token store: a frozen backbone's tokens of every chip, computed once, from which decoders train.

    <url>/tokens.json                               identity of the tokens, and the files; written last
    <url>/<fingerprint>/train/000000.0.tokens       tokens of shard 0's chips in variant 0, one row a chip

All rows have the same length. For each layer that the decoder takes, a row holds the patches row by row, then
the class token if the decoder takes it. A batch is one gather of rows. `trainer.data.token_filling` fills a
store.

    plan = plan_tokens(regressor, dataset, options, chips, precision="float32")
    reader = TokenReader(plan, stored_objects(plan), dataset, device)
    reader.features(chips, symmetries_B)            # equals Regressor.features of these chips, turned
"""

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import DINOv3ViTModel, PretrainedConfig

from shards.errors import DatasetError, InputError
from shards.format.manifest import StoredObject, read_json
from shards.format.tar import BLOCK
from shards.read.arena import Arena, Memory
from shards.read.dataset import Dataset
from shards.read.order import Chips
from shards.storage.checksum import hexadecimal
from shards.storage.disk_cache import DiskCache
from shards.storage.objects import exists, is_local, join, local_path
from shards.storage.ranges import Fetcher
from shards.storage.typed_json import typed_as
from trainer.chip_options import AugmentOptions, ChipOptions
from trainer.data.choice import training_chips
from trainer.decoders.features import Features
from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS, NAMED
from trainer.model.regressor import Regressor
from trainer.model.symmetries import SYMMETRIES
from trainer.options import TokenOptions

MANIFEST = "tokens.json"
FORMAT = "treeline-tokens"
VERSION = 1
HELD_BYTES = 8 * 10**9
"""Bytes of a remote store's files kept in memory, beyond those of the present batch."""

_WITH_CLASSES = ("dpt",)
"""Decoders that take class tokens."""


@dataclass(frozen=True)
class TokenLayout:
    """Layout of a row."""

    layers: int
    """Number of layers."""
    rows: int
    """Rows of patches."""
    columns: int
    """Columns of patches."""
    width: int
    """Numbers in a token."""
    classes: bool
    """Whether each layer's class token follows its patches."""
    dtype: str
    """Type of the stored numbers, named as in torch."""

    @property
    def _shape_LND(self) -> tuple[int, int, int]:
        return self.layers, self.rows * self.columns + self.classes, self.width

    @property
    def _used_bytes(self) -> int:
        return int(np.prod(self._shape_LND)) * self._type.itemsize

    @property
    def _type(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def stride(self) -> int:
        """Bytes of a row: a multiple of 512, which Arena requires."""
        return -(-self._used_bytes // BLOCK) * BLOCK

    def pack(self, features: Features) -> Tensor:
        """Pack features into rows_BS (B, stride) of bytes.

        Raises:
            InputError: a token is not finite, or too large for the store's type.
        """
        layers = [patches_BDRC.flatten(2).transpose(1, 2) for patches_BDRC in features.patches]
        if self.classes:
            both = zip(layers, features.classes, strict=True)
            layers = [torch.cat((tokens_BND, class_BD[:, None]), 1) for tokens_BND, class_BD in both]
        values_BLND = torch.stack(layers, 1).to(self._type)
        if not values_BLND.isfinite().all():
            raise InputError(
                f"--token-store: a token is not finite as {self.dtype}; give --token-dtype bfloat16, and "
                "check that the backbone's weights are finite"
            )
        bytes_BS = values_BLND.flatten(1).view(torch.uint8)
        return pad(bytes_BS, (0, self.stride - self._used_bytes))

    def unpack(self, rows_BS: Tensor) -> Features:
        """Undo `pack`, in float32."""
        values_BV = rows_BS[:, : self._used_bytes].view(self._type).float()
        values_BLND = values_BV.unflatten(1, self._shape_LND)
        grid = (self.rows, self.columns)
        patches_BLND = values_BLND[:, :, : self.rows * self.columns]
        return Features(
            tuple(tokens_BND.transpose(1, 2).unflatten(2, grid) for tokens_BND in patches_BLND.unbind(1)),
            tuple(values_BLND[:, :, -1].unbind(1)) if self.classes else (),
        )


@dataclass(frozen=True)
class TokenFile:
    """One file of a token store: the tokens of a shard's chips in one variant."""

    shard: int
    """Number of the shard."""
    split: str
    """Split of the shard."""
    chips: int
    """Number of chips in the shard."""
    variant: int
    """Symmetry (0..7) by which the chips are turned; 0: not turned."""


@dataclass(frozen=True)
class TokenPlan:
    """Identity of a store's tokens, and the files that a run needs."""

    url: str
    """Folder of the store."""
    identity: dict[str, Any]
    """Everything that tokens depend on, as plain JSON values by name."""
    layout: TokenLayout
    files: tuple[TokenFile, ...]
    """Files that the run needs."""

    @property
    def precision(self) -> Precision:
        """Precision in which tokens are computed."""
        return NAMED[self.identity["computed in"]]

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the identity, sixteen hexadecimal digits."""
        return hexadecimal(json.dumps(self.identity, sort_keys=True).encode())

    def name_of(self, file: TokenFile) -> str:
        """Return the name of `file` below the store's URL."""
        return f"{self.fingerprint}/{file.split}/{file.shard:06d}.{file.variant}.tokens"

    def nbytes_of(self, file: TokenFile) -> int:
        """Return the bytes of `file`."""
        return file.chips * self.layout.stride

    def manifest(self, objects: dict[str, StoredObject]) -> dict[str, Any]:
        """Return the content of tokens.json for a store that holds `objects`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "layout": {**asdict(self.layout), "stride": self.layout.stride},
            "objects": [asdict(objects[name]) for name in sorted(objects)],
        }


def check_token_options(options: TokenOptions, tune: str, augment: AugmentOptions) -> None:
    """Refuse a store where the backbone learns (see `tune`), or augmentation changes a chip's tokens.

    Raises:
        InputError: names the option, and what to give instead.
    """
    if not options.token_store:
        return
    if tune != "frozen":
        raise InputError(
            f"--token-store: with --tune {tune} the backbone learns, and its tokens change; "
            "give --tune frozen"
        )
    for option in ("brightness", "band_dropout", "jitter", "crop"):
        if value := getattr(augment, option):
            flag = "--" + option.replace("_", "-")
            raise InputError(
                f"--token-store: {flag} {value} changes a chip's tokens each time; give {flag} 0"
            )
    if augment.flips and options.token_variants == 1:
        raise InputError(
            "--token-store: --flips (the default) turns chips, but a store of one variant has no tokens of "
            f"turned chips; give --no-flips, or --token-variants {SYMMETRIES} (a store {SYMMETRIES} times as "
            "large)"
        )


def plan_tokens(
    regressor: Regressor, dataset: Dataset, options: TokenOptions, chips: ChipOptions, precision: Precision
) -> TokenPlan:
    """Plan a store for the chosen chips: training shards in all variants, validation shards unturned."""
    layout = _layout_of(regressor, options.token_dtype)
    train_shards = set(dataset.shard_of(training_chips(dataset, chips)).tolist())
    val_chips = dataset.chips("val", where=chips.validated_where)
    shards = train_shards | set(dataset.shard_of(val_chips).tolist())
    files = tuple(
        TokenFile(
            number, dataset.manifest.shards[number].split, dataset.manifest.shards[number].samples, variant
        )
        for number in sorted(shards)
        for variant in range(options.token_variants if number in train_shards else 1)
    )
    identity = {
        "dataset": dataset.manifest.fingerprint,
        "backbone's weights": _weights_checksum(regressor.backbone),
        "backbone's shape": _shape_of(regressor.backbone),
        "normalisation": {
            **regressor.normalise.constants(),
            "nodata": regressor.normalise.nodata,
        },
        "bands": regressor.bands,
        "upsample": regressor.decoder_config.upsample,
        "layers": regressor.decoder.layers,
        "class tokens": layout.classes,
        "dtype": layout.dtype,
        "computed in": MEANINGS[precision].name,
    }
    return TokenPlan(options.token_store, json.loads(json.dumps(identity)), layout, files)


def stored_objects(plan: TokenPlan) -> dict[str, StoredObject]:
    """Return the objects that the store's manifest lists, by name; none if there is no store yet.

    Raises:
        InputError: the store holds other tokens; the message names what differs.
    """
    where = join(plan.url, MANIFEST)
    if not exists(where):
        return {}
    values = read_json(where)
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{where}: not a token store of this version; choose another --token-store")
    cure = "choose another --token-store, or delete it first"
    found = typed_as(values.get("identity", {}), dict[str, Any], f"{where}: identity", cure)
    asked = plan.identity
    differ = [name for name in {**found, **asked} if found.get(name) != asked.get(name)]
    if differ or values.get("fingerprint") != plan.fingerprint:
        raise InputError(f"{plan.url}: holds the tokens of another {', '.join(differ) or 'store'}; {cure}")
    objects = typed_as(values.get("objects"), tuple[StoredObject, ...], f"{where}: objects", cure)
    return {stored.name: stored for stored in objects}


class TokenReader:
    """Reader of the tokens of any chips of a plan, in any order. For one thread at a time."""

    def __init__(
        self, plan: TokenPlan, objects: dict[str, StoredObject], dataset: Dataset, device: torch.device
    ) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            plan: plan of the store.
            objects: from `stored_objects`.
            dataset: dataset of the chips; its options say how to read (checks, cache).
            device: device for the features.
        """
        self._plan, self._dataset, self._device = plan, dataset, device
        files = [file for file in plan.files if plan.name_of(file) in objects]
        self._objects = [objects[plan.name_of(file)] for file in files]
        self._place_SV = np.full((len(dataset.manifest.shards), SYMMETRIES), -1)
        for place, file in enumerate(files):
            self._place_SV[file.shard, file.variant] = place
        largest = max((stored.nbytes for stored in self._objects), default=0)
        self._arena = Arena(len(files), largest, plan.layout.stride)
        self._held: OrderedDict[int, int] = OrderedDict()
        """Bytes of fetched objects by place, the least recently used first."""
        options = dataset.options
        self._fetcher = Fetcher()
        self._cache = DiskCache(options.cache, options.cache_bytes) if options.cache else None

    def features(self, chips: Chips, symmetries_B: NDArray[np.int64] | None = None) -> Features:
        """Read the backbone's features of `chips`, each turned by its symmetry (0..7), in float32.

        Without chips return zeros, for the one stand-in (`never_empty`).

        Raises:
            DatasetError: the store lacks a chip, or a file is not what was written.
        """
        if not chips.size:
            rows_BS = np.zeros((1, self._plan.layout.stride), np.uint8)
        else:
            rows_BS = self.rows(chips, symmetries_B)
        return self.unpack(torch.from_numpy(rows_BS).to(self._device))

    def unpack(self, rows_BS: Tensor) -> Features:
        """Return the features of rows, in float32, on the rows' device."""
        return self._plan.layout.unpack(rows_BS)

    def rows(
        self, chips: Chips, symmetries_B: NDArray[np.int64] | None = None, memory: Memory | None = None
    ) -> NDArray[np.uint8]:
        """Read the rows (B, stride) of `chips`, each turned by its symmetry; see `features`.

        They go to the memory that `memory` gives; default: new memory.
        """
        if symmetries_B is None:
            symmetries_B = np.zeros_like(chips)
        shard_B = self._dataset.shard_of(chips)
        place_B = self._place_SV[shard_B, symmetries_B]
        if place_B.min() < 0:
            lacking = int(np.argmin(place_B))
            raise DatasetError(
                f"{self._plan.url}: no tokens of chip {chips[lacking]} in variant {symmetries_B[lacking]}: "
                "its shard was left out when tokens were computed; the next run computes them"
            )
        needed = np.unique(place_B).tolist()
        for place in needed:
            self._bring(place)
        self._drop_others(needed)
        row_B = chips - self._dataset.manifest.first_chip[shard_B]
        return self._arena.gather(
            self._arena.first_block(place_B) + row_B * (self._plan.layout.stride // BLOCK), memory
        )

    def _bring(self, place: int) -> None:
        """Map or fetch an object unless that is done."""
        stored = self._objects[place]
        url = join(self._plan.url, stored.name)
        if self._arena.holds(place):
            if place in self._held:
                self._held.move_to_end(place)
            return
        try:
            if is_local(url):
                self._arena.map_file(place, local_path(url), lambda data: self._check(stored, url, data))
            else:
                self._fetch(stored, url, self._arena.fill(place)[: stored.nbytes])
                self._held[place] = stored.nbytes
        except (OSError, DatasetError) as error:
            if self._arena.holds(place):
                self._arena.empty(place)
            raise DatasetError(f"{error}; delete {url}, and the next run computes it again") from error

    def _fetch(self, stored: StoredObject, url: str, into: NDArray[np.uint8]) -> None:
        def get(buffer: NDArray[np.uint8]) -> None:
            self._fetcher.read_into(url, 0, buffer)
            self._check(stored, url, buffer)

        if self._cache is None:
            get(into)
        else:
            self._cache.fetch(f"{url} {stored.xxh3}", into, get)

    def _check(self, stored: StoredObject, url: str, data: NDArray[np.uint8]) -> None:
        if self._dataset.options.check:
            stored.check(url, data)

    def _drop_others(self, needed: list[int]) -> None:
        """Release memory, but not that of the present batch."""
        held_bytes = sum(self._held.values())
        for place in [place for place in self._held if place not in needed]:
            if held_bytes <= HELD_BYTES:
                return
            held_bytes -= self._held.pop(place)
            self._arena.empty(place)


def _layout_of(regressor: Regressor, dtype: str) -> TokenLayout:
    config = regressor.decoder_config
    rows, columns = (
        side * config.upsample // regressor.patch_size for side in regressor.schema.image_shape[-2:]
    )
    width = int(regressor.backbone.config.hidden_size)
    layers = len(regressor.decoder.layers)
    return TokenLayout(layers, rows, columns, width, config.kind in _WITH_CLASSES, dtype)


def _weights_checksum(backbone: DINOv3ViTModel) -> str:
    """Return a checksum of all tensors in the order of their names, with types and shapes."""
    digest = xxhash.xxh3_64()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shape_of(backbone: DINOv3ViTModel) -> dict[str, Any]:
    """Return the backbone's configuration without what every model of transformers has, such as versions."""
    config: dict[str, Any] = backbone.config.to_dict()
    return {name: config[name] for name in sorted(config.keys() - PretrainedConfig().to_dict().keys())}
