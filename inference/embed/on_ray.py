"""Parts embedded on Ray workers with Ray Data: each worker holds an encoder, reads, embeds and writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from inference.config import EmbedConfig
from inference.embed.embeddings import Part
from inference.workers_on_ray import WORKER_CPUS, workers_that_fit
from shards.roles import with_absolute_places
from trainer.devices.choice import Computes, Precision

if TYPE_CHECKING:
    from inference.embed.embedder import EmbedJob

PARTS_AT_ONCE = 1000
"""Parts that the driver hands to Ray Data at a time."""


class OnRay:
    """Engine that embeds on Ray workers; see `inference.embed.engine.Engine`."""

    def __init__(self, config: EmbedConfig) -> None:
        """Size the work to the cluster.

        Raises:
            InputError: too few GPUs for all workers, none where --device wants some, or unusable ones.
        """
        fitting = workers_that_fit(config.workers, config.gpus_per_worker, config.device, config.precision)
        self._workers, self._gpus, self.device, self._computes = fitting

    def computes(self, precision: Precision) -> Computes:
        """Return what the workers' devices make of the precision of the options."""
        return self._computes

    def parts(self, numbers: Sequence[int], job: "EmbedJob") -> Iterator[tuple[int, Part]]:
        """Embed the parts on workers that each hold the encoder in memory."""
        # Ray's processes work in folders of their own.
        places = with_absolute_places(EmbedConfig, vars(job.config))
        job = replace(job, config=EmbedConfig(**places))
        coming = iter(numbers)
        while rows := [{"number": number} for number in islice(coming, PARTS_AT_ONCE)]:
            yield from self._stream(rows, job)

    def _stream(self, rows: list[dict[str, Any]], job: "EmbedJob") -> Iterator[tuple[int, Part]]:
        import ray.data

        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Embed,  # type: ignore[arg-type]
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_gpus=self._gpus,
            num_cpus=WORKER_CPUS,
        )
        for row in done.iter_rows():
            yield int(row["number"]), Part.from_json(row["part"])


class _Embed:
    """Worker with one encoder in memory, which embeds part after part."""

    def __init__(self, job: "EmbedJob") -> None:
        # Imported only here: the driver's other processes start without torch, which takes seconds to import.
        from inference.embed.embedder import Embedder

        self._embedder = Embedder(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed the row's part."""
        return {**row, "part": self._embedder(int(row["number"])).to_json()}
