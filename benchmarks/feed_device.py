"""Share of a training step spent waiting for data, on this machine's device.

    python benchmarks/feed_device.py --device cuda --backbone vitl     # a frozen ViT-L, the decoder learns
    python benchmarks/feed_device.py --device cuda --backbone none     # normalisation alone: the ceiling
    python benchmarks/feed_device.py --device cpu                      # the tiny regressor

Steps are those of `trainer.fit.loop`: chips read in shuffled order, moved by `trainer.data.feed`, normalised
on the device. Every step ends by waiting for the device, so that it cannot hide the wait for data.
"""

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.bench import VITL  # noqa: E402
from benchmarks.peers import make_chips  # noqa: E402
from shards.format.schema import Chip, Schema  # noqa: E402
from shards.read.chip_reader import ChipReader  # noqa: E402
from shards.read.dataset import Dataset, open_dataset  # noqa: E402
from shards.write.writer import DatasetWriter  # noqa: E402
from trainer.data.feed import feed  # noqa: E402
from trainer.decoders.features import DecoderConfig  # noqa: E402
from trainer.losses.loss import parse_loss  # noqa: E402
from trainer.model.backbone import TINY, build_backbone  # noqa: E402
from trainer.model.regressor import Regressor  # noqa: E402

SCHEMA = Schema(("blue", "green", "red", "nir"))
BANDS = ("nir", "red", "green")
WARM_UP_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", choices=("tiny", "vitl", "none"), default="tiny")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--chips", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--data", default="", help="a dataset to read; default: synthetic chips on local disk"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        url = options.data or f"{scratch}/set"
        if not options.data:
            with DatasetWriter(url, SCHEMA, {}) as writer:
                for key, image, height in make_chips(options.chips):
                    writer.add(Chip(key, image, height), "train")
                writer.finish()
        waited, total, chips = run(open_dataset(url), options, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, backbone {options.backbone}, batches of {options.batch_size}")
    print(f"{chips / total:,.0f} chips/s; {waited / total:.1%} of the time spent waiting for data")


def run(dataset: Dataset, options: argparse.Namespace, device: torch.device) -> tuple[float, float, int]:
    """Return seconds spent waiting for data, seconds in all, and chips, over the steps after the warm-up."""
    shape = {"tiny": TINY, "vitl": VITL, "none": TINY}[options.backbone]
    backbone = build_backbone({**shape, "num_channels": len(BANDS)}).requires_grad_(False)
    regressor = Regressor(dataset.schema, BANDS, dataset.statistics, backbone, DecoderConfig()).to(device)
    optimiser = torch.optim.AdamW(regressor.decoder.parameters(), lr=1e-4, fused=True)
    reader = ChipReader(dataset, dataset.chips("train"), options.batch_size, ragged="drop")
    batches = (batch for _ in range(options.steps + WARM_UP_STEPS) for batch in reader.epoch())
    waited, chips, start = 0.0, 0, time.perf_counter()
    loss = parse_loss(("squared",))
    fed = feed(batches, dataset.schema, device)
    for step in range(options.steps + WARM_UP_STEPS):
        if step == WARM_UP_STEPS:
            waited, chips, start = 0.0, 0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(fed)
        finish(device)
        waited += time.perf_counter() - asked
        if options.backbone == "none":
            regressor.normalise(batch.image_BCHW)
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                predicted_BHW, valid_BHW = regressor(batch.image_BCHW)
            measured_BHW = valid_BHW & batch.height_BHW.isfinite()
            sums_K = loss.sums(predicted_BHW.float(), batch.height_BHW, measured_BHW)
            loss.value(sums_K, 0.0).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        finish(device)
        chips += len(batch.batch.chips)
    total = time.perf_counter() - start
    fed.close()
    return waited, total, chips


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
