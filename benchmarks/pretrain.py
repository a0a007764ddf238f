"""Measure a step of pre-training, and what its parts take.

python benchmarks/pretrain.py --size 64 --patch 16 --depth 4 --batch 64 --rounds 5

For both methods: a whole step (views, passes, optimiser, teacher), the passes alone, and the views alone; and
one plain forward and backward pass of the backbone over the same tiles. All take turns in each round.
Medians and their ratios are printed, and the highest memory so far.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from shards.format.schema import Chip, Schema  # noqa: E402
from shards.read.dataset import open_dataset  # noqa: E402
from shards.write.writer import DatasetWriter  # noqa: E402
from trainer.commands.pretrain import new_fit  # noqa: E402
from trainer.data.feed import Fed, feed  # noqa: E402
from trainer.data.step_inputs import StepKey  # noqa: E402
from trainer.devices.cards import chosen_here  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.fit.loop import Fit  # noqa: E402
from trainer.pretrain_config import RECIPES, PretrainConfig  # noqa: E402

CHANNELS = 12


def write_tiles(folder: Path, count: int, size: int) -> str:
    """Write noise of 12 float32 bands as a dataset; return its place."""
    schema = Schema(tuple(f"b{number}" for number in range(CHANNELS)), "float32", None, size, 10.0, "", "")
    generator = np.random.default_rng(0)
    with DatasetWriter(str(folder), schema, {"command": "benchmark"}, 64) as writer:
        for number in range(count):
            image_CHW = generator.normal(-12, 3, schema.image_shape).astype(np.float32)
            writer.add(Chip(f"tile{number:05d}", image_CHW, np.empty((0, 0), np.float32)), "train")
        writer.finish()
    return str(folder)


def step_of(fit: Fit, fed: Fed) -> Callable[[], None]:
    """Return a whole step."""

    def step() -> None:
        fit._step(fed)
        fit._settle()

    return step


def views_of(fit: Fit, fed: Fed) -> Callable[[], None]:
    """Return the making of a step's views, without the teacher."""
    objective: Any = fit.objective
    if hasattr(objective, "_taught"):

        def views() -> None:
            objective.crops(fed, StepKey(0, 0, 0))
    else:

        def views() -> None:
            objective.inputs(fed, StepKey(0, 0, 0))

    return views


def passes_of(fit: Fit, fed: Fed) -> Callable[[], None]:
    """Return the passes alone: the teacher's forward, the student's forward and backward."""
    objective: Any = fit.objective
    model: Any = fit.model
    inputs = objective.inputs(fed, StepKey(0, 0, 0))
    if hasattr(objective, "_taught"):
        crops = [one for piece in inputs.pieces(1) for one in piece.sizes]

        def passes() -> None:
            of_global = inputs.sizes[0]
            model.taught(of_global.pixels_NCSS, of_global.places_NP2, of_global.attended_NP)
            for one in crops:  # in turn, as a step does
                model(one.pixels_NCSS, one.places_NP2, one.attended_NP)[0].sum().backward()
    else:

        def passes() -> None:
            objective.sums(model, inputs)[0].backward()

    return passes


def plain_of(fit: Fit, fed: Fed) -> Callable[[], None]:
    """Return one forward and backward pass of the backbone over whole tiles."""
    model: Any = fit.model
    encoder = model.encoder if hasattr(model, "encoder") else model.student
    pixels_BCHW, _ = encoder.normalise(fed.image_BCHW)

    def plain() -> None:
        encoder.backbone(pixels_BCHW).last_hidden_state.sum().backward()

    return plain


def main() -> None:
    """Read the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--local-crops", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["mae", "dino"])
    parser.add_argument("--step-only", action="store_true", help="no other part, so memory is a step's")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(chosen_here("auto"))
    with tempfile.TemporaryDirectory() as scratch:
        data = write_tiles(Path(scratch) / "tiles", options.batch, options.size)
        for method in options.methods:
            more = {"local_crops": options.local_crops, "freeze_last_layer": 0.0} if method == "dino" else {}
            config = PretrainConfig.of(
                data,
                scratch,
                **{
                    **RECIPES[method],
                    "patch_size": options.patch,
                    "depth": options.depth,
                    "width": options.width,
                    "batch_size": options.batch,
                    "precision": options.precision,
                    **more,
                },
            )
            fit = new_fit(config, Ranks(device=device))
            fit.model.train()
            dataset = open_dataset(data)
            (fed,) = feed(dataset.batches(dataset.chips("train"), options.batch), dataset.schema, device)
            parts = {"step": step_of(fit, fed)}
            if not options.step_only:
                parts |= {
                    "passes": passes_of(fit, fed),
                    "views": views_of(fit, fed),
                    "plain": plain_of(fit, fed),
                }
            measure(method, parts, fed, options.rounds)


def measure(method: str, parts: dict[str, Callable[[], None]], fed: Fed, rounds: int) -> None:
    """Let the parts take turns, and print what each took."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            begun = time.perf_counter()
            part()
            if fed.image_BCHW.is_cuda:
                torch.cuda.synchronize()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if fed.image_BCHW.is_cuda:
        memory = torch.cuda.max_memory_allocated() / 1e9
    shown = ", ".join(
        f"{name} {medians[name]:.3f} s ({min(values):.3f}-{max(values):.3f})"
        for name, values in times.items()
    )
    print(f"{method}: {shown}")
    line = f"{method}: {len(fed.image_BCHW) / medians['step']:.0f} tiles/s, {memory:.2f} GB"
    if "passes" in medians:
        line += (
            f"; step / passes {medians['step'] / medians['passes']:.2f}, step / plain "
            f"{medians['step'] / medians['plain']:.2f}, views / step {medians['views'] / medians['step']:.2f}"
        )
    print(line)


if __name__ == "__main__":
    main()
