"""What Ray's workers see: none of the GPUs, or their own."""

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Finding, holds


def ray_workers(bench: Bench) -> Iterator[Finding]:
    """Ask a worker without GPUs for the device that it would compute on, and one with a GPU."""
    import ray

    from trainer.devices.cards import usable

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        asked = ray.remote(lambda kind: str(usable(kind)))
        yield holds("0 GPUs: the CPU", ray.get(asked.options(num_gpus=0).remote("cpu")) == "cpu")
        if bench.on_gpu:
            own = ray.get(asked.options(num_gpus=1).remote("cuda"))
            yield holds("1 GPU: a GPU", own.startswith("cuda"))
    finally:
        ray.shutdown()
