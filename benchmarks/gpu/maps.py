"""The same map for other blocks, batches and runs, by decoder and precision."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu.bench import BANDS, SMALL, Bench, Finding, at_most, equal, holds, waves

if TYPE_CHECKING:
    from inference.predict.map_options import MapOptions
    from trainer.model.regressor import Regressor

DECODERS = ("detail", "residual", "dpt")
NODATA = -9999


def scene_of(side: int) -> np.ndarray:
    """Return an image_CHW of a scene: noise on waves, with a hole."""
    generator = np.random.default_rng(1)
    image_CHW = 1500 + 700 * waves(side) + generator.normal(0, 200, (len(BANDS), side, side))
    stored_CHW = np.clip(image_CHW, 1, 3000).astype(np.int16)
    stored_CHW[:, side // 3 : side // 2, side // 4 : side // 3] = NODATA
    return stored_CHW


def map_of(regressor: "Regressor", image_CHW: np.ndarray, side: int, method: "MapOptions") -> np.ndarray:
    """Predict the metres_HW of a scene in blocks of `side`, NaN where there is no value."""
    from inference.predict.block import metres_of_block
    from inference.predict.ready_block import ready_block
    from inference.tiling.halo import Halo, halo_block
    from inference.tiling.windows import blocks_of
    from trainer.devices.precision import predicting

    shape = image_CHW.shape[1], image_CHW.shape[2]
    metres_HW = np.empty(shape, np.float32)
    for block in blocks_of(*shape, side):
        needed = halo_block(block, method.grid, shape)
        read_CHW = image_CHW[
            :, needed.rows.start : needed.rows.stop, needed.columns.start : needed.columns.stop
        ]
        halo = Halo(read_CHW, needed.rows.start, needed.columns.start, shape)
        device = next(regressor.parameters()).device
        ready = ready_block(regressor.normalise, block, halo, method.grid, device)
        with predicting(method.precision):
            (values_HW, *_), valid_HW = metres_of_block(regressor, ready, method)
        place = slice(block.rows.start, block.rows.stop), slice(block.columns.start, block.columns.stop)
        metres_HW[place] = np.where(valid_HW.cpu().numpy(), values_HW.cpu().numpy(), np.nan)
    return metres_HW


def same_maps(bench: Bench) -> Iterator[Finding]:
    """Predict one scene in several ways."""
    from inference.predict.map_options import MapOptions
    from inference.tiling.windows import WindowGrid

    side, batch, larger = bench.of_size(1024, 96), bench.of_size(32, 4), bench.of_size(256, 16)
    image_CHW = scene_of(side)
    method = MapOptions(WindowGrid(64, 32), batch_size=batch)
    for decoder in DECODERS:
        regressor = bench.regressor(SMALL, decoder=decoder)
        for precision in ("float32", "bf16") if decoder == "detail" else ("float32",):
            here: MapOptions = replace(method, precision=precision)
            whole_HW = map_of(regressor, image_CHW, side, here)

            def differs(other_HW: np.ndarray, whole_HW: np.ndarray = whole_HW) -> float:
                return float(np.nanmax(np.abs(other_HW - whole_HW)))

            what = f"{decoder}, {precision}"
            again_HW = map_of(regressor, image_CHW, side, here)
            yield equal(f"{what}: predicted twice", np.array_equal(again_HW, whole_HW, equal_nan=True))
            for block in (side // 2, 3 * side // 8):
                other_HW = map_of(regressor, image_CHW, block, here)
                same = np.array_equal(other_HW, whole_HW, equal_nan=True)
                yield equal(f"{what}: blocks of {block} and of {side}", same)
                if not same:
                    yield Finding(f"{what}: blocks of {block}, largest difference", differs(other_HW), "m")
            larger_HW = map_of(regressor, image_CHW, side, replace(here, batch_size=larger))
            most = 1e-5 if precision == "float32" else 0.1
            yield at_most(f"{what}: batches of {larger} and of {batch}", differs(larger_HW), most, "m")
            yield from _beside_cpu(bench, decoder, precision, image_CHW, whole_HW, here)


def _beside_cpu(
    bench: Bench, decoder: str, precision: str, image_CHW: np.ndarray, whole_HW: np.ndarray, method: Any
) -> Iterator[Finding]:
    """Compare a corner of the map with the CPU's, in float32."""
    side = min(256, len(whole_HW))
    regressor = bench.regressor(SMALL, decoder=decoder).cpu()
    # Windows beyond the corner reach into it, so the CPU sees as much of the scene as they do.
    seen_CHW = image_CHW[:, : side + 64, : side + 64]
    on_cpu_HW = map_of(regressor, seen_CHW, len(seen_CHW[0]), replace(method, precision="float32"))
    inner = slice(0, side - 64)
    ours_HW, cpu_HW = whole_HW[inner, inner], on_cpu_HW[inner, inner]
    what = f"{decoder}, {precision}"
    difference_HW = np.abs(ours_HW - cpu_HW)
    most = 1e-4 if precision == "float32" else 0.5
    yield at_most(f"{what}: difference from the CPU's float32", float(np.nanmax(difference_HW)), most, "m")
    known_HW = np.isfinite(ours_HW)
    share = float((np.rint(ours_HW[known_HW] * 10) != np.rint(cpu_HW[known_HW] * 10)).mean())
    yield Finding(f"{what}: other decimetres than the CPU's", 100 * share, "%")


def flags_are_set(bench: Bench) -> Iterator[Finding]:
    """Look whether prediction forbids TF32 and asks for repeatable convolutions, and restores both."""
    from trainer.devices.precision import predicting

    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32
    with predicting("float32"):
        yield holds(
            "convolutions are deterministic, and not in TF32", cudnn.deterministic and not cudnn.allow_tf32
        )
    yield holds("settings are as before", before == (cudnn.deterministic, cudnn.allow_tf32))
