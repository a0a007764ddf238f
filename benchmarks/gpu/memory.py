"""Memory: sharding over one rank, too little of it, and a backbone of 7 billion weights."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.bench import (
    SEEN,
    SEVEN_BILLION,
    SMALL,
    Bench,
    Finding,
    Left,
    at_least,
    at_most,
    holds,
    steps_of,
)

WIDE = {
    **SMALL,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
}


def sharded_on_one_rank(bench: Bench) -> Iterator[Finding]:
    """Train a sharded model with a process group of one rank, in float32 and in bfloat16."""
    import torch.distributed as distributed

    from trainer.devices.precision import autocast
    from trainer.devices.sharding import shard

    with tempfile.TemporaryDirectory() as scratch:
        distributed.init_process_group(
            "nccl" if bench.on_gpu else "gloo", init_method=f"file://{scratch}/meet", rank=0, world_size=1
        )
        try:
            for precision in ("float32", "bf16"):
                regressor = bench.regressor(SMALL if bench.tiny else WIDE).cpu().train()
                with bench.peak() as measured:
                    shard(regressor, regressor.blocks(), bench.device)
                    image_BCHW = torch.ones(8, 4, 64, 64, dtype=torch.int16, device=bench.device)
                    with autocast(precision, bench.device):
                        height_BHW, _ = regressor(image_BCHW)
                    height_BHW.float().sum().backward()
                known = all(one.grad is None or one.grad.isfinite().all() for one in regressor.parameters())
                yield holds(f"sharded, {precision}: gradients are numbers", bool(known))
                if bench.on_gpu:
                    yield Finding(f"sharded, {precision}: most memory of a step", measured[0], "GB")
        finally:
            distributed.destroy_process_group()


def too_little_memory(bench: Bench) -> Iterator[Finding]:
    """Take nearly all memory, train, and look what is said and whether memory is back."""
    from trainer.commands.too_little_memory import saying_what_to_set
    from trainer.devices.ranks import Ranks

    batch = bench.of_size(2048, 8)
    config = bench.config(bench.chips(batch), bench.large, tune="all", batch_size=batch, epochs=50)
    before = torch.cuda.memory_allocated(bench.device) if bench.on_gpu else 0
    said = ""
    try:
        with saying_what_to_set(config, Ranks(device=bench.device)):
            fit = bench.fit(config)
            filler = _filled(bench)
            steps_of(fit, 2)
    except torch.OutOfMemoryError as error:
        said = str(error)
    fit = filler = None  # noqa: F841  what the failure held
    yield holds("one line says what to set", "--accumulate" in said and "\n" not in said)
    if bench.on_gpu:
        torch.cuda.empty_cache()
        left = (torch.cuda.memory_allocated(bench.device) - before) / 1e9
        yield at_most("memory still held afterwards", left, 0.1, "GB")


def _filled(bench: Bench) -> torch.Tensor:
    """Leave a gigabyte of the device's memory; on a CPU fail as if there were none."""
    if not bench.on_gpu:
        error = RuntimeError("not enough memory: you tried to allocate 2.00 GiB")
        error.add_note("in epoch 1, step 1")
        raise error
    free, _ = torch.cuda.mem_get_info(bench.device)
    return torch.empty(max(0, free - 10**9), dtype=torch.uint8, device=bench.device)


def block_by_block(bench: Bench) -> Iterator[Finding]:
    """Compute windows with blocks that come from the host one by one, and with all of them on the device."""
    from trainer.devices.precision import autocast
    from trainer.model.held import held_on

    batch, precision = bench.of_size(256, 2), "bf16"
    image_BCHW = torch.ones(batch, 4, 64, 64, dtype=torch.int16, device=bench.device)
    heights, seconds, most = [], [], []
    for by_block in (False, True):
        regressor = bench.regressor(bench.large).cpu()
        blocks = sum(weight.nbytes for weight in regressor.backbone.model.layer.parameters()) / 2e9
        with bench.peak() as measured:
            held_on(regressor, precision, bench.device, by_block)
            with torch.inference_mode(), autocast(precision, bench.device):
                for _ in range(2):
                    heights.append(regressor.predict(image_BCHW)[0])
                seconds.append(bench.seconds(partial(regressor.predict, image_BCHW), 3))
        most.append(measured[0])
        depth = len(regressor.backbone.model.layer)
    yield holds("block by block: the same bits, twice", all(torch.equal(heights[0], one) for one in heights))
    yield Finding("block by block: time beside all blocks on the device", seconds[1] / seconds[0], "x")
    if bench.on_gpu:
        spared = (most[0] - most[1]) / (blocks * (1 - 2 / depth))
        yield at_least("memory spared, beside all blocks but two", spared, 0.9, "x")


def seven_billion(bench: Bench) -> Iterator[Finding]:
    """Compute windows with a frozen backbone of 7 billion weights, held in bfloat16."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    if bench.on_gpu and torch.cuda.mem_get_info(bench.device)[0] < 20e9:
        raise Left("needs 20 GB of memory on the device")
    shape = {**(SMALL if bench.tiny else SEVEN_BILLION), "num_channels": len(SEEN)}
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with bench.peak() as measured:
        with torch.device("meta"):
            backbone = DINOv3ViTModel(DINOv3ViTConfig(**shape)).to(torch.bfloat16)
        backbone.to_empty(device=bench.device).requires_grad_(False).eval()
        for weight in (*backbone.parameters(), *backbone.buffers()):
            weight.fill_(0.01)
        batch = bench.of_size(64, 2)
        pixels_BCHW = torch.zeros(batch, len(SEEN), 64, 64, device=bench.device, dtype=torch.bfloat16)
        with torch.inference_mode():
            seconds = bench.seconds(lambda: backbone(pixels_BCHW), 2)
    weights = sum(weight.numel() for weight in backbone.parameters())
    yield Finding(
        f"{weights / 1e9:.1f} billion weights, frozen, bfloat16: forward", batch / seconds, "chips/s"
    )
    if bench.on_gpu:
        yield at_most("memory, beside the weights' own bytes", measured[0] / (2 * weights / 1e9), 1.2, "x")
