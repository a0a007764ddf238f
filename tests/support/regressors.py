"""Makers of what the tests of the trainer and of inference need: statistics, regressors, datasets, scenes.

Everything is small, is really written, and is the same in every run: seeds are fixed.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.transform import from_origin

from shards.format.key import split_of
from shards.format.schema import Chip, Schema
from shards.format.statistics import BandSummary, LabelSummary, Statistics, Tally, summarise
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips
from shards.write.writer import DatasetWriter
from trainer.commands.train import fit_of
from trainer.config import RECIPES, TrainConfig
from trainer.decoders.features import DecoderConfig
from trainer.devices.ranks import Ranks
from trainer.fit.learning import Learning
from trainer.model.backbone import build_backbone
from trainer.model.height_checkpoint import Checkpoint
from trainer.model.make import new_regressor
from trainer.model.regressor import Regressor
from trainer.run_folder.state_callback import StateCallback
from trainer.score.baselines import Baselines

NODATA = -9999
SCHEMA = Schema(("blue", "green", "red", "nir"), nodata=NODATA)
CHIP_SCHEMA = replace(SCHEMA, chip_size=32)
"""Chips to train on, of four patches: a step on 64 x 64 pixels takes thrice as long and shows no more."""
BANDS = ("nir", "red", "green")
CRS = "EPSG:3338"
TRANSFORM = from_origin(200_000, 1_700_000, 2, 2)
SMALL_BACKBONE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 64,
    "num_register_tokens": 4,
}
SMALL_DECODER = DecoderConfig((16, 8, 8, 8), "group")
_REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


# --- pixels ---


def stored_images(
    count: int, rows: int = 64, columns: int = 64, seed: int = 0, missing: float = 0.0
) -> NDArray[np.int16]:
    """image_BCHW, 1 to 3000: noise on broad waves; a share `missing` of each band's pixels is nodata."""
    generator = np.random.default_rng(seed)
    row_HW, column_HW = np.indices((rows, columns))
    period_BC = generator.uniform(4, 9, (count, 4, 1, 1))
    waves_BCHW = np.sin(row_HW / period_BC) * np.cos(column_HW / period_BC[::-1])
    image_BCHW = 1500 + 700 * waves_BCHW + generator.normal(0, 200, waves_BCHW.shape)
    stored_BCHW = np.clip(image_BCHW, 1, 3000).astype(np.int16)
    stored_BCHW[generator.random(stored_BCHW.shape) < missing] = NODATA
    return stored_BCHW


def odd_scene(rows: int, columns: int) -> NDArray[np.int16]:
    """Stored pixels (4, rows, columns): a border, a hole and single pixels are missing."""
    image_CHW = stored_images(1, rows, columns, missing=0.002)[0]
    image_CHW[:, : rows // 17] = image_CHW[:, :, : columns // 27] = NODATA
    image_CHW[:, rows * 2 // 5 : rows * 3 // 5, columns // 3 : columns * 4 // 7] = NODATA
    return image_CHW


def write_scene(
    path: Path, image_CHW: NDArray[Any], nodata: float | None = NODATA, crs: str | None = CRS
) -> Path:
    """A GeoTIFF of 2 m pixels whose bands have no names; returns its path."""
    bands, rows, columns = image_CHW.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=image_CHW.dtype,
        count=bands,
        height=rows,
        width=columns,
        crs=crs,
        transform=TRANSFORM,
        nodata=nodata,
    ) as raster:
        raster.write(image_CHW)
    return path


# --- statistics ---


def statistics_of(constants: dict[str, tuple[float, float, float]], height_m: float = 5.0) -> Statistics:
    """Statistics with (clamp_max, clamped_mean, clamped_std) given by band, and all heights `height_m`."""
    bands = {
        band: BandSummary(
            1, 0.0, top, 0.0, 1.0, {"90": top}, clamp_max=top, clamped_mean=mean, clamped_std=std
        )
        for band, (top, mean, std) in constants.items()
    }
    return Statistics(bands, LabelSummary(1, height_m, height_m, height_m, 0.0, {"90": height_m}))


def exact_statistics(image_BCHW: NDArray[np.int16], height_BHW: NDArray[np.float32]) -> Statistics:
    """The statistics of these chips."""
    statistics = summarise(Tally.of(image_BCHW, height_BHW), SCHEMA)
    assert statistics
    return statistics


# --- regressors ---


def small_regressor(
    seed: int = 0, statistics: Statistics | None = None, decoder: DecoderConfig = SMALL_DECODER
) -> Regressor:
    """A regressor with random weights, in eval mode, fast on one core.

    Its output layer has larger weights than a new one's: heights that vary and are partly below 0.
    """
    torch.manual_seed(seed)
    statistics = statistics or statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)), height_m=1.0)
    regressor = Regressor(SCHEMA, BANDS, statistics, build_backbone(SMALL_BACKBONE), decoder)
    torch.nn.init.normal_(regressor.decoder.output.weight, 0.0, 3.0)
    return regressor.eval()


def write_checkpoint(folder: Path, regressor: Regressor) -> Path:
    """Write `regressor` as the checkpoint `folder`, with invented metrics and baselines; returns it."""
    trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
    baselines = Baselines(1.5, (0.001, 0.0, -0.001, 0.0005, 0.25), chips=8)
    Checkpoint(regressor, trained_on, {"epoch": 3, "loss": 0.5}, baselines).save(str(folder))
    return folder


def scene_to_map(folder: Path) -> str:
    """Write a scene, and as `folder`/c a checkpoint that can map it; returns the scene's path."""
    write_checkpoint(folder / "c", small_regressor())
    return str(write_scene(folder / "scene.tif", stored_images(1)[0]))


def local_backbone(folder: Path) -> Path:
    """A small DINOv3 of red, green and blue, saved as transformers does; returns its folder."""
    torch.manual_seed(0)
    build_backbone(SMALL_BACKBONE).save_pretrained(folder)
    return folder


# --- what other people's code gave ---


def reference(name: str) -> Path:
    """The file `name` of golden outputs; skips the test where it is absent."""
    if not (_REFERENCE / name).is_file():
        pytest.skip(f"../shared/reference/{name} is absent")
    return _REFERENCE / name


def notebook_regressor(statistics: Statistics) -> Regressor:
    """The regressor of the golden values, its tensors filled from their names; none may be left over."""
    described = json.loads(reference("notebook_regressor_state_dict.json").read_text())
    rule = _filling_rule()
    transposed = {f"depth_head.{stage}.0.weight" for stage in (0, 2, 4, 6)}
    filled = {
        _our_name(name): torch.from_numpy(rule.fill(name, tuple(shape), name in transposed))
        for name, shape in described["state_dict"].items()
    }
    backbone = build_backbone(described["backbone_config"])
    decoder = DecoderConfig((512, 256, 128, 64), "batch", 0.2)
    regressor = Regressor(SCHEMA, BANDS, statistics, backbone, decoder)
    regressor.load_state_dict(filled, strict=True)
    return regressor.eval()


def _filling_rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_parameters", reference("fill_parameters.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _our_name(name: str) -> str:
    if name.startswith("depth_head."):
        return name.replace("depth_head.", "decoder.", 1)
    return name.replace("backbone.layer.", "backbone.model.layer.", 1)


# --- training ---


def visible_chip(number: int) -> Chip:
    """A chip whose height shows in its bands; two of its rows have no height, two others no image."""
    generator = np.random.default_rng(number)
    height_HW = np.kron(generator.uniform(0, 8, (4, 4)), np.ones((8, 8))).astype(np.float32)
    by_band = [400 + 0 * height_HW, 600 + 20 * height_HW, 1200 - 100 * height_HW, 800 + 300 * height_HW]
    image_CHW = (np.stack(by_band) + generator.normal(0, 20, (4, 32, 32))).astype(np.int16)
    height_HW[5:7], image_CHW[:, 20:22] = np.nan, NODATA
    return Chip(f"chip_{number}", image_CHW, height_HW)


def write_dataset(folder: Path, chips: int, val_share: float = 0.0) -> Dataset:
    """A dataset of `chips` visible chips in shards of ten."""
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10) as writer:
        for chip in map(visible_chip, range(chips)):
            writer.add(chip, split_of(chip.key, val_share))
        writer.finish()
    return open_dataset(str(folder))


def small_config(dataset: Dataset, backbone: Path, out: str = "", **options: Any) -> TrainConfig:
    """Options under which an epoch takes a moment.

    The decoder has two channels or more in each group of its norm. With one, rounding grows fast: two threads
    instead of one move the loss of the second epoch by 2e-4; here it is 2e-5.
    """
    defaults: dict[str, Any] = {
        "recipe": "tiny",
        **RECIPES["tiny"],
        "backbone": str(backbone),
        "decoder_widths": (32, 16, 16, 16),
        "batch_size": 8,
        "epochs": 2,
    }
    return TrainConfig.of(dataset.url, out, **{**defaults, **options})


def fitted(
    dataset: Dataset, config: TrainConfig, val_chips: Chips | None = None, ranks: Ranks | None = None
) -> tuple[Regressor, list[dict[str, Any]]]:
    """A regressor trained on all training chips, without files, and the records of its epochs."""
    torch.manual_seed(config.fit.seed)
    regressor = new_regressor(dataset, config.model)
    val_chips = np.arange(0) if val_chips is None else val_chips
    learning = Learning(dataset, dataset.chips("train"), val_chips, ranks or Ranks())
    fit = fit_of(regressor, learning, config)
    fit.run(StateCallback())
    return regressor, fit.records
