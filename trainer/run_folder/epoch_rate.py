"""The speed of a training's epoch, and what held it up, in one line.

These figures belong to one run on one machine, so they are not in metrics.jsonl, which is the same in every
run.
"""

from dataclasses import asdict, dataclass

import torch

from trainer.devices.clock import TimeSpent
from trainer.devices.ranks import Ranks
from trainer.fit.flops import peak_flops
from trainer.options import FitOptions


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
        """Write one line on epoch number `epoch` (from 0): its summary, and how fast it went.

        Args:
            epoch: number of the epoch.
            summary: its scores in a few words.
            learnt_from: what was learnt from: chips or tiles.
        """
        text = f"epoch {epoch + 1}: {summary}"
        text += (
            f"; {self.chips_per_second:,.0f} {learnt_from}/s; {self.waiting_for_data:.0%} waiting for data"
        )
        if self.communication is not None:
            text += f", {self.communication:.0%} communication"
        if self.busy is not None:
            text += f"; GPU busy in {self.busy:.0%} of steps"
        if self.gflop_per_second is not None:
            few = self.gflop_per_second < 1
            text += f"; {self.gflop_per_second:{'.2g' if few else ',.0f'}} GFLOP/s"
        if self.utilisation is not None:
            text += f" ({self.utilisation:.0%} of the device's peak)"
        return text if self.peak_memory_gb is None else f"{text}; {self.peak_memory_gb:.1f} GB"


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
    peak = peak_flops(ranks.device, options.precision)
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
