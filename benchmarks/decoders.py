"""Cost of each decoder beside its backbone, or its scores, as a Markdown table.

    python benchmarks/decoders.py                                        # the tiny backbone, on the CPU
    python benchmarks/decoders.py --backbone vitl --device cuda --batch-size 256
    python benchmarks/decoders.py --scores runs --demo demo-out --tahoe FOLDER    # after make demo

Decoders read stored features, so times exclude the backbone, as in training from stored tokens of a frozen
backbone. A chip is 64 x 64 pixels; a multiply-add counts as 2 operations. Weights are random, which takes the
same time. Scores are those of the tiny backbone, trained with the decoder: on the demo's unseen chips, and on
the map of the east half of Tahoe as in tests/whole/test_tahoe.py.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from trainer.commands.train_on_ray import launch  # noqa: E402
from trainer.config import RECIPES, EvaluateConfig, TrainConfig  # noqa: E402
from trainer.decoders.features import Decoder, DecoderConfig, Features  # noqa: E402
from trainer.decoders.make import new_decoder  # noqa: E402
from trainer.evaluate.heights import evaluate  # noqa: E402
from trainer.model.backbone import TINY, build_backbone  # noqa: E402
from trainer.score.evaluation import REGRESSOR  # noqa: E402
from trainer.score.metrics import Metrics  # noqa: E402

SIDE = 64
VITS = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 16,
    "image_size": SIDE,
    "num_register_tokens": 4,
}
VITL = {
    **VITS,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
"""Shapes of DINOv3's ViT-S/16 and ViT-L/16 (transformers, DINOv3ViTConfig)."""
BACKBONES = {"tiny": TINY, "vits": VITS, "vitl": VITL}
DECODERS = {
    "linear": DecoderConfig(kind="linear"),
    "detail": DecoderConfig(kind="detail"),
    "residual, 64 32 16 8": DecoderConfig(kind="residual"),
    "residual, 512 256 128 64": DecoderConfig((512, 256, 128, 64), "batch", kind="residual"),
    "dpt": DecoderConfig(kind="dpt"),
}
TRAINED: dict[str, dict[str, Any]] = {
    "linear": {"decoder": "linear"},
    "detail": {},
    "residual": RECIPES["tiny"],
    # The weights of bins are rectified: a rate of 3e-3 can close them all.
    "dpt": {"decoder": "dpt", "learning_rate": 1e-3},
}
"""Options, besides the defaults, with which each decoder is trained to be scored."""
DEMO_EPOCHS, TAHOE_EPOCHS = 24, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--bands", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="time to measure each figure for")
    parser.add_argument("--scores", type=Path, help="new folder to train in; prints scores instead of costs")
    parser.add_argument("--demo", type=Path, help="with --scores: folder of a treeline demo")
    parser.add_argument("--tahoe", type=Path, help="with --scores: folder of tahoe_*.tif")
    parser.add_argument("--only", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the epochs to train, where time is short"
    )
    options = parser.parse_args()
    if options.scores:
        scores(options)
    else:
        costs(options)


def scores(options: argparse.Namespace) -> None:
    """Train each decoder on the demo's chips and on the west half of Tahoe, and score it beside them."""
    options.scores.mkdir(parents=True)
    print("| | data | epochs | seconds | RMSE | R2 |")
    print("|---|---|---|---|---|---|")
    for name in options.only:
        for data, score in (("demo", demo_score), ("tahoe", tahoe_score)):
            if folder := getattr(options, data):
                epochs = max(1, round(options.share * (DEMO_EPOCHS if data == "demo" else TAHOE_EPOCHS)))
                start = time.perf_counter()
                metrics = score(folder, options.scores / f"{data}-{name}", TRAINED[name] | {"epochs": epochs})
                seconds = time.perf_counter() - start
                figures = f"{epochs} | {seconds:.0f} | {metrics.rmse:.2f} m | {metrics.r2:.2f}"
                print(f"| {name} | {data} | {figures} |", flush=True)


def demo_score(demo: Path, run: Path, learning: dict[str, Any]) -> Metrics:
    """Score the chips that `treeline demo` set aside."""
    launch(TrainConfig.of(str(demo / "chips"), str(run), **learning))
    evaluation = evaluate(EvaluateConfig(str(run), str(demo / "chips-unseen"), split="all"))
    return evaluation.scores[REGRESSOR].all


def tahoe_score(tahoe: Path, run: Path, learning: dict[str, Any]) -> Metrics:
    """Score the map of the east half by a regressor trained on the west half."""
    import test_tahoe

    chips = run.with_name(f"{run.name}-chips")
    chips.mkdir()
    launch(TrainConfig.of(test_tahoe.ingest_half(tahoe, chips, "west", 8), str(run), **learning))
    east_half = slice(None), slice(test_tahoe.HALF, None)
    predicted_HW = test_tahoe.mapped(tahoe, str(run), chips)
    return test_tahoe.scored(predicted_HW[east_half], test_tahoe.measured(tahoe)[east_half])


def costs(options: argparse.Namespace) -> None:
    """Measure operations, parameters and speed of each decoder."""
    device, shape = torch.device(options.device), BACKBONES[options.backbone]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    print(f"{name}, {threads} threads, torch {torch.__version__}, batches of {options.batch_size}\n")
    print("| | GFLOP a chip | parameters | chips/s forward | chips/s forward and backward |")
    print("|---|---|---|---|---|")
    pixels_BCHW = torch.randn(options.batch_size, options.bands, SIDE, SIDE, device=device)
    backbone = build_backbone({**shape, "num_channels": options.bands}).to(device).eval()
    backbone.requires_grad_(False)
    print(row(f"backbone {options.backbone}, frozen", backbone, lambda: backbone(pixels_BCHW), options))
    for title, config in DECODERS.items():
        decoder = new_decoder(config, shape["num_hidden_layers"], shape["hidden_size"], 16, options.bands)
        decoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        features = stored_features(decoder, pixels_BCHW, shape["hidden_size"])
        print(row(title, decoder, lambda d=decoder, f=features: d(f, pixels_BCHW), options), flush=True)


def stored_features(decoder: Decoder, pixels_BCHW: Tensor, width: int) -> Features:
    """Make random features in place of a backbone's, as many as the decoder takes."""
    batch, sides = pixels_BCHW.shape[0], [side // 16 for side in pixels_BCHW.shape[-2:]]
    patches = [torch.randn(batch, width, *sides, device=pixels_BCHW.device) for _ in decoder.layers]
    classes = [torch.randn(batch, width, device=pixels_BCHW.device) for _ in decoder.layers]
    return Features(tuple(patches), tuple(classes))


def row(
    title: str, module: torch.nn.Module, forward: Callable[[], Tensor], options: argparse.Namespace
) -> str:
    """Format a line of the table; a frozen module has no backward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    gigaflops = counter.get_total_flops() / options.batch_size / 1e9
    millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6

    def ahead() -> None:
        with torch.inference_mode():
            forward()

    def and_back() -> None:
        module.zero_grad()
        forward().square().mean().backward()

    figures = [f"{gigaflops:.3f}", f"{millions:.2f} M", f"{chips_a_second(ahead, options):,.0f}"]
    learns = any(parameter.requires_grad for parameter in module.parameters())
    figures.append(f"{chips_a_second(and_back, options):,.0f}" if learns else "")
    return f"| {title} | {' | '.join(figures)} |"


def chips_a_second(step: Callable[[], None], options: argparse.Namespace) -> float:
    """Measure chips a second over `--seconds`, after two steps of warm-up, waiting for the device."""
    on_gpu = options.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    # The thread's own time leaves out what other programs took of its core.
    clock = time.process_time if not on_gpu and torch.get_num_threads() == 1 else time.perf_counter
    step()
    step()
    wait()
    steps, start = 0, clock()
    while clock() - start < options.seconds:
        step()
        wait()
        steps += 1
    return steps * float(options.batch_size) / (clock() - start)


if __name__ == "__main__":
    main()
