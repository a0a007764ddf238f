"""Vectors in memory, of windows of scenes and of arrays, with the numbers of the files of embeddings."""

import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.config import EmbedConfig
from inference.embed.array_tiles import ArrayTiles
from inference.embed.embedder import rows_of
from inference.embed.embeddings import read_embeddings
from inference.embed.in_process import InProcess
from inference.embed.run import check_options, check_tile_size, embed
from inference.scenes.array_pixels import NAME
from shards.raster.finding import FINDINGS, findings_by_code, say_findings
from shards.wording import arguments_named
from trainer.devices.cards import usable
from trainer.devices.choice import Kind
from trainer.model.encoder import Encoder
from trainer.model.frozen_backbone import placed_on
from trainer.model.load_any import AnyModel
from trainer.model.load_encoder import encoder_of


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of tiles, or of patches; those of which all, or more than half, is missing have none."""

    vectors_ND: NDArray[np.float16]
    columns: pa.Table
    """Facts about each tile: the columns that `treeline embed` writes, or the place in the array."""
    findings: dict[str, str] = field(default_factory=dict)
    """Findings about an image that does not fit the training: lines by code."""


class VectorMaker:
    """Vectors of one encoder in memory. Its checkpoint must stay where it is."""

    def __init__(self, checkpoint: str, model: AnyModel, device: Kind, fixed: dict[str, Any]) -> None:
        """Take the encoder of a model that is on the device.

        Args:
            checkpoint: URL of the model's checkpoint.
            model: the model, which shares its weights.
            device: the device.
            fixed: options of embed that stay, such as the precision.

        Raises:
            InputError: the model's backbone sees enlarged images.
        """
        encoder = model if isinstance(model, Encoder) else encoder_of(checkpoint, model)
        self._fixed = {"checkpoint": checkpoint, **fixed}
        self._device = device
        # The backbone is there, but not the encoder's own normalisation.
        self._encoder = placed_on(encoder, fixed["precision"], usable(device))

    @arguments_named()
    def of_scene(self, scene: str, options: dict[str, Any]) -> Vectors:
        """Embed the windows of a scene into a folder for the moment, and read it; `options` are of embed.

        Raises:
            InputError: the scene or an option cannot be used.
        """
        with tempfile.TemporaryDirectory(prefix="treeline-vectors-") as folder:
            out = os.path.join(folder, "vectors")
            config = EmbedConfig(scenes=(scene,), out=out, **self._fixed, **options)
            embed(config, InProcess(self._device, self._encoder), names_arguments=True)
            found = read_embeddings(out)
        of_scene: dict[str, dict[str, str]] = found.about.get(FINDINGS, {})
        return Vectors(found.vectors_ND, found.columns, next(iter(of_scene.values()), {}))

    @arguments_named()
    def of_array(self, image: NDArray[Any], options: dict[str, Any]) -> Vectors:
        """Embed the tiles of an array; see `ArrayTiles`.

        Raises:
            InputError: the array or an option cannot be used, or the array is unlike the training.
        """
        config = EmbedConfig(scenes=("an array",), out="", **self._fixed, **options)
        check_options(config)
        tiles = ArrayTiles(image, self._encoder.schema, config.tile_size)
        check_tile_size(tiles.size, self._encoder.patch_size, "tile_size")
        findings = tiles.findings(self._encoder.statistics)
        say_findings(findings, config.on_mismatch, names_arguments=True)
        rows = rows_of(self._encoder, tiles, (0, tiles.count), config)
        return Vectors(rows.vectors_ND, rows.columns, findings_by_code(findings.get(NAME, ())))
