"""Chips, tiles and pixels a second, each beside the device's limit."""

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import FROZEN_TOKENS, VITB, Bench, Finding, at_least, at_most, steps_of

LIKE_FOR_LIKE = {
    "decoder": "residual",
    "decoder_widths": (512, 256, 128, 64),
    "norm": "batch",
    "tune": "frozen",
}
"""The decoder and backbone that users trained before."""
TRAININGS: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("like for like, frozen", LIKE_FOR_LIKE, 6000),
    ("recipe treeline, frozen", {"tune": "frozen"}, 0),
    ("recipe treeline, stored tokens", {**FROZEN_TOKENS, "token_store": "tokens"}, 40_000),
    ("recipe treeline, LoRA", {"tune": "lora"}, 0),
    ("recipe treeline, all", {"tune": "all"}, 0),
)
"""Trainings of ViT-L in bfloat16, and the chips a second that an H200 should reach; 0: no goal."""


def training_rates(bench: Bench) -> Iterator[Finding]:
    """Measure trainings of heights: chips a second, use of the device, and waiting for data."""
    for what, options, goal in TRAININGS:
        batch = bench.of_size(64 if options.get("tune") in ("all", "lora") else 256, 8)
        given = {**options, "precision": bench.fast, "batch_size": batch, "epochs": 10**6}
        if "token_store" in given:
            given["token_store"] = str(bench.folder / "tokens-rates")
        fit = bench.fit(bench.config(bench.chips(bench.of_size(4096, 32)), bench.large, **given))
        steps_of(fit, 3)
        yield from _rate(bench, what, fit, goal)


def pretraining_rates(bench: Bench) -> Iterator[Finding]:
    """Measure pre-training of ViT-B/16 on tiles of 448 pixels by both methods: tiles a second, and memory."""
    from trainer.commands.pretrain import new_fit
    from trainer.devices.ranks import Ranks
    from trainer.pretrain_config import RECIPES, PretrainConfig

    side, batch = bench.of_size(448, 64), bench.of_size(32, 4)
    data = bench.tiles(bench.of_size(128, 8), side)
    backbone = bench.backbone(VITB, 12) if not bench.tiny else "tiny"
    for method in ("mae", "dino"):
        config = PretrainConfig.of(
            data,
            str(bench.folder / "pretrain"),
            **{**RECIPES[method], "backbone": backbone, "batch_size": batch, "precision": bench.fast},
        )
        with bench.peak() as measured:
            fit = new_fit(config, Ranks(device=bench.device))
            steps_of(fit, 2)
            steps = bench.of_size(10, 1)
            seconds = bench.seconds(lambda fit=fit, steps=steps: steps_of(fit, steps), 1, 0)
        yield Finding(f"{method}, {side} px", batch * steps / seconds, "tiles/s")
        if bench.on_gpu:
            yield Finding(f"{method}, {side} px: most memory", measured[0], "GB")


def _rate(bench: Bench, what: str, fit: Any, goal: float) -> Iterator[Finding]:
    """Measure an epoch's steps."""
    from trainer.devices.clock import TimeSpent

    steps = fit.steps_per_epoch - fit.position.step % fit.steps_per_epoch
    steps_of(fit, steps)  # to an epoch's end
    clock = fit.learning.ranks.clock
    chips, steps = fit.position.chips, fit.steps_per_epoch
    seconds = bench.seconds(lambda: steps_of(fit, steps), 1, 0)
    rate = (fit.position.chips - chips) / seconds
    spent: TimeSpent = clock.spent(fit.position.chips - chips)
    yield (
        at_least(f"{what}", rate, goal, "chips/s")
        if goal and bench.on_gpu
        else Finding(what, rate, "chips/s")
    )
    tera = rate * fit.flops_per_chip / 1e12
    if limit := bench.limits.get(bench.fast):
        yield Finding(f"{what}: arithmetic, beside a product of matrices", 100 * tera / limit, "%")
    waiting = 100 * spent.share(spent.waiting)
    yield (
        at_most(f"{what}: waiting for data", waiting, 2, "%")
        if bench.on_gpu
        else Finding(f"{what}: waiting for data", waiting, "%")
    )
