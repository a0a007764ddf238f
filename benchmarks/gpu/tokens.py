"""Stored tokens: as the CPU's, and what a step with them takes."""

import shutil
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import FROZEN_TOKENS, SMALL, Bench, Finding, apart, at_most, steps_of


def stored_tokens(bench: Bench) -> Iterator[Finding]:
    """Fill a token store, compare the losses of training with the CPU's, and measure a step."""
    steps = bench.of_size(10, 2)
    losses = []
    for name, device in (("cpu", torch.device("cpu")), ("device", bench.device)):
        store = bench.folder / f"tokens-{name}"
        shutil.rmtree(store, ignore_errors=True)
        config = bench.config(
            bench.chips(64), SMALL, token_store=str(store), batch_size=16, epochs=50, **FROZEN_TOKENS
        )
        losses.append(steps_of(bench.fit(config, device), steps))
    yield at_most("losses from stored tokens, difference from the CPU's", apart(losses[1], losses[0]), 1e-3)
    batch = bench.of_size(256, 16)
    store = str(bench.folder / "tokens-large")
    config = bench.config(
        bench.chips(4 * batch),
        bench.large,
        token_store=store,
        precision=bench.fast,
        batch_size=batch,
        epochs=10**6,
        **FROZEN_TOKENS,
    )
    with bench.peak() as measured:
        fit = bench.fit(config)
    held = sum(one.nbytes for one in fit.model.backbone.parameters() if one.device.type == bench.device.type)
    if bench.on_gpu:
        yield at_most("the backbone's bytes on the device", held / 1e9, 0.001, "GB")
        yield Finding("memory while tokens were computed", measured[0], "GB")
    steps_of(fit, 3)
    rounds = bench.of_size(40, 2)
    seconds = bench.seconds(lambda: steps_of(fit, rounds), 1, 0) / rounds
    yield Finding(f"a step of {batch} chips from stored tokens", seconds * 1e3, "ms")
