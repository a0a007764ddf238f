"""Losses on the device are the CPU's, by precision and option; and the same bits in every run."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.bench import NARROW, SMALL, Bench, Finding, apart, at_most, equal, steps_of

CPU = torch.device("cpu")
LOSSES = ("asymmetric(factor=1.3)", "gradient:0.1")
WITH_OPTIONS: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("float32", {}, 1e-4),
    ("tf32", {"precision": "tf32"}, 1e-2),
    ("bf16", {"precision": "bf16"}, 5e-2),
    ("fp16", {"precision": "fp16"}, 5e-2),
    ("--accumulate 2", {"accumulate": 2}, 1e-4),
    ("--recompute-activations", {"recompute_activations": True}, 1e-4),
    ("--average 0.9", {"average": 0.9}, 1e-4),
    ("--compile", {"compile": True}, 1e-3),
)
"""What is tried, and by which share its losses may differ from the CPU's in float32."""


def losses_as_on_cpu(bench: Bench) -> Iterator[Finding]:
    """Compare the losses of some steps with those of the CPU in float32."""
    steps = bench.of_size(30, 3)
    dataset = bench.chips(64)
    config = bench.config(
        dataset, SMALL, tune="all", batch_size=16, epochs=50, loss=LOSSES, decoder_widths=NARROW
    )
    expected = steps_of(bench.fit(config, CPU), steps)
    for what, options, share in WITH_OPTIONS:
        if options.get("compile") and bench.tiny:
            continue  # compiling takes minutes on a small machine; tests of training do it
        found = steps_of(bench.fit(config.with_options(**options)), steps)
        yield at_most(
            f"{what}: {steps} steps, difference from the CPU's losses", apart(found, expected), share
        )
        torch.compiler.reset()


def run_changes_device(bench: Bench) -> Iterator[Finding]:
    """Resume on the device what the CPU began, and the other way round."""
    from trainer.run_folder.state import restore, state_of
    from trainer.run_folder.state_parts import StateWriter, StoredState

    half = bench.of_size(10, 2)
    config = bench.config(bench.chips(64), SMALL, tune="all", batch_size=16, epochs=50, average=0.9)
    expected = steps_of(bench.fit(config, CPU), 2 * half)
    for what, first, second in (
        ("CPU, then device", CPU, bench.device),
        ("device, then CPU", bench.device, CPU),
    ):
        fit = bench.fit(config, first)
        losses = steps_of(fit, half)
        out = str(bench.folder / "states" / what.replace(", ", "-").replace(" ", "-"))
        StateWriter(out).write(state_of(fit))
        resumed = bench.fit(config, second)
        with StoredState(out) as state:
            restore(resumed, state)
        losses += steps_of(resumed, half)
        yield at_most(f"{what}: difference from the CPU's losses", apart(losses, expected), 1e-4)


def same_bits_twice(bench: Bench) -> Iterator[Finding]:
    """Train twice with --deterministic, by every decoder, also on an odd number of patches."""
    steps = bench.of_size(5, 2)
    trainings: list[tuple[str, dict[str, Any], int]] = [
        (decoder, {"decoder": decoder}, 64) for decoder in ("detail", "residual", "dpt", "linear")
    ]
    trainings.append(("patch_gradient", {"loss": ("squared", "patch_gradient:0.1")}, 64))
    trainings.append(("dpt on 5 x 5 patches", {"decoder": "dpt"}, 80))
    for what, options, size in trainings:
        config = bench.config(
            bench.chips(32, size=size),
            SMALL,
            tune="all",
            batch_size=8,
            epochs=50,
            deterministic=True,
            **options,
        )
        weights = []
        for _ in range(2):
            fit = bench.fit(config)
            steps_of(fit, steps)
            weights.append([one.detach().clone() for one in fit.model.parameters()])
        same = all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
        yield equal(f"{what}: weights after {steps} steps, twice", same)
