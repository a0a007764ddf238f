"""Makers of small regressors, statistics, datasets, checkpoints and scenes for the trainer and inference.

Everything is real and small: a DINOv3 of one layer, chips whose height can be seen, files that are written.
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
from rasterio import Affine

from shards.order import Chips
from shards.reader import Dataset, open_dataset
from shards.schema import Chip, Schema
from shards.statistics import BandSummary, Counts, Statistics, Summary, summarise
from shards.writer import DatasetWriter, SplitRule
from trainer.backbone import build_backbone
from trainer.baselines import Baselines
from trainer.checkpoint import Checkpoint
from trainer.config import TrainConfig
from trainer.decoder import NOTEBOOK_WIDTHS
from trainer.loop import Learning, fit
from trainer.model import DecoderConfig, Regressor
from trainer.ranks import Ranks
from trainer.train import new_regressor

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
NODATA = -9999
SCHEMA = Schema(("blue", "green", "red", "nir"))
BANDS = ("nir", "red", "green")
BACKBONE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 64,
    "num_register_tokens": 4,
}
DECODER = DecoderConfig(widths=(16, 16, 8, 8))
ALONE = Ranks()


# --- facts computed elsewhere ---


def reference(name: str) -> Path:
    """The reference file called `name`; the test is skipped where there is none."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"the reference file {name} is not beside the repository")
    return path


def fill_parameters() -> ModuleType:
    """The module that fills a tensor from its name."""
    spec = importlib.util.spec_from_file_location("fill_parameters", reference("fill_parameters.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook_regressor(statistics: Statistics) -> Regressor:
    """The notebook's regressor, its parameters filled from their names, every one of them, in eval mode."""
    facts = json.loads(reference("notebook_regressor_state_dict.json").read_text())
    fill, weights = fill_parameters().fill, {}
    for name, shape in facts["state_dict"].items():
        transposed = len(shape) == 4 and name.startswith(tuple(f"depth_head.{i}.0." for i in (0, 2, 4, 6)))
        ours = name.replace("backbone.layer.", "backbone.model.layer.").replace("depth_head.", "decoder.")
        weights[ours] = torch.from_numpy(np.asarray(fill(name, tuple(shape), transposed)))
    backbone = build_backbone(facts["backbone_config"])
    decoder = DecoderConfig(NOTEBOOK_WIDTHS, "batch", 0.2)
    regressor = Regressor(SCHEMA, BANDS, statistics, backbone, decoder)
    regressor.load_state_dict(weights, strict=True)
    return regressor.eval()


# --- statistics and regressors ---


def statistics_of(
    constants: dict[str, tuple[float, float, float]], height_90_m: float = 2.5, schema: Schema = SCHEMA
) -> Statistics:
    """Statistics with the given (clamp_max, clamped_mean, clamped_std) of bands; the others are harmless."""
    summary = Summary(1, 0.0, 1.0, 0.5, 0.25, {"50": 0.5, "90": height_90_m})
    bands = {}
    for band in schema.bands:
        clamp_max, mean, std = constants.get(band, (1000.0, 0.5, 0.25))
        bands[band] = BandSummary(**vars(summary), clamp_max=clamp_max, clamped_mean=mean, clamped_std=std)
    return Statistics(bands, summary)


def small_regressor(
    seed: int = 0, statistics: Statistics | None = None, decoder: DecoderConfig = DECODER
) -> Regressor:
    """A regressor with random weights, in eval mode, whose heights vary visibly and are partly below 0."""
    torch.manual_seed(seed)
    if statistics is None:
        statistics = statistics_of({}, height_90_m=1.0)
    regressor = Regressor(SCHEMA, BANDS, statistics, build_backbone(BACKBONE), decoder)
    output = regressor.decoder[-1][-1]
    torch.nn.init.normal_(output.weight, 0.0, 1.0)
    return regressor.eval()


def local_backbone(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a small pretrained DINOv3 of three channels."""
    torch.manual_seed(seed)
    build_backbone(BACKBONE).to(dtype).save_pretrained(folder)
    return folder


def write_checkpoint(folder: Path, regressor: Regressor) -> Path:
    """A checkpoint of `regressor` in `folder`."""
    baselines = Baselines(1.5, (0.001, 0.0, -0.001, 0.0005, 0.25), chips=8)
    trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
    Checkpoint(regressor, trained_on, {"epoch": 3, "loss": 0.5}, baselines).save(str(folder))
    return folder


# --- images, chips and datasets ---


def stored_images(
    count: int, rows: int = 64, columns: int = 64, seed: int = 0, missing: float = 0.0
) -> NDArray[np.int16]:
    """image_BCHW (count, 4, rows, columns) of random stored pixels, a share `missing` of them nodata."""
    generator = np.random.default_rng(seed)
    image_BCHW = generator.integers(0, 1500, (count, 4, rows, columns)).astype(np.int16)
    image_BCHW[generator.random(image_BCHW.shape) < missing] = NODATA
    return image_BCHW


def visible_chip(number: int, seed: int = 0) -> Chip:
    """A chip with a few blobs; the taller a blob, the brighter it is in near infrared."""
    generator = np.random.default_rng((seed, number))
    rows, columns = np.mgrid[:64, :64]
    height_HW = np.zeros((64, 64), np.float32)
    for row, column, radius, top in zip(
        *generator.integers(0, 64, (2, 6)),
        generator.integers(6, 14, 6),
        generator.uniform(1, 8, 6),
        strict=True,
    ):
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        height_HW[inside] = np.maximum(height_HW[inside], top)
    image_CHW = np.stack(
        [300 + 20 * height_HW, 400 - 10 * height_HW, 500 + 0 * height_HW, 1000 + 300 * height_HW]
    )
    image_CHW += generator.normal(0, 20, image_CHW.shape)
    height_HW[:2] = np.nan
    stored_CHW = image_CHW.astype(np.int16)
    stored_CHW[:, -2:] = NODATA
    return Chip(f"chip_{number:04d}", stored_CHW, height_HW)


def write_dataset(folder: Path, chips: int, val_share: float = 0.0, shard_chips: int = 10) -> Dataset:
    """A dataset of `chips` visible chips in `folder`."""
    rule = SplitRule(val_share=val_share)
    with DatasetWriter(str(folder), SCHEMA, rule, {"test": True}, shard_chips) as writer:
        for number in range(chips):
            writer.add(visible_chip(number))
        writer.finish()
    return open_dataset(str(folder))


def exact_statistics(image_BCHW: NDArray[Any], height_BHW: NDArray[np.float32]) -> Statistics:
    """The statistics of some chips."""
    counts = Counts.empty(SCHEMA)
    counts.add(image_BCHW, height_BHW)
    statistics = summarise(counts, SCHEMA)
    assert statistics is not None
    return statistics


# --- training, also as one of two processes ---


def fitted(
    dataset: Dataset, config: TrainConfig, ranks: Ranks = ALONE, val_chips: Chips | None = None
) -> tuple[Regressor, list[dict[str, Any]]]:
    """The regressor after `fit` on the dataset's training chips, and the record of each epoch."""
    torch.manual_seed(config.seed)
    regressor, records = new_regressor(dataset, config), []
    val_chips = np.arange(0) if val_chips is None else val_chips
    learning = Learning(dataset, dataset.chips("train"), val_chips, ranks)
    fit(regressor, learning, config, lambda count, note="": None, lambda record, _: records.append(record))
    return regressor, records


def train_as_rank(rank: int, world_size: int, rendezvous: str, configs: list[TrainConfig], out: str) -> None:
    """The body of one process of several: trains with each configuration; the first one writes the records.

    The validation chips are the training chips, so that scores are summed over ranks too.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    results = []
    for config in configs:
        dataset = open_dataset(config.data)
        ranks = Ranks(rank, world_size)
        results.append(fitted(dataset, config, ranks, dataset.chips("train"))[1])
    torch.distributed.destroy_process_group()
    if rank == 0:
        Path(out).write_text(json.dumps(results))


def small_config(dataset: Dataset, backbone: Path | str, **options: Any) -> TrainConfig:
    """Options for a fast training with a local backbone."""
    defaults = TrainConfig(
        dataset.url,
        out="unused",
        backbone=str(backbone),
        decoder_widths=DECODER.widths,
        epochs=2,
        batch_size=8,
        learning_rate=3e-3,
    )
    return replace(defaults, **options)


# --- scenes ---

CRS, TRANSFORM = "EPSG:3338", Affine(2, 0, 300_000, 0, -2, 1_800_000)


def write_scene(path: Path, image_CHW: NDArray[Any], nodata: float | None = NODATA, **options: Any) -> Path:
    """A GeoTIFF of stored pixels on a grid of 2 m in EPSG:3338."""
    count, height, width = image_CHW.shape
    profile = {"driver": "GTiff", "dtype": image_CHW.dtype, "count": count, "height": height, "width": width}
    profile |= {"crs": CRS, "transform": TRANSFORM, "nodata": nodata, **options}
    with rasterio.open(path, "w", **profile) as target:
        target.write(image_CHW)
    return path
