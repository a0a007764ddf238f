"""An encoder in memory that embeds parts, on the device that the driver decided on.

A part's batches hold the same tiles in the same order whoever computes them, so its file has the same bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from inference.config import EmbedConfig
from inference.embed.embeddings import PATCH_COLUMNS, Part, write_part
from inference.embed.tiles import Tiles, numbers_of_part, open_tiles
from shards.errors import DatasetError, InputError
from trainer.devices.cards import usable
from trainer.devices.choice import Kind
from trainer.devices.precision import autocast, predicting
from trainer.devices.repeatable import side_by_side
from trainer.model.encoder import Encoder, attended, patches_valid
from trainer.model.frozen_backbone import placed_on
from trainer.model.load_encoder import load_encoder

CHANGED = "has changed since this run began; run the command again"


@dataclass(frozen=True)
class EmbedJob:
    """Settings that all parts of a run share."""

    config: EmbedConfig
    """The options; the checkpoint is the URL of one, not of a run, and all places are absolute."""
    made_with: dict[str, Any]
    """Everything that the vectors depend on."""
    per_part: int
    """Tiles of a part."""
    device: Kind = "cpu"
    """Kind of device that embeds."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of some tiles (B), one or one for each patch (R), float32, and which of them there are."""

    vectors_BRD: NDArray[np.float32]
    valid_BR: NDArray[np.bool_]


class Embedder:
    """Encoder and tiles, ready to embed any part."""

    def __init__(self, job: EmbedJob, encoder: Encoder | None = None) -> None:
        """Load the encoder, unless it is given, and open the tiles.

        Raises:
            InputError: they are no longer those that the run began with.
        """
        config = job.config
        self._encoder, self._job = encoder or _encoder_here(job), job
        self._tiles: Tiles = open_tiles(config, self._encoder.schema)
        if any(job.made_with[name] != value for name, value in self._tiles.identity.items()):
            raise InputError(f"{config.data or 'a scene'}: {CHANGED}")

    def __call__(self, number: int) -> Part:
        """Embed the tiles of a part, and write its file."""
        job, config = self._job, self._job.config
        start, stop = numbers_of_part(number, job.per_part, self._tiles.count)
        rows = rows_of(self._encoder, self._tiles, (start, stop), config)
        stored = write_part(config.out, number, rows.columns, rows.vectors_ND, job.made_with)
        return Part(stored, len(rows.vectors_ND), rows.left_out)


def _encoder_here(job: EmbedJob) -> Encoder:
    """Load the encoder that the run began with, onto the job's device."""
    config = job.config
    loaded = load_encoder(config.checkpoint, config.weights, trust=config.trust)
    if loaded.fingerprint != job.made_with["checkpoint"]:
        raise InputError(f"{config.checkpoint}: {CHANGED}")
    return placed_on(loaded.encoder, config.precision, usable(job.device))


@dataclass(frozen=True)
class Rows:
    """Vectors of tiles or of their patches, beside what is known of them."""

    columns: pa.Table
    vectors_ND: NDArray[np.float16]
    left_out: int
    """Number of tiles that have no valid patch, and so no row."""


def rows_of(encoder: Encoder, tiles: Tiles, numbers: tuple[int, int], config: EmbedConfig) -> Rows:
    """Embed tiles numbers[0], ..., numbers[1] - 1.

    Raises:
        DatasetError: a token is no number.
    """
    start, stop = numbers
    images = tiles.images(start, stop, config.batch_size)
    with predicting(config.precision):  # settings of the process: not in the threads that compute
        embedded = list(vectors_of(encoder, images, config))
    vectors_BRD = np.concatenate([one.vectors_BRD for one in embedded])
    valid_BR = np.concatenate([one.valid_BR for one in embedded])
    columns = tiles.columns(start, stop)
    with np.errstate(over="ignore"):  # refused by the next line
        vectors_ND = vectors_BRD[valid_BR].astype(np.float16)
    if not np.isfinite(vectors_ND).all():
        raise DatasetError(f"{config.checkpoint}: its tokens are no numbers of float16; check the checkpoint")
    tile_N, patch_N = np.nonzero(valid_BR)
    columns = columns.take(tile_N)
    if config.tokens == "patches":
        per_side = tiles.size // encoder.patch_size
        for name, values_N in zip(PATCH_COLUMNS, divmod(patch_N, per_side), strict=True):
            columns = columns.append_column(name, [values_N])
    return Rows(columns, vectors_ND, int((~valid_BR.any(1)).sum()))


def vectors_of(encoder: Encoder, images: Iterable[NDArray[Any]], config: EmbedConfig) -> Iterator[Vectors]:
    """Embed batches of stored pixels, in order.

    A last, short batch is filled up with copies of its last tile: results differ slightly between shapes.
    """

    def embed(image_BCHW: NDArray[Any]) -> Vectors:
        missing = max(config.batch_size - len(image_BCHW), 0)
        full_BCHW = np.concatenate([image_BCHW, np.repeat(image_BCHW[-1:], missing, 0)])
        vectors = _vectors(encoder, torch.from_numpy(full_BCHW), config)
        own = slice(len(image_BCHW))
        return Vectors(vectors.vectors_BRD[own], vectors.valid_BR[own])

    if next(encoder.parameters()).device.type == "cpu":
        yield from side_by_side(embed, images)
    else:
        yield from map(embed, images)


@torch.inference_mode()
def _vectors(encoder: Encoder, image_BCHW: torch.Tensor, config: EmbedConfig) -> Vectors:
    """Embed one batch; a patch of which less than half is valid has no vector, nor a tile without patches."""
    device = next(encoder.parameters()).device
    with autocast(config.precision, device):
        pixels_BCHW, valid_BHW = encoder.normalise(image_BCHW.to(device))
        valid_BN = patches_valid(valid_BHW, encoder.patch_size)
        if config.tokens == "patches":
            tokens_BND = encoder(pixels_BCHW, attended_BN=attended(valid_BN))
            vectors_BRD, valid_BR = tokens_BND[:, -valid_BN.shape[1] :], valid_BN
        else:
            summaries_BF = encoder.summaries(pixels_BCHW, valid_BHW)
            vectors_BD = summaries_BF.tensor_split(2, 1)[config.tokens == "mean"]
            vectors_BRD, valid_BR = vectors_BD[:, None], valid_BN.any(1, keepdim=True)
    return Vectors(vectors_BRD.float().cpu().numpy(), valid_BR.cpu().numpy())
