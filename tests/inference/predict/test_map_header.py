"""A checkpoint's description for maps: that of the loaded one, in little memory, and the same refusals."""

from pathlib import Path
from typing import Any

import pytest
from classes import small_class_model, write_class_checkpoint
from memory import needs_peak, peak_bytes_of
from regressors import SMALL_BACKBONE, small_regressor, write_checkpoint
from tile_models import small_tile_model, write_tile_checkpoint

from inference.predict.map_header import read_map_header
from shards.errors import InputError
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.tile_model import TileHead

KINDS: dict[str, Any] = {
    "heights": load_checkpoint,
    "classes": load_class_checkpoint,
    "tiles": load_tile_checkpoint,
}
WIDE = {**SMALL_BACKBONE, "hidden_size": 1024, "intermediate_size": 4096}


def written(kind: str, folder: Path, shape: dict[str, Any] = SMALL_BACKBONE) -> Path:
    if kind == "heights":
        return write_checkpoint(folder, small_regressor())
    if kind == "classes":
        return write_class_checkpoint(folder, small_class_model(shape=shape))
    return write_tile_checkpoint(folder, small_tile_model(TileHead("tree_percent"), shape))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_that_of_the_loaded_checkpoint(kind: str, tmp_path: Path) -> None:
    saved = str(written(kind, tmp_path / kind))
    header, loaded = read_map_header(saved), KINDS[kind](saved)
    assert header.fingerprint == loaded.fingerprint
    assert header.trained_on == loaded.trained_on
    assert header.metrics["epoch"] == loaded.metrics["epoch"]


@needs_peak
@pytest.mark.parametrize("kind", ["classes", "tiles"])
def test_it_is_read_in_little_memory(kind: str, tmp_path: Path) -> None:
    saved = written(kind, tmp_path / kind, WIDE)
    size = (saved / "model.safetensors").stat().st_size
    assert size > 50e6
    read_map_header(str(saved))
    assert peak_bytes_of(lambda: read_map_header(str(saved))) < 0.8 * size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [4, 500, -1])
def test_truncated_weights_are_refused(kind: str, kept: int, tmp_path: Path) -> None:
    saved = written(kind, tmp_path / kind)
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{kind}/model.safetensors: not this model's weights"):
        read_map_header(str(saved))
