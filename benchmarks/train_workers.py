"""Chips a second on one worker and on two, each with one core: the loss from working together.

python benchmarks/train_workers.py --backbone vits

A worker is a process of one thread that runs a Ray worker's loop, connected by gloo, with --batch-size chips
a step. "linear" means that two workers, each on its own core, train twice as many chips a second as one.
"apart" means two independent processes at the same time, the most that this machine's two cores can do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.train import SHAPES, EnoughSteps, Stopwatch, config_of, write_chips  # noqa: E402
from trainer.commands.train import new_fit  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.model.backbone import build_backbone  # noqa: E402

CONTENDERS = ("Treeline", "Treeline, bf16", "recipe")


def run_one(options: argparse.Namespace) -> None:
    """Run one rank; print chips a second over all ranks."""
    torch.manual_seed(0)
    if options.world_size > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{options.folder}/{options.meeting}",
            rank=options.rank,
            world_size=options.world_size,
        )
    ranks, config = Ranks(options.rank, options.world_size), config_of(options, options.one)
    config = config.with_options(epochs=1_000_000, batch_size=options.batch_size * options.world_size)
    watch = Stopwatch(options.steps, ranks.device)
    with suppress(EnoughSteps):
        new_fit(config, ranks).run(watch)
    print(json.dumps(watch.chips / watch.seconds), flush=True)
    # The process group may outlive its holder, and would wait for the other rank at exit.
    os._exit(0)


def rate(options: argparse.Namespace, name: str, processes: int, together: bool) -> float:
    """Measure chips a second over this many processes at a time."""
    meeting = f"meeting-{os.urandom(4).hex()}"
    started = []
    for number in range(processes):
        rank, world_size = (number, processes) if together else (0, 1)
        command = [sys.executable, __file__, "--one", name, "--folder", options.folder]
        command += ["--rank", str(rank), "--world-size", str(world_size), "--meeting", meeting]
        command += ["--steps", str(options.steps), "--batch-size", str(options.batch_size)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
    rates = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return min(rates) if together else sum(rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=SHAPES, default="vits")
    parser.add_argument("--batch-size", type=int, default=16, help="chips a step and worker")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    for name in ("one", "folder", "meeting"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--world-size", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = "cpu"
    if options.one:
        run_one(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = scratch
        write_chips(Path(scratch), 512)
        build_backbone({**SHAPES[options.backbone], "num_channels": 3}).save_pretrained(f"{scratch}/backbone")
        print(f"{options.backbone}, torch {torch.__version__}, {options.batch_size} chips a step and worker")
        for name in CONTENDERS:
            rounds = [
                [rate(options, name, *how) for how in ((1, True), (2, False), (2, True))]
                for _ in range(options.repeats)
            ]
            one, apart, two = (statistics.median(column) for column in zip(*rounds, strict=True))
            linear = statistics.median(two / one / 2 for one, _, two in rounds)
            of_apart = statistics.median(two / apart for _, apart, two in rounds)
            print(
                f"  {name:16} one {one:7.1f} chips/s, two {two:7.1f}: {linear:.2f} of linear; apart "
                f"{apart:7.1f}: {of_apart:.2f} of that",
                flush=True,
            )


if __name__ == "__main__":
    main()
