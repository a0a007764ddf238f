"""The speed of a training's epoch in one line, and in another what held it up, if anything did.

These figures belong to one run on one machine, so they are not in metrics.jsonl, which is the same in every
run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from shards.storage.objects import is_local
from trainer.devices.clock import TimeSpent
from trainer.devices.ranks import Ranks
from trainer.fit.flops import peak_flops
from trainer.options import FitOptions

SLOW = 0.2
"""Share (0..1) of an epoch's time above which what is not computing is called slow."""
IDLE = 0.5
"""Share (0..1) of an epoch's steps above which a GPU that pauses is called slow."""


@dataclass(frozen=True)
class EpochRate:
    """Rate of an epoch as the first rank sees it; None where there is no such number."""

    chips_per_second: float
    """Chips, or tiles, a second, over all ranks."""
    waiting_for_data: float
    """Share (0..1) of the time; for this and the next two see trainer.devices.clock.TimeSpent."""
    computing: float
    """Share (0..1) of the time."""
    communication: float | None
    """Share (0..1) of the time; None with one rank, or if sharded (a sharded model sends between blocks)."""
    busy: float | None
    """Share (0..1) of steps that kept the GPU busy; see TimeSpent."""
    gflop_per_second: float | None
    """GFLOP/s of each rank's device, over the whole time."""
    utilisation: float | None
    """Share (0..1) of the device's published peak that this is."""
    peak_memory_gb: float | None
    """Most GPU memory that this process's tensors took so far, in GB (10^9 bytes)."""

    def numbers(self) -> dict[str, float]:
        """Return the numbers that exist, by name."""
        return {f"time/{name}": value for name, value in asdict(self).items() if value is not None}

    def line(self, epoch: int, summary: str, learnt_from: str) -> str:
        """Write one line on epoch number `epoch` (from 1): its summary, and how fast it went.

        Args:
            epoch: number of the epoch.
            summary: its scores in a few words.
            learnt_from: what was learnt from: chips or tiles.
        """
        text = f"epoch {epoch}: {summary}"
        text += f"; {self.chips_per_second:,.0f} {learnt_from}/s"
        if self.utilisation is not None:  # a number of operations says nothing without the most there can be
            text += f"; {self.gflop_per_second:,.0f} GFLOP/s ({self.utilisation:.0%} of the device's peak)"
        return text if self.peak_memory_gb is None else f"{text}; {self.peak_memory_gb:.1f} GB"


@dataclass(frozen=True)
class SlowEnd:
    """Part of the work that holds an epoch up."""

    what: str
    """Stage of the training that is slow."""
    why: str
    """Cost of the slow end, and the options to set."""


def slow_end(rate: EpochRate, epoch: int, data: str, resolved: Mapping[str, Any]) -> SlowEnd | None:
    """Find what holds an epoch up; None if the model's arithmetic alone takes the time.

    Args:
        rate: the epoch's rate.
        epoch: its number, from 1.
        data: the dataset, as the user named it.
        resolved: all options of the run.
    """
    communication = rate.communication or 0.0
    saving = 1 - rate.waiting_for_data - rate.computing - communication
    if rate.waiting_for_data > SLOW:
        cure = "bring the dataset nearer"
        if is_local(data):
            cure = "copy the dataset to a faster disk, or run fewer programs beside it"
        elif not resolved.get("cache"):
            cure = f"keep what is fetched on this machine with --cache FOLDER, or {cure}"
        spent = f"{rate.waiting_for_data:.0%} of epoch {epoch} was spent waiting for {data}"
        return SlowEnd("reading", f"{spent}; {cure}")
    if communication > SLOW:
        spent = f"{communication:.0%} of epoch {epoch} was spent waiting for other workers or the network"
        return SlowEnd("the exchange between workers", f"{spent}; give fewer --workers, or larger batches")
    if saving > SLOW and resolved.get("checkpoint_steps"):
        cure = "give a larger --checkpoint-steps, or 0"
        return SlowEnd("saving states", f"{saving:.0%} of epoch {epoch} was spent on it; {cure}")
    if rate.busy is not None and rate.busy < 1 - IDLE:
        spent = f"the GPU paused between kernels in {1 - rate.busy:.0%} of the steps of epoch {epoch}"
        cure = "give a larger --batch-size, with another --out"
        if not resolved.get("compile"):
            cure = f"resume with --compile, or {cure}"
        return SlowEnd("the process that queues work", f"{spent}; {cure}")
    return None


def epoch_rate(spent: TimeSpent, flops_per_chip: float, ranks: Ranks, options: FitOptions) -> EpochRate:
    """Compute an epoch's rate.

    Args:
        spent: time that the epoch's steps took.
        flops_per_chip: operations of a chip's forward and backward pass; 0: not known.
        ranks: the ranks, and this process's device.
        options: options of the loop.
    """
    rate = spent.chips / max(spent.seconds, 1e-9)
    flops_per_second = rate * flops_per_chip / ranks.world_size
    peak = peak_flops(ranks.device, options.computed_in)
    on_gpu = ranks.device.type == "cuda"
    return EpochRate(
        rate,
        spent.share(spent.waiting),
        spent.share(spent.computing),
        spent.share(spent.communication) if ranks.world_size > 1 and not options.shard_model else None,
        spent.busy,
        flops_per_second / 1e9 if flops_per_chip else None,
        flops_per_second / peak if flops_per_chip and peak else None,
        torch.cuda.max_memory_allocated(ranks.device) / 1e9 if on_gpu else None,
    )
