"""Scoring beside training: sums of scores on the device."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, Finding, as_figure, at_least, at_most, steps_of


def scoring(bench: Bench) -> Iterator[Finding]:
    """Measure the scores of chips alone, and a validation beside a training of as many chips."""
    from trainer.devices.exact_sums import exact_sums
    from trainer.devices.score_sums import chip_sums
    from trainer.score.exact_totals import rounded

    generator = np.random.default_rng(0)
    batch, rounds = bench.of_size(256, 16), bench.of_size(80, 2)
    heights = [
        torch.from_numpy(generator.exponential(3, (batch, 64, 64)).astype(np.float32)) for _ in range(2)
    ]
    predicted_BHW, measured_BHW = (one.to(bench.device) for one in heights)

    def add_up() -> list:
        return [exact_sums(chip_sums(predicted_BHW, measured_BHW)) for _ in range(rounds)]

    seconds = bench.seconds(add_up, 1)
    yield Finding(f"scores of {batch * rounds:,} chips", batch * rounds / seconds, "chips/s")
    ours = rounded(exact_sums(chip_sums(predicted_BHW, measured_BHW)).cpu().numpy())
    theirs = rounded(exact_sums(chip_sums(*heights)).numpy())
    away = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-12)))
    yield at_most("sums of scores, difference from the CPU's", away, 1e-9)

    chips = bench.of_size(4096, 32)
    dataset = bench.chips(chips, val=chips)
    config = bench.config(
        dataset,
        bench.large,
        tune="frozen",
        precision=bench.fast,
        batch_size=bench.of_size(256, 16),
        epochs=10**6,
    )
    fit = bench.fit(config)
    steps = fit.steps_per_epoch
    steps_of(fit, 2)
    training = bench.seconds(lambda: steps_of(fit, steps), 1, 0)
    validation = bench.seconds(lambda: fit.score(fit.learning.val_chips), 1)
    yield Finding("training", chips / training, "chips/s")
    yield Finding("validation", chips / validation, "chips/s")
    beside = at_least("validation beside training", training / validation, 1, "x")
    yield beside if bench.on_gpu else as_figure(beside)
