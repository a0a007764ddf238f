"""Speed of making a dataset from pairs of .npy chips, beside reading alone and beside what people do today.

python benchmarks/ingest.py pairs --pairs 20000 --repeats 3      # ours, WebDataset, the notebook's way
python benchmarks/ingest.py workers --pairs 20000 --repeats 3    # Ray workers: 1 and 2
python benchmarks/ingest.py synthetic --chips 20000 500000       # rate and peak memory, without files
python benchmarks/ingest.py listing --pairs 500000               # seconds and memory to list and plan

Each contender runs in a process of its own, which prints its rate and its peak of resident memory. "Cold"
means that the files are not in the page cache (POSIX_FADV_DONTNEED; needs no privileges).

reading     np.load of both files of every pair, nothing else
open, read  the bytes of both files, nothing else: the filesystem's own speed
WebDataset  np.load, the same filters, mean and deviation by running sums, webdataset.ShardWriter
notebook    np.load, the same filters, all stacked, statistics of the stack, Dataset.from_dict, save_to_disk
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingest.chips.source import Raw
from ingest.config import PairsConfig, SyntheticConfig
from ingest.files.pairs_source import PairsSource
from ingest.synthetic.synthetic_source import SyntheticSource
from ingest.work.plan import Present, make_plan
from ingest.work.run import ingest

NODATA = -9999
CONTENDERS = ("reading", "open, read", "Treeline", "WebDataset", "notebook")
SHARD_CHIPS = 1024


def write_pairs(folder: Path, count: int) -> None:
    """Write pairs like those of the first users, from the synthetic landscape."""
    for name in ("images", "heights"):
        (folder / name).mkdir(parents=True)
    source = SyntheticSource(SyntheticConfig(out="", chips=count))
    table = source.candidates().table
    for key, raw in zip(table["key"].to_pylist(), source.read(table), strict=True):
        assert isinstance(raw, Raw)
        np.save(folder / "images" / f"{key}.npy", raw.image)
        np.save(folder / "heights" / f"{key}.npy", raw.height)


def loaded(folder: Path) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(os.listdir(folder / "images")):
        yield name.removesuffix(".npy"), np.load(folder / "images" / name), np.load(folder / "heights" / name)


def kept(folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield the pairs that pass Treeline's default filters."""
    for key, image, height in loaded(folder):
        if image.shape != (4, 64, 64) or height.shape != (64, 64) or (image == NODATA).any():
            continue
        if not np.isfinite(height).all() or (height == NODATA).any() or not (height > 0).any():
            continue
        yield key, image, height


def run_reading(folder: Path, out: Path) -> None:
    for _ in loaded(folder):
        pass


def run_open_read(folder: Path, out: Path) -> None:
    for name in sorted(os.listdir(folder / "images")):
        for kind in ("images", "heights"):
            with open(folder / kind / name, "rb", buffering=0) as file:
                file.read()


def config_of(folder: Path, out: Path, workers: int) -> PairsConfig:
    return PairsConfig(
        images=f"{folder}/images", heights=f"{folder}/heights", out=str(out / "set"), workers=workers
    )


def run_treeline(folder: Path, out: Path) -> None:
    config = config_of(folder, out, 0)
    ingest(PairsSource(config), config)


def run_webdataset(folder: Path, out: Path) -> None:
    import webdataset

    sums, squares, pixels = np.zeros(4), np.zeros(4), 0
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=SHARD_CHIPS, verbose=0) as writer:
        for key, image, height in kept(folder):
            values = image.reshape(4, -1).astype(np.float64)
            sums += values.sum(1)
            squares += (values * values).sum(1)
            pixels += values.shape[1]
            writer.write({"__key__": key, "image.npy": image, "height.npy": height, "json": {"key": key}})
    mean = sums / pixels
    (out / "statistics.json").write_text(json.dumps([mean.tolist(), (squares / pixels - mean**2).tolist()]))


def run_notebook(folder: Path, out: Path) -> None:
    import datasets

    pairs = list(kept(folder))
    images = np.stack([image for _, image, _ in pairs]).astype(np.float32)
    heights = np.stack([height for _, _, height in pairs])
    np.percentile(images[:: max(1, len(images) // 250)], (2, 50, 98))
    images.mean((0, 2, 3))
    images.std((0, 2, 3))
    datasets.disable_progress_bars()
    chips = datasets.Dataset.from_dict({"image": images.transpose(0, 2, 3, 1), "chm": heights})
    chips.save_to_disk(str(out / "saved"))


RUN: dict[str, Callable[[Path, Path], None]] = dict(
    zip(CONTENDERS, (run_reading, run_open_read, run_treeline, run_webdataset, run_notebook), strict=True)
)


def forget(folder: Path) -> None:
    """Make the page cache forget the files."""
    for path in folder.rglob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measured(folder: Path, name: str, cold: bool) -> tuple[float, float]:
    """Measure seconds and peak GB of a contender, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        os.sync()  # so that no writes of the previous contender fall into this one's time
        if cold:
            forget(folder)
        command = [sys.executable, __file__, "one", "--folder", str(folder), "--out", out, "--name", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, gigabytes = json.loads(done.stdout.splitlines()[-1])
        return float(seconds), float(gigabytes)


def run_one(options: argparse.Namespace) -> None:
    """Run a contender in the process that `measured` starts."""
    start = time.perf_counter()
    RUN[options.name](Path(options.folder), Path(options.out))
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


def benchmark_pairs(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "pairs"
        write_pairs(folder, options.pairs)
        for cold in (False, True):
            seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            peak: dict[str, float] = {}
            measured(folder, "open, read", cold=False)
            for _ in range(options.repeats):
                for name in CONTENDERS:
                    taken, gigabytes = measured(folder, name, cold)
                    seconds[name].append(taken)
                    peak[name] = max(gigabytes, peak.get(name, 0))
            print(f"{'cold' if cold else 'warm'} files, {options.pairs:,} pairs, median of {options.repeats}")
            for name in CONTENDERS:
                ratios = [
                    theirs / ours for theirs, ours in zip(seconds[name], seconds["Treeline"], strict=True)
                ]
                low, high = options.pairs / max(seconds[name]), options.pairs / min(seconds[name])
                print(
                    f"  {name:12}{options.pairs / statistics.median(seconds[name]):>8,.0f} pairs/s "
                    f"({low:,.0f}-{high:,.0f}), {peak[name]:5.2f} GB; Treeline is "
                    f"{statistics.median(ratios):.2f} times as fast",
                    flush=True,
                )


def benchmark_workers(options: argparse.Namespace) -> None:
    import ray

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "pairs"
        write_pairs(folder, options.pairs)
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=500_000_000, logging_level="ERROR")
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(options.repeats + 1):
            for workers in (1, 2):
                with tempfile.TemporaryDirectory(dir=scratch) as out:
                    config = config_of(folder, Path(out), workers)
                    start = time.perf_counter()
                    ingest(PairsSource(config), config)
                    if repeat:  # the first starts the workers
                        seconds[workers].append(time.perf_counter() - start)
        peak = peak_of_workers()
        ray.shutdown()
        ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
        for workers in (1, 2):
            rate = options.pairs / statistics.median(seconds[workers])
            print(f"{workers} Ray workers: {rate:,.0f} pairs/s; a worker's peak is {peak:.2f} GB")
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"two are {statistics.median(ratios):.2f} times as fast as one ({spread})")


def peak_of_workers() -> float:
    """Return the highest peak of resident memory, in GB, of all Ray workers on this machine."""
    peak = 0
    for process in psutil.process_iter(["cmdline"]):
        if any("ray::" in word for word in process.info["cmdline"] or ()):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
    return peak / 1e6


def benchmark_listing(options: argparse.Namespace) -> None:
    """Measure listing and planning by names alone: the files are empty."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "pairs"
        table = SyntheticSource(SyntheticConfig(out="", chips=options.pairs)).candidates().table
        for kind in ("images", "heights"):
            (folder / kind).mkdir(parents=True)
            for key in table["key"].to_pylist():
                (folder / kind / f"{key}.npy").touch()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        config = config_of(folder, Path(scratch), 0)
        source = PairsSource(config)
        start = time.perf_counter()
        plan = make_plan(source.candidates(), source.schema, config, Present())
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shards = sum(1 for _ in plan.shards())
        print(
            f"{options.pairs:,} pairs listed and planned as {shards:,} shards in {seconds:.1f} s, peak "
            f"{peak / 1e6:.2f} GB ({before / 1e6:.2f} before)"
        )


def benchmark_synthetic(options: argparse.Namespace) -> None:
    for chips in options.chips:
        out = Path(tempfile.mkdtemp(dir=options.scratch))
        command = [sys.executable, __file__, "one-synthetic", "--out", str(out), "--chips", str(chips)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, gigabytes = json.loads(done.stdout.splitlines()[-1])
        print(f"{chips:,} chips: {chips / seconds:,.0f} chips/s, peak {gigabytes:.2f} GB", flush=True)
        shutil.rmtree(out)


def run_one_synthetic(options: argparse.Namespace) -> None:
    """Make a synthetic dataset in the process that `benchmark_synthetic` starts."""
    config = SyntheticConfig(chips=options.chips[0], out=f"{options.out}/set")
    start = time.perf_counter()
    ingest(SyntheticSource(config), config)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


PARTS = {
    "pairs": benchmark_pairs,
    "workers": benchmark_workers,
    "synthetic": benchmark_synthetic,
    "listing": benchmark_listing,
    "one": run_one,
    "one-synthetic": run_one_synthetic,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--chips", type=int, nargs="+", default=[20_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", default=None, help="folder for everything; default: the system's")
    parser.add_argument("--folder", default="")
    parser.add_argument("--out", default="")
    parser.add_argument("--name", default="")
    options = parser.parse_args()
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
