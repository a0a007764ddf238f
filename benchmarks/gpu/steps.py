"""Kernels, waits and busy share of a training step, and chips a second by batch."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench, Finding, as_figure, at_least, at_most, steps_of

if TYPE_CHECKING:
    from trainer.fit.loop import Fit

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
"""CUDA's calls that let the host wait, by their names in a profile."""
WARM_UP = 3


def step_profile(bench: Bench) -> Iterator[Finding]:
    """Profile steps of a frozen and of a tuned backbone, by batch."""
    steps = bench.of_size(20, 2)
    for tune, batches in (("frozen", (16, 64, 256, 512)), ("all", (16, 64))):
        for batch in batches if not bench.tiny else batches[:1]:
            dataset = bench.chips(max(batch * 4, 64))
            config = bench.config(
                dataset, bench.large, tune=tune, precision=bench.fast, batch_size=batch, epochs=10**6
            )
            fit = bench.fit(config)
            steps_of(fit, WARM_UP)
            begun = time.perf_counter()
            steps_of(fit, steps)
            bench.finish()
            seconds = (time.perf_counter() - begun) / steps
            what = f"{tune}, {bench.fast}, batches of {batch}"
            yield Finding(f"{what}: chips/s", batch / seconds, "chips/s")
            if batch in (16, 256):
                kernels, waits, busy = profiled(bench, fit, steps)
                if not bench.on_gpu:
                    yield Finding(f"{what}: operations a step", kernels)
                    continue
                if tune == "frozen":
                    yield at_most(f"{what}: kernels a step", kernels, 700)
                else:
                    yield Finding(f"{what}: kernels a step", kernels)
                yield at_most(f"{what}: waits a step", waits, 1)
                yield Finding(f"{what}: share of the time in which the device works", busy)


def profiled(bench: Bench, fit: "Fit", steps: int) -> tuple[float, float, float]:
    """Return kernels a step, waits a step, and the share of the time in which the device works."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.on_gpu
    begun = time.perf_counter()
    with profile(activities=activities) as found:
        steps_of(fit, steps)
        bench.finish()
    seconds = time.perf_counter() - begun
    names = Counter[str]()
    kernels, worked_us = 0, 0.0
    for event in found.events() or []:
        if event.device_type == DeviceType.CUDA:
            if not event.name.startswith(("Memcpy", "Memset")):
                kernels += 1
            worked_us += event.self_device_time_total
        else:
            names[event.name] += 1
            # Where there is no GPU, operations that were called from no other stand for kernels.
            kernels += not bench.on_gpu and event.cpu_parent is None
    waits = sum(names[name] for name in WAITS) if bench.on_gpu else names["aten::_local_scalar_dense"]
    return kernels / steps, (waits - bench.on_gpu) / steps, worked_us / 1e6 / seconds


def hidden_waits(bench: Bench) -> Iterator[Finding]:
    """Let torch warn of every operation that waits for the device, and count the places."""
    if not bench.on_gpu:
        yield Finding("places that wait in a step: a CPU has none", 0)
        return
    config = bench.config(
        bench.chips(256), bench.large, tune="frozen", precision=bench.fast, batch_size=64, epochs=50
    )
    fit = bench.fit(config)
    steps_of(fit, WARM_UP)
    yield from _warned(lambda: steps_of(fit, 4), "four steps")


def _warned(work: Callable[[], object], what: str) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in caught)
    for place, times in places.most_common(10):
        yield Finding(f"{what}: waits at {place}", times)
    yield at_most(f"{what}: places that wait", len(places), 1)


def layouts(bench: Bench) -> Iterator[Finding]:
    """Compare group norm and batch norm, which want other layouts of memory on a GPU."""
    rates = dict[str, float]()
    batch = bench.of_size(128, 8)
    for norm in ("group", "batch"):
        config = bench.config(
            bench.chips(batch * 2),
            bench.large,
            tune="frozen",
            precision=bench.fast,
            norm=norm,
            batch_size=batch,
            epochs=10**6,
        )
        fit = bench.fit(config)
        steps_of(fit, WARM_UP)
        steps = bench.of_size(10, 1)
        rates[norm] = batch * steps / bench.seconds(lambda fit=fit, steps=steps: steps_of(fit, steps), 1, 0)
        yield Finding(f"frozen, {bench.fast}, {norm} norm", rates[norm], "chips/s")
    beside = at_least("group norm beside batch norm", rates["group"] / rates["batch"], 0.8, "x")
    yield beside if bench.on_gpu else as_figure(beside)
