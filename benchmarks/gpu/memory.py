"""Memory: sharding over one rank, too little of it, and a backbone of 7 billion weights."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
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
from benchmarks.gpu.maps import scene_of

if TYPE_CHECKING:
    from trainer.devices.choice import Precision

WIDE = {
    **SMALL,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
}


SHARDED: "tuple[tuple[str, Precision, Precision], ...]" = (
    ("float32", "float32", "float32"),
    ("bf16 by autocast alone", "float32", "bf16"),
    ("bf16", "bf16", "bf16"),
)
"""Ways to train a sharded model: name, precision of gathered matrices, and precision of the pass."""


def sharded_on_one_rank(bench: Bench) -> Iterator[Finding]:
    """Train a sharded model with a process group of one rank; compare the memory of ways to use bfloat16."""
    from trainer.devices.precision import autocast
    from trainer.devices.sharding import shard

    most = dict[str, float]()
    with _one_rank(bench):
        for name, gathered, computed in SHARDED:
            regressor = bench.regressor(SMALL if bench.tiny else WIDE).cpu().train()
            with bench.peak() as measured:
                shard(regressor, regressor.blocks(), bench.device, gathered)
                image_BCHW = torch.ones(8, 4, 64, 64, dtype=torch.int16, device=bench.device)
                with autocast(computed, bench.device):
                    height_BHW, _ = regressor(image_BCHW)
                height_BHW.float().sum().backward()
            known = all(one.grad is None or one.grad.isfinite().all() for one in regressor.parameters())
            yield holds(f"sharded, {name}: gradients are numbers", bool(known))
            most[name] = measured[0]
            if bench.on_gpu:
                yield Finding(f"sharded, {name}: most memory of a step", measured[0], "GB")
    if bench.on_gpu:
        share = most["bf16"] / most["bf16 by autocast alone"]
        yield at_most("sharded, bf16: memory beside autocast alone", share, 0.9, "x")


def synchronised_norm(bench: Bench) -> Iterator[Finding]:
    """Train a step with batch norm that ranks share, on one rank, and compare it with plain batch norm."""
    from torch.nn.parallel import DistributedDataParallel

    from trainer.decoders.batch_norm import BatchNorms

    def added_up(sums: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(sums)
        return sums

    losses = list[float]()
    with _one_rank(bench):
        for together in (False, True):
            regressor = bench.regressor(SMALL, norm="batch").train()
            if together:
                BatchNorms(regressor, added_up)
            parallel = DistributedDataParallel(regressor, gradient_as_bucket_view=True)
            image_BCHW = torch.ones(8, 4, 64, 64, dtype=torch.int16, device=bench.device)
            height_BHW, _ = parallel(image_BCHW)
            loss = height_BHW.float().square().mean()
            loss.backward()
            losses.append(loss.item())
    yield at_most("batch norm of ranks beside plain: loss", abs(losses[1] / losses[0] - 1), 1e-4)


@contextmanager
def _one_rank(bench: Bench) -> Iterator[None]:
    """Hold a process group of one rank."""
    import torch.distributed as distributed

    with tempfile.TemporaryDirectory() as scratch:
        backend = "nccl" if bench.on_gpu else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{scratch}/meet", rank=0, world_size=1)
        try:
            yield
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


def windows_that_do_not_fit(bench: Bench) -> Iterator[Finding]:
    """Predict a block with more windows at a time than fit beside what fills the device."""
    from inference.predict.block_tasks import MapJob
    from inference.predict.map_content import MapContent
    from inference.predict.map_options import MapOptions
    from inference.predict.predictor import Predictor
    from inference.tiling.halo import Halo
    from inference.tiling.windows import Block, Span, WindowGrid

    side, size = bench.of_size(2048, 128), bench.of_size(2048, 8)
    regressor = bench.regressor(bench.large)
    image_CHW, whole = scene_of(side), Span(0, side)
    stored, sizes = [], []
    for fills in (False, True):
        options = MapOptions(WindowGrid(64, 32), batch_size=size)
        job = MapJob(
            "",
            "",
            regressor.schema,
            options,
            MapContent(),
            (),
            "",
            side,
            bench.device.type,  # type: ignore[arg-type]
        )
        predictor = Predictor(job, regressor)
        ready = predictor.ready(Block(whole, whole), Halo(image_CHW, 0, 0, (side, side)))
        filler = _filled(bench, regressor, size) if fills else None
        predicted = predictor(ready)
        del filler
        stored.append(predicted.stored_CHW.astype(np.int32))
        sizes.append(predicted.batch_size)
    yield holds(f"windows at a time: {sizes[0]}, then {sizes[1]} that fit", sizes[0] == size > sizes[1])
    largest = float(np.abs(stored[0] - stored[1]).max())
    yield at_most("heights of the smaller batch, largest difference", largest, 1, "decimetres")


def _filled(bench: Bench, regressor: Any = None, windows: int = 0) -> Any:
    """Leave little of the device's memory.

    On a CPU fail as if there were none, or let the regressor fail with more than half as many windows.
    """
    if bench.on_gpu:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(bench.device)
        return torch.empty(max(0, free - 10**9), dtype=torch.uint8, device=bench.device)
    error = RuntimeError("not enough memory: you tried to allocate 2.00 GiB")
    if regressor is None:
        error.add_note("in epoch 1, step 1")
        raise error

    def refuse(module: Any, inputs: Any) -> None:
        if len(inputs[0]) > windows // 2:
            raise error

    return regressor.normalise.register_forward_pre_hook(refuse)


def block_by_block(bench: Bench) -> Iterator[Finding]:
    """Compute windows with blocks that come from the host one by one, and with all of them on the device."""
    from trainer.devices.precision import autocast
    from trainer.model.frozen_backbone import placed_on

    batch, precision = bench.of_size(256, 2), "bf16"
    image_BCHW = torch.ones(batch, 4, 64, 64, dtype=torch.int16, device=bench.device)
    heights, seconds, most = [], [], []
    for by_block in (False, True):
        regressor = bench.regressor(bench.large).cpu()
        blocks = sum(weight.nbytes for weight in regressor.backbone.model.layer.parameters()) / 2e9
        with bench.peak() as measured:
            placed_on(regressor, precision, bench.device, by_block)
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
    """Compute windows with a frozen backbone of 7 billion weights, rounded to bfloat16."""
    from trainer.devices.precision import autocast
    from trainer.model.device_room import block_bytes
    from trainer.model.empty_backbone import empty_backbone
    from trainer.model.frozen_backbone import placed_on
    from trainer.weights.weights_file import fill

    if bench.on_gpu and torch.cuda.mem_get_info(bench.device)[0] < 20e9:
        raise Left("needs 20 GB of memory on the device")
    precision: Precision = "bf16"
    shape = {**(SMALL if bench.tiny else SEVEN_BILLION), "num_channels": len(SEEN)}
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    backbone = empty_backbone(shape).eval()
    number = torch.tensor(0.01)
    # Views of one number: until they are rounded, the weights take no memory of the host.
    fill(backbone, {name: number.expand(one.shape) for name, one in backbone.state_dict().items()})
    weights = sum(weight.numel() for weight in backbone.parameters())
    nbytes = block_bytes(backbone, precision)
    with bench.peak() as measured:
        placed_on(backbone, precision, bench.device, by_block=False)
        batch = bench.of_size(64, 2)
        pixels_BCHW = torch.zeros(batch, len(SEEN), 64, 64, device=bench.device)
        with torch.inference_mode(), autocast(precision, bench.device):
            seconds = bench.seconds(lambda: backbone(pixels_BCHW), 2)
    yield Finding(
        f"{weights / 1e9:.1f} billion weights, frozen, bfloat16: forward", batch / seconds, "chips/s"
    )
    if bench.on_gpu:
        yield at_most("memory, beside the blocks' own bytes", measured[0] / (nbytes / 1e9), 1.2, "x")
