"""How many chips a second one core reads: our reader against WebDataset's, on the same shards, in one run.

    python benchmarks/loader.py [--chips 4000] [--repeats 5]

Chips are random (4 bands of 64 x 64 int16 and a height); files come from the page cache. Both readers hand
over the same arrays: WebDataset sample by sample, stacked to batches as its users do; ours as batches.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset

from shards.reader import Dataset, open_dataset
from shards.schema import Chip, Schema
from shards.writer import DatasetWriter, SplitRule

BATCH = 256


def make_dataset(url: str, chips: int) -> Dataset:
    schema = Schema(("blue", "green", "red", "nir"))
    generator = np.random.default_rng(0)
    with DatasetWriter(url, schema, SplitRule(0.0), {}) as writer:
        for number in range(chips):
            image = generator.integers(0, 6000, schema.image_shape, np.int16)
            height = generator.random(schema.label_shape, np.float32) * 20
            writer.add(Chip(f"chip_{number:06d}", image, height))
        writer.finish()
    return open_dataset(url)


def read_ours(dataset: Dataset, epoch: int) -> int:
    order = dataset.epoch(dataset.chips("train"), 0, epoch)
    return sum(len(batch.image_BCHW) for batch in dataset.batches(order, BATCH))


def read_webdataset(dataset: Dataset) -> int:
    paths = [f"{dataset.url}/{shard.name}" for shard in dataset.manifest.shards]
    samples = webdataset.WebDataset(paths, shardshuffle=False).shuffle(1000).decode()
    batches = samples.to_tuple("image.npy", "height.npy").batched(BATCH)
    return sum(len(images) for images, _ in batches)


def chips_a_second(read: Callable[[], int]) -> float:
    start = time.perf_counter()
    return read() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(str(Path(folder) / "set"), options.chips)
        read_ours(dataset, 0)  # checksums are checked here, once per opening
        ours, theirs = [], []
        for repeat in range(options.repeats):  # in turn, so that a slow moment of the machine meets both
            ours.append(chips_a_second(lambda epoch=repeat: read_ours(dataset, epoch)))
            theirs.append(chips_a_second(lambda: read_webdataset(dataset)))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{options.chips} chips in {len(dataset.manifest.shards)} shards, batches of {BATCH}")
    for name, rates in (("treeline", ours), (f"webdataset {webdataset.__version__}", theirs)):
        print(
            f"{name:18}{statistics.median(rates):12,.0f} chips/s   ({min(rates):,.0f} to {max(rates):,.0f})"
        )
    print(f"ratio             {ratio:12.1f}")


if __name__ == "__main__":
    main()
