"""How fast an epoch of training went, and what held it up; said in one line.

These figures are of one run on one machine, and so not in metrics.jsonl, which is the same in every run.
"""

from dataclasses import asdict, dataclass

import torch

from trainer.devices.clock import TimeSpent
from trainer.devices.ranks import Ranks
from trainer.fit.flops import peak_flops
from trainer.options import FitOptions


@dataclass(frozen=True)
class Pace:
    """As the first rank sees it; None: there is none to tell."""

    chips_per_second: float
    """Of all ranks."""
    waiting_for_data: float
    """Share (0..1) of the time; this and the next two: see trainer.devices.clock.TimeSpent."""
    computing: float
    """Share (0..1)."""
    communication: float | None
    """Share (0..1); None: no other rank, or a sharded model, which sends between its blocks."""
    gflop_per_second: float | None
    """Of each rank's device, over the whole time."""
    utilisation: float | None
    """Share (0..1) that this is of the device's published peak."""
    peak_memory_gb: float | None
    """GB (10^9 bytes) of a GPU's memory that this process's tensors took at most, so far."""

    def numbers(self) -> dict[str, float]:
        """Return what there is to tell, by name."""
        return {f"time/{name}": value for name, value in asdict(self).items() if value is not None}

    def line(self, epoch: int, summary: str) -> str:
        """Say what epoch number `epoch` (from 0) came to, and how fast."""
        said = f"epoch {epoch + 1}: {summary}"
        said += f"; {self.chips_per_second:,.0f} chips/s; {self.waiting_for_data:.0%} waiting for data"
        if self.communication is not None:
            said += f", {self.communication:.0%} communication"
        if self.gflop_per_second is not None:
            said += f"; {self.gflop_per_second:,.0f} GFLOP/s"
        if self.utilisation is not None:
            said += f" ({self.utilisation:.0%} of the device's peak)"
        return said if self.peak_memory_gb is None else f"{said}; {self.peak_memory_gb:.1f} GB"


def pace_of(spent: TimeSpent, flops_per_chip: float, ranks: Ranks, options: FitOptions) -> Pace:
    """Work out the pace; `flops_per_chip`: operations of a chip's forward and backward pass, 0: not known."""
    rate = spent.chips / max(spent.seconds, 1e-9)
    flops_per_second = rate * flops_per_chip / ranks.world_size
    peak = peak_flops(ranks.device, options.bf16)
    on_gpu = ranks.device.type == "cuda"
    return Pace(
        rate,
        spent.share(spent.waiting),
        spent.share(spent.computing),
        spent.share(spent.communication) if ranks.world_size > 1 and not options.shard_model else None,
        flops_per_second / 1e9 if flops_per_chip else None,
        flops_per_second / peak if flops_per_chip and peak else None,
        torch.cuda.max_memory_allocated(ranks.device) / 1e9 if on_gpu else None,
    )
