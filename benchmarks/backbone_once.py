"""Bytes and seconds that an epoch takes from stored tokens, in two checkouts, by turns.

python benchmarks/backbone_once.py BEFORE AFTER --turns 3      # about five minutes

The backbone has the shape of ViT-B and random weights (343 MB). `treeline train` runs with few and with many
epochs, each in a process of its own. Bytes are those that Linux counts in write calls (wchar in
/proc/self/io): the difference tells what an epoch writes, and what a run writes beside. Seconds are the
median time from one epoch's line to the next. Both checkouts train on the same chips from the same token
store, which BEFORE makes.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "num_register_tokens": 4,
}
"""Shape of DINOv3's ViT-B/16 (Siméoni et al. 2025, arXiv:2508.10104, table 1)."""
FEW, MANY = 2, 12
TRAIN = (
    "train --data chips --backbone backbone --tune frozen --no-flips --token-store tokens --decoder linear "
    "--device cpu --batch-size 64"
)


def prepare(folder: Path) -> None:
    """Make chips, a backbone and the tokens below `folder`."""
    import torch

    from cluster import cli
    from trainer.model.backbone import build_backbone

    os.chdir(folder)
    torch.manual_seed(0)
    build_backbone(SHAPE).save_pretrained("backbone")
    for command in (
        "ingest synthetic --chips 160 --shard-chips 64 --out chips",
        f"{TRAIN} --epochs 1 --out first",
    ):
        if cli.run(command.split()):
            raise SystemExit(f"failed: {command}")


def run_one(folder: Path, epochs: int) -> None:
    """Train in this process; print bytes written and the peak of memory."""
    from cluster import cli

    os.chdir(folder)
    shutil.rmtree("run", ignore_errors=True)
    before = _written()
    if cli.run([*TRAIN.split(), "--epochs", str(epochs), "--out", "run"]):
        raise SystemExit("failed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": _written() - before, "peak": peak}))


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def in_checkout(checkout: Path, *arguments: str) -> dict[str, float]:
    """Run this script in a checkout, with its code; return what it printed, and seconds between epochs."""
    # -P: beside this script is an ingest.py.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--inside", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=checkout, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        times = [time.perf_counter() for line in process.stderr if line.startswith("epoch ")]
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{checkout}: failed")
    between = [later - earlier for earlier, later in itertools.pairwise(times)]
    told: dict[str, float] = json.loads(said.splitlines()[-1]) if len(arguments) > 1 else {}
    return {**told, "seconds": statistics.median(between or [0.0])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        folder, *epochs = options.inside
        if epochs:
            run_one(Path(folder), int(epochs[0]))
        else:
            prepare(Path(folder))
        return
    before, after = options.checkouts
    found: dict[tuple[Path, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        in_checkout(before, scratch)
        for _ in range(options.turns):
            for checkout, epochs in itertools.product((before, after), (FEW, MANY)):
                found.setdefault((checkout, epochs), []).append(in_checkout(checkout, scratch, str(epochs)))
    print(f"{'':8} {'MB an epoch':>12} {'MB beside':>10} {'s an epoch':>11} {'peak GB':>8}")
    for name, checkout in (("before", before), ("after", after)):
        few, many = (
            {key: statistics.median(one[key] for one in told) for key in told[0]}
            for told in (found[checkout, epochs] for epochs in (FEW, MANY))
        )
        each = (many["bytes"] - few["bytes"]) / (MANY - FEW)
        print(
            f"{name:8} {each / 1e6:12,.1f} {(few['bytes'] - FEW * each) / 1e6:10,.0f} "
            f"{many['seconds']:11.2f} {many['peak'] / 1e9:8.2f}"
        )


if __name__ == "__main__":
    main()
