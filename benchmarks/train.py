"""Chips a second in training: the notebook's loop, ours, and ours from stored tokens, one after the other.

python benchmarks/train.py --backbone vits                     # on this machine's CPU
python benchmarks/train.py --backbone vitl --device cuda       # on a GPU: model FLOPs utilisation, too

(a) notebook    two .npy files a sample, a DataLoader, full precision, the frozen backbone asked every time,
                the residual decoder of 512 256 128 64 with batch norm, AdamW, DataParallel on several GPUs
(b) Treeline    the same backbone and decoder, read from a dataset
(c) + tokens    the same from a token store, filled before the clock starts
(d) recipe      --recipe treeline with the same backbone, without and with a token store

Each contender runs in a process of its own; the first steps are not counted. Weights are random, which takes
the same time. torch.utils.flop_counter counts GFLOP, a multiply-add as two; --peak-tflops is the GPU's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.bench import VITL  # noqa: E402
from benchmarks.ingest import write_pairs  # noqa: E402
from ingest.config import PairsConfig  # noqa: E402
from ingest.files.pairs_source import PairsSource  # noqa: E402
from ingest.work.run import ingest  # noqa: E402
from shards.read.dataset import open_dataset  # noqa: E402
from trainer.commands.train import new_fit  # noqa: E402
from trainer.config import RECIPES, TrainConfig  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.fit.loop import Fit  # noqa: E402
from trainer.model.backbone import TINY, build_backbone  # noqa: E402
from trainer.model.make import new_regressor  # noqa: E402
from trainer.run_folder.state_callback import StateCallback  # noqa: E402

SHAPES = {
    "tiny": TINY,
    "vits": {**TINY, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12},
    "vitl": VITL,
}
NOTEBOOK = {
    "recipe": "notebook",
    "decoder": "residual",
    **{k: v for k, v in RECIPES["notebook"].items() if k not in ("backbone", "batch_per_worker", "schedule")},
    "schedule": "constant",
}
WARM_UP_STEPS = 3


class EnoughSteps(Exception):
    """Raised to end training after enough steps."""


class Stopwatch(StateCallback):
    """Callback that times the steps after the first few."""

    def __init__(self, steps: int, device: torch.device) -> None:
        super().__init__()
        self.steps, self.device, self.chips, self.seconds, self.count = steps, device, 0, 0.0, 0
        self.start = 0.0

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.count += 1
        if self.count > WARM_UP_STEPS:
            self.chips += chips
        if self.count == WARM_UP_STEPS + self.steps:
            finish(self.device)
            self.seconds = time.perf_counter() - self.start
            raise EnoughSteps
        if self.count == WARM_UP_STEPS:
            finish(self.device)
            self.start = time.perf_counter()


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_chips(folder: Path, chips: int) -> None:
    """Write pairs of .npy files, and a dataset made from them."""
    write_pairs(folder, chips)
    config = PairsConfig(images=f"{folder}/images", heights=f"{folder}/heights", out=f"{folder}/set")
    ingest(PairsSource(config), config)


class Files(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples as the notebook reads them: a pair of files each, three of four bands, scaled."""

    def __init__(self, folder: Path, keys: list[str]) -> None:
        self.folder, self.keys = folder, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_CHW = np.load(self.folder / "images" / f"{self.keys[place]}.npy")[[3, 2, 1]].astype(np.float32)
        height_HW = np.load(self.folder / "heights" / f"{self.keys[place]}.npy").astype(np.float32)
        return torch.from_numpy(image_CHW / 5000.0), torch.from_numpy(height_HW)


def run_notebook(options: argparse.Namespace, config: TrainConfig, device: torch.device) -> tuple[int, float]:
    dataset = open_dataset(config.data)
    keys = [dataset.index["key"][int(chip)].as_py() for chip in dataset.chips("train")]
    regressor = new_regressor(dataset, config.model).to(device).train()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.decoder = regressor.backbone, regressor.decoder

        def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            return regressor.heights(pixels_BCHW)

    model: Any = Model().to(device)
    if torch.cuda.device_count() > 1:
        model = torch.nn.DataParallel(model)
    loader = torch.utils.data.DataLoader(
        Files(Path(options.folder), keys), config.fit.batch_size, shuffle=True, num_workers=2, drop_last=True
    )
    optimiser = torch.optim.AdamW(regressor.decoder.parameters(), lr=5e-5, weight_decay=1e-3)
    chips, start, count = 0, 0.0, 0
    while True:
        for pixels_BCHW, height_BHW in loader:
            predicted_BHW = model(pixels_BCHW.to(device))
            error_BHW = predicted_BHW - height_BHW.to(device)
            loss = (error_BHW.square() * torch.where(error_BHW < 0, 3.0, 1.0)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
            count += 1
            chips += len(pixels_BCHW) if count > WARM_UP_STEPS else 0
            if count == WARM_UP_STEPS + options.steps:
                finish(device)
                return chips, time.perf_counter() - start
            if count == WARM_UP_STEPS:
                finish(device)
                start = time.perf_counter()


def run_ours(options: argparse.Namespace, config: TrainConfig, device: torch.device) -> tuple[int, float]:
    config = config.with_options(epochs=1_000_000)
    watch = Stopwatch(options.steps, device)
    with suppress(EnoughSteps):
        new_fit(config, Ranks(device=device)).run(watch)
    return watch.chips, watch.seconds


def gflop_of(config: TrainConfig) -> tuple[float, float]:
    """Count GFLOP per chip in the forward pass: of the backbone and of the decoder."""
    dataset = open_dataset(config.data)
    regressor = new_regressor(dataset, config.model).eval()
    pixels_BCHW = torch.zeros(1, len(config.model.bands), 64, 64)
    with torch.no_grad():
        with FlopCounterMode(display=False) as backbone:
            features = regressor.features(pixels_BCHW)
        with FlopCounterMode(display=False) as decoder:
            regressor.decode(features, pixels_BCHW)
    return backbone.get_total_flops() / 1e9, decoder.get_total_flops() / 1e9


def config_of(options: argparse.Namespace, name: str) -> TrainConfig:
    values: dict[str, Any] = dict(NOTEBOOK) if not name.startswith("recipe") else dict(RECIPES["treeline"])
    values |= {
        "backbone": f"{options.folder}/backbone",
        "batch_size": options.batch_size,
        "batch_per_worker": 0,
        "tune": "frozen",
        "precision": "bf16"
        if "bf16" in name or (options.device == "cuda" and "notebook" not in name)
        else "float32",
        "average": 0.0,
    }
    if "tokens" in name:
        values |= {"token_store": f"{options.folder}/tokens", "flips": False}
        values |= {"brightness": 0.0, "band_dropout": 0.0}
    return TrainConfig.of(f"{options.folder}/set", "", **values)


CONTENDERS = ("notebook", "Treeline", "Treeline, bf16", "Treeline, tokens", "recipe", "recipe, tokens")


def run_one(options: argparse.Namespace) -> None:
    """Run a contender in the process that `main` starts."""
    torch.manual_seed(0)
    device, config = torch.device(options.device), config_of(options, options.one)
    run = run_notebook if options.one == "notebook" else run_ours
    chips, seconds = run(options, config, device)
    print(json.dumps([chips / seconds, *gflop_of(config)]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=SHAPES, default="vits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--chips", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="peak of the GPU in dense bfloat16")
    parser.add_argument("--only", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--folder", default="")
    parser.add_argument("--one", default="")
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = scratch
        write_chips(Path(scratch), options.chips)
        build_backbone({**SHAPES[options.backbone], "num_channels": 3}).save_pretrained(f"{scratch}/backbone")
        rates: dict[str, list[float]] = {name: [] for name in options.only}
        gflop: dict[str, tuple[float, float]] = {}
        for _ in range(options.repeats):
            for name in options.only:
                command = [sys.executable, __file__, "--one", name, "--folder", scratch]
                for flag in ("backbone", "device", "batch_size", "steps"):
                    command += [f"--{flag.replace('_', '-')}", str(getattr(options, flag))]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rate, *counted = json.loads(done.stdout.splitlines()[-1])
                rates[name].append(rate)
                gflop[name] = (counted[0], counted[1])
    print(f"{options.backbone}, {options.device}, torch {torch.__version__}, batches of {options.batch_size}")
    for name in options.only:
        rate, (backbone, decoder) = statistics.median(rates[name]), gflop[name]
        line = f"  {name:18}{rate:9,.1f} chips/s ({min(rates[name]):,.1f}-{max(rates[name]):,.1f})"
        if "notebook" in rates:
            ratios = [ours / theirs for ours, theirs in zip(rates[name], rates["notebook"], strict=True)]
            line += f", {statistics.median(ratios):.2f} times the notebook's"
        # A backward pass costs two forward passes of the part that learns.
        spent = 3 * decoder + (0 if "tokens" in name else backbone)
        line += f"; backbone {backbone:.2f}, decoder {decoder:.2f} GFLOP forward, {spent:.1f} in training"
        if options.device == "cuda":
            line += f", {rate * spent / options.peak_tflops / 1e3:.1%} of the peak"
        print(line, flush=True)


if __name__ == "__main__":
    main()
