"""Compare the speed of two checkouts: reader, ingest, prediction and start of training, by turns.

python benchmarks/before_after.py BEFORE AFTER --turns 10

Each turn starts a process in each checkout, the first one first, then the other first. A process does its
work once to warm up, then times it. The ratio of medians is what counts: machines are shared and noisy. Both
checkouts read the same data, made by BEFORE, which may be any commit since 0.1.0.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

KINDS = ("reader", "ingest", "predict", "start")


def prepare(folder: Path) -> None:
    """Make 6,000 chips in shards, 6,000 pairs of files, a scene and a regressor below `folder`."""
    import numpy as np

    from cluster import cli

    os.chdir(folder)
    generator = np.random.default_rng(7)
    for kind in ("images", "heights"):
        Path(kind).mkdir()
    for number in range(6000):
        key = f"chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_{number:05d}_v1"
        np.save(f"images/{key}.npy", generator.integers(1, 4000, (4, 64, 64)).astype(np.int16))
        np.save(f"heights/{key}.npy", generator.gamma(2.0, 2.0, (64, 64)).astype(np.float32))
    commands = (
        "ingest synthetic --chips 6000 --shard-chips 1024 --out chips",
        "demo demo --train-scenes 2 --unseen-scenes 1 --scene-size 1024 --epochs 1",
    )
    for command in commands:
        if cli.run(command.split()):
            raise SystemExit(f"failed: {command}")


def read() -> None:
    """Read twenty epochs in batches of 64."""
    try:
        from shards import ChipReader, open_dataset
    except ImportError:  # before these names were the package's
        from shards.reader import ChipReader, open_dataset  # type: ignore[import-not-found, no-redef]
    dataset = open_dataset("chips")
    reader = ChipReader(dataset, dataset.chips("train"), batch_size=64, seed=0)
    for _ in range(20):
        for batch in reader.epoch():
            batch.image_BCHW.sum(dtype="int64")


def command(words: str) -> None:
    """Run a treeline command that writes to the folder `out`."""
    from cluster import cli

    shutil.rmtree("out", ignore_errors=True)
    if cli.run(words.split()):
        raise SystemExit(f"failed: {words}")


WORK: dict[str, Callable[[], None]] = {
    "reader": read,
    "ingest": lambda: command("ingest pairs --images images --heights heights --out out"),
    "predict": lambda: command(
        "predict demo/scenes/unseen/WV*.tif --checkpoint demo/run --out out --block 512"
    ),
    "start": lambda: command("train --data chips --out out --recipe tiny --epochs 1 --limit 64"),
}


def run_one(kind: str, folder: str) -> None:
    """Print the seconds of the second of two runs, on the wall and of this process's CPU."""
    os.chdir(folder)
    WORK[kind]()
    wall, cpu = time.perf_counter(), time.process_time()
    WORK[kind]()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))


def seconds(checkout: Path, kind: str, folder: Path) -> list[float]:
    """Time one kind of work with the code of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", __file__, "--one", kind, "--folder", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout}, {kind}: {done.stderr}")
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(before: Path, after: Path, turns: int, kinds: list[str]) -> None:
    """Let two checkouts take turns, and print medians and their ratio."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = [sys.executable, "-P", __file__, "--prepare", "--folder", scratch]
        subprocess.run(words, env={**os.environ, "PYTHONPATH": str(before)}, check=True, capture_output=True)
        for kind in kinds:
            found: dict[Path, list[list[float]]] = {before: [], after: []}
            for turn in range(turns):
                for checkout in (before, after) if turn % 2 == 0 else (after, before):
                    found[checkout].append(seconds(checkout, kind, folder))
            for number, clock in enumerate(("wall", "CPU")):
                times = {
                    checkout: sorted(pair[number] for pair in pairs) for checkout, pairs in found.items()
                }
                medians = {checkout: statistics.median(values) for checkout, values in times.items()}
                ranges = ", ".join(
                    f"{medians[checkout]:.2f} s ({times[checkout][0]:.2f}-{times[checkout][-1]:.2f})"
                    for checkout in (before, after)
                )
                print(f"{kind}, {clock}: {ranges}; after / before {medians[after] / medians[before]:.3f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, help="BEFORE AFTER")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(Path(options.folder))
    elif options.one:
        run_one(options.one, options.folder)
    elif len(options.checkouts) != 2:
        parser.error("give two checkouts")
    else:
        before, after = (checkout.resolve() for checkout in options.checkouts)
        compare(before, after, options.turns, options.kinds)


if __name__ == "__main__":
    main()
