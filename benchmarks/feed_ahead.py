"""Time that a GPU stands still for its batches, with a GPU that only sleeps; what a thread costs on a CPU.

    python benchmarks/feed_ahead.py                          # 20,000 chips/s of the first users' chips
    python benchmarks/feed_ahead.py --launching-ms 8         # the process launches kernels in that time
    python benchmarks/feed_ahead.py --cpu                    # training on this CPU, with and without a thread

The GPU is made up: a batch takes it chips / rate seconds, and a transfer bytes / bandwidth seconds beside
that. Reading is real: chips of local shards, in shuffled order. Ways to bring them are compared in one run:
as trainer.data.feed does; as before, when a batch was gathered and pinned between two steps; and batches that
are there already, which shows how late this machine wakes a sleeping process.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.feed_device import BANDS, SCHEMA  # noqa: E402
from benchmarks.peers import make_chips  # noqa: E402
from shards.format.schema import Chip  # noqa: E402
from shards.read.chip_reader import ChipReader  # noqa: E402
from shards.read.dataset import Batch, Dataset, open_dataset  # noqa: E402
from shards.write.writer import DatasetWriter  # noqa: E402
from trainer.data.feed import feed  # noqa: E402
from trainer.data.transfers import Buffers, Sent  # noqa: E402
from trainer.decoders.features import DecoderConfig  # noqa: E402
from trainer.losses.loss import parse_loss  # noqa: E402
from trainer.model.backbone import TINY, build_backbone  # noqa: E402
from trainer.model.regressor import Regressor  # noqa: E402

CPU = torch.device("cpu")
WARM_UP_STEPS = 10


class At:
    """The moment when a transfer ends."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.seconds - time.perf_counter()))


class SleepingGpu:
    """Times of a GPU that does nothing: a link (trainer.data.transfers.Link), and steps."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._link_free = self._free = self.busy = 0.0
        self._number = torch.zeros(1)

    def memory(self, nbytes: int) -> Tensor:
        return torch.zeros(nbytes, dtype=torch.uint8)

    def send(self, rows_BS: Tensor) -> tuple[Tensor, At]:
        start = max(time.perf_counter(), self._link_free)
        self._link_free = start + rows_BS.numel() / self._bytes_per_second
        return rows_BS, At(self._link_free)

    def arrive(self, rows_BS: Tensor, done: At) -> None:
        self._free = max(self._free, done.seconds)

    def step(self, seconds: float, launching: float) -> None:
        """Compute for some seconds, once the batch is there; the process launches, then waits for the end."""
        start = max(time.perf_counter(), self._free)
        self._free, launched = start + seconds, time.perf_counter() + launching
        while time.perf_counter() < launched:  # torch lets go of Python's lock in each, as it does on a GPU
            self._number.add_(1.0)
        time.sleep(max(0.0, self._free - time.perf_counter()))
        self.busy += seconds


def now(batches: Callable[..., Iterator[Batch]], gpu: SleepingGpu) -> Iterator[Any]:
    """Bring batches as trainer.data.feed does."""
    buffers = Buffers(gpu)
    return feed(batches(buffers.memory), SCHEMA, CPU, buffers=buffers)


def before(batches: Callable[..., Iterator[Batch]], gpu: SleepingGpu) -> Iterator[Any]:
    """Bring batches one transfer ahead, but gather and pin them between steps, as until November 2026."""
    buffers, waiting = Buffers(gpu), list[Sent]()
    for batch in batches(None):
        waiting.append(buffers.send(batch.rows_BS))  # copied to pinned memory
        if len(waiting) > 1:
            yield waiting.pop(0).arrived()


def ready(batches: Callable[..., Iterator[Batch]], gpu: SleepingGpu) -> Iterator[Any]:
    """Bring nothing."""
    while True:
        yield None


def simulated(options: argparse.Namespace, dataset: Dataset) -> None:
    seconds = options.batch / options.rate
    for name, way in (("before", before), ("now", now), ("ready", ready)):
        gpu = SleepingGpu(options.gigabytes * 1e9)
        reader = ChipReader(dataset, dataset.chips("train"), options.batch, ragged="drop")
        steps = options.steps + WARM_UP_STEPS

        def batches(memory: Any, reader: ChipReader = reader, steps: int = steps) -> Iterator[Batch]:
            # One stream through all epochs: what stands between epochs is not measured here.
            while reader.state.epoch * dataset.chips("train").size < steps * options.batch:
                yield from reader.epoch(memory=memory)

        fed = way(batches, gpu)
        start = waited = 0.0
        for step in range(steps):
            if step == WARM_UP_STEPS:
                start, gpu.busy, waited = time.perf_counter(), 0.0, 0.0
            asked = time.perf_counter()
            next(fed)
            waited += time.perf_counter() - asked
            gpu.step(seconds, options.launching_ms / 1e3)
        total = time.perf_counter() - start
        fed.close()  # type: ignore[attr-defined]  # a generator
        print(
            f"{name:7} {options.steps * options.batch / total:8,.0f} chips/s of {options.rate:,}; "
            f"{1 - gpu.busy / total:.1%} of the time outside the device, {waited / total:.1%} for batches"
        )


def on_cpu(options: argparse.Namespace, dataset: Dataset) -> None:
    """Train the tiny regressor, its batches read in the step's thread and in another."""
    loss = parse_loss(("squared",))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rates: dict[str, list[float]] = {"no thread": [], "a thread": []}
        for _ in range(options.repeats):
            for name, found in rates.items():
                backbone = build_backbone({**TINY, "num_channels": len(BANDS)}).requires_grad_(False)
                regressor = Regressor(SCHEMA, BANDS, dataset.statistics, backbone, DecoderConfig())
                optimiser = torch.optim.AdamW(regressor.decoder.parameters(), lr=1e-4)
                buffers = Buffers(SleepingGpu(1e15)) if name == "a thread" else None
                reader = ChipReader(dataset, dataset.chips("train"), options.batch)
                batches = reader.epoch(memory=buffers.memory if buffers else None)
                start = time.perf_counter()
                for step, fed in enumerate(feed(batches, SCHEMA, CPU, buffers=buffers)):
                    if step == options.steps:
                        break
                    predicted_BHW, valid_BHW = regressor(fed.image_BCHW)
                    measured_BHW = valid_BHW & fed.height_BHW.isfinite()
                    loss.value(loss.sums(predicted_BHW, fed.height_BHW, measured_BHW), 0.0).backward()
                    optimiser.step()
                    optimiser.zero_grad()
                found.append(options.steps * options.batch / (time.perf_counter() - start))
        for name, found in rates.items():
            print(f"{threads} of torch's threads, {name:9} {sorted(found)[len(found) // 2]:8,.0f} chips/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=20_000, help="chips a second that the GPU could do")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--chips", type=int, default=8192)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="GB/s of a transfer (PCIe 4: some 25)")
    parser.add_argument("--launching-ms", type=float, default=0.0, help="Python's part of a step")
    parser.add_argument("--repeats", type=int, default=5, help="with --cpu")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, batches of {options.batch}")
    with tempfile.TemporaryDirectory() as scratch:
        with DatasetWriter(f"{scratch}/set", SCHEMA, {}) as writer:
            for key, image, height in make_chips(options.chips):
                writer.add(Chip(key, image, height), "train")
            writer.finish()
        (on_cpu if options.cpu else simulated)(options, open_dataset(f"{scratch}/set"))


if __name__ == "__main__":
    main()
