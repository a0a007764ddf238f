"""What the configurations of training and of pre-training have in common."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from shards.errors import InputError
from shards.nested import built, replaced
from shards.read.read_options import ReadOptions
from shards.roles import In, MayChange, OnlyWith, Place, Some
from trainer.devices.choice import Computes, Wanted
from trainer.options import FitOptions


def worker_range(workers: int | str) -> tuple[int, int]:
    """Return the fewest and most Ray workers that --workers N or MIN:MAX allows.

    Raises:
        InputError: it is neither.
    """
    least, _, most = str(workers).partition(":")
    if not least.isdecimal() or not (most or least).isdecimal() or int(least) > int(most or least):
        raise InputError(f"--workers {workers}: give N, or MIN:MAX with MIN not above MAX")
    return int(least), int(most or least)


class RunConfig:
    """What the configurations of training and of pre-training have in common; their fields are their own."""

    workers: int | str
    device: Wanted
    fit: FitOptions

    @classmethod
    def of(cls, data: str, out: str, **options: Any) -> Self:
        """Make a configuration of options by name, whatever part they stand in."""
        return built(cls, {"data": data, "out": out, **options})

    def with_options(self, **options: Any) -> Self:
        """Return the same configuration with other values of these options."""
        return replaced(self, options)

    def decided_by(self, computes: Computes) -> Self:
        """Return the same configuration in the precision of the devices, if --precision leaves it to them."""
        is_open = self.fit.precision == "auto"
        return self.with_options(precision=computes.precision) if is_open else self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most Ray workers; see `worker_range`."""
        return worker_range(self.workers)

    @property
    def global_batch(self) -> int:
        """Chips or tiles per step, over all workers."""
        fit = self.fit
        size = fit.batch_on_cpu if fit.batch_size is None else fit.batch_size
        return fit.batch_per_worker * max(1, self.worker_range[1]) or size


@dataclass(frozen=True)
class ReadingOptions:
    """Reading of the dataset."""

    on_bad_shard: Annotated[Literal["stop", "skip"], In.SPEED.late(3)] = ReadOptions.on_bad_shard
    """Response to a shard that is damaged or cannot be read: end the run, or leave it out and name it."""
    cache: Annotated[str, Place(), MayChange()] = ""
    """Local folder for what was fetched of a remote dataset, shared by the processes of a machine."""
    cache_gigabytes: Annotated[float, MayChange(), OnlyWith(cache=Some())] = ReadOptions.cache_bytes / 1e9
    """Size in gigabytes at which the cache drops what was used least recently."""

    @property
    def read_options(self) -> ReadOptions:
        """The same, as the reader takes them."""
        return ReadOptions(
            on_bad_shard=self.on_bad_shard,
            cache=self.cache,
            cache_bytes=round(self.cache_gigabytes * 1e9),
        )
