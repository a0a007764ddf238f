"""Pixels and labels on the device are those on the host, also when transfers are under stress."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Finding, equal

DTYPES = ("uint8", "int16", "uint16", "float32")
SLOW_CYCLES = 2_000_000
"""Cycles that the device is busy before it looks at a batch: about a millisecond."""


def same_inputs(bench: Bench) -> Iterator[Finding]:
    """Compare normalised pixels and labels with the CPU's, for each type of pixels."""
    from trainer.data.feed import feed
    from trainer.model.normalise import Normalise
    from trainer.model.symmetries import apply_symmetries

    for dtype in DTYPES:
        dataset = bench.chips(32, dtype)
        symmetries_B = np.arange(32) % 8
        made: list[list[Tensor]] = []
        for device in (torch.device("cpu"), bench.device):
            normalise = Normalise(dataset.schema, ("nir", "red", "green"), dataset.statistics).to(device)
            (fed,) = feed(dataset.batches(dataset.chips("train"), 32), dataset.schema, device)
            image_BCHW, height_BHW = apply_symmetries(symmetries_B, fed.image_BCHW, fed.height_BHW)
            made.append([one.cpu() for one in (*normalise(image_BCHW), height_BHW)])
        for what, one, other in zip(("pixels", "valid pixels", "heights"), *made, strict=True):
            yield equal(f"{dtype}: {what}", torch.equal(one, other))


def feed_under_stress(bench: Bench) -> Iterator[Finding]:
    """Feed batches of changing size while the device is slow, and spoil each after its use."""
    from trainer.data.feed import feed

    dataset = bench.chips(256)
    sizes = [int(size) for size in np.random.default_rng(0).integers(1, 65, bench.of_size(200, 20))]
    chips = dataset.chips("train")
    wanted, found = list[int](), list[Tensor]()

    def batches() -> Iterator:
        for number, size in enumerate(sizes):
            chosen = np.sort(np.roll(chips, number)[:size])
            for batch in islice(dataset.batches(chosen, size), 1):
                wanted.append(int(batch.image_BCHW.astype(np.int64).sum()))
                yield batch

    for fed in feed(batches(), dataset.schema, bench.device):
        if bench.on_gpu:
            torch.cuda._sleep(SLOW_CYCLES)
        found.append(fed.image_BCHW.long().sum())
        fed.image_BCHW.fill_(-1)
    yield equal(f"sums of {len(sizes)} batches", [int(one) for one in found] == wanted)
