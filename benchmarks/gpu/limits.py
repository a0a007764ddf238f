"""What the device can do at most: products of matrices by precision, copies on it and to it."""

import json
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench, Finding
from trainer.devices.cards import computes
from trainer.devices.choice import Precision
from trainer.devices.precision import computing

TERA, GIGA = 1e12, 1e9
TYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def limits(bench: Bench) -> Iterator[Finding]:
    """Measure what the rates are compared with."""
    found = dict[str, float]()
    side = bench.of_size(8192, 128)
    for precision, dtype in TYPES.items():
        if computes(precision, bench.device).precision != precision:  # TF32, which only some GPUs have
            continue
        one, other = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        with computing(precision):
            found[precision] = 2 * side**3 / bench.seconds(lambda a=one, b=other: a @ b) / TERA
        yield Finding(f"product of {side} x {side} matrices, {precision}", found[precision], "TFLOP/s")
    source = torch.zeros(bench.of_size(2 * 10**9, 10**6), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source)) / GIGA
    yield Finding("copy on the device, bytes read and written", found["copy"], "GB/s")
    if bench.on_gpu:
        on_host = torch.zeros(bench.of_size(10**9, 10**6), dtype=torch.uint8, pin_memory=True)
        arrived = torch.empty(on_host.shape, dtype=torch.uint8, device=bench.device)
        found["to device"] = on_host.nbytes / bench.seconds(lambda: arrived.copy_(on_host)) / GIGA
        yield Finding("copy from pinned memory to the device", found["to device"], "GB/s")
    small = torch.zeros(1, device=bench.device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    found["launch"] = bench.seconds(launches) / 1000 * 1e6
    yield Finding("launch of a small kernel from Python", found["launch"], "us")
    (bench.folder / "limits.json").write_text(json.dumps(found))
