"""Speed and memory of reading chips: Treeline beside its peers, in one run on one machine.

    python benchmarks/read_shards.py local       # from the page cache, in this process, beside the peers
    python benchmarks/read_shards.py s3          # from an S3 server on loopback, beside plain parallel GETs
    python benchmarks/read_shards.py memory      # the peak of a reader of S3, beside the formula
    python benchmarks/read_shards.py start       # until the first shard is requested, with 1,000,000 chips
    python benchmarks/read_shards.py order       # quality of the shuffle, and memory it holds

A run of a reader has `--epochs` epochs (slow readers: one), from opening the dataset to the last batch.
Treeline's includes one verification of every shard. Readers take turns; medians are printed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from servers import environment_of, proxy, rclone_server  # noqa: E402

from benchmarks.peers import PEERS, check, make_chips  # noqa: E402
from shards.format.index import INDEX_SCHEMA  # noqa: E402
from shards.format.manifest import INDEX, Manifest, Shard, StoredObject  # noqa: E402
from shards.format.schema import Chip, Schema  # noqa: E402
from shards.format.sealed import json_bytes  # noqa: E402
from shards.read.chip_reader import ChipReader  # noqa: E402
from shards.read.dataset import Dataset, open_dataset  # noqa: E402
from shards.read.order import epoch_order  # noqa: E402
from shards.read.read_options import ReadOptions  # noqa: E402
from shards.read.row_stream import Schedule  # noqa: E402
from shards.storage.s3 import client  # noqa: E402
from shards.write.writer import DatasetWriter  # noqa: E402

SCHEMA = Schema(("blue", "green", "red", "nir"))
FAST = ("litdata", "datasets", "floor")
"""Peers that read as many epochs a run as Treeline; others, whose epoch takes seconds, read one."""
PLAIN_GETS = 4
"""Number of objects at a time; more were not faster."""


def write_ours(url: str, chips: Iterable[tuple[str, Any, Any]], shard_format: str) -> None:
    with DatasetWriter(url, SCHEMA, {}, shard_format=shard_format) as writer:
        for key, image, height in chips:
            writer.add(Chip(key, image, height), "train")
        writer.finish()


def read_ours(url: str, epochs: int, options: ReadOptions = ReadOptions()) -> Iterator[float]:
    """Measure seconds of each epoch; the first includes opening and verification."""
    start = time.perf_counter()
    dataset = open_dataset(url, options)
    reader = ChipReader(dataset, dataset.chips("train"), 64)
    for _ in range(epochs):
        for batch in reader.epoch():
            batch.image_BCHW[:, :, 0, 0].sum()
            batch.height_BHW[:, 0, 0].sum()
        yield time.perf_counter() - start
        start = time.perf_counter()


def benchmark_local(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        chips = list(make_chips(options.chips))
        runs: dict[str, tuple[int, Callable[[], object]]] = {}
        first: dict[str, list[float]] = {"treeline tar": [], "treeline zarr": []}
        for name in first:
            url = f"{scratch}/{name.split()[1]}-ours"
            write_ours(url, chips, name.split()[1])

            def run(name: str = name, url: str = url) -> None:
                seconds = list(read_ours(url, options.epochs))
                first[name].append(seconds[0])

            runs[name] = options.epochs, run
        for name in options.peers or PEERS:
            peer = PEERS[name]
            if peer.version is None:
                print(f"{name} is skipped: {peer.package} is not installed")
                continue
            folder = Path(scratch) / name
            folder.mkdir()
            peer.write(folder, chips)
            check(peer, folder, chips, 64)
            epochs = options.epochs if name in FAST else 1

            def run_peer(name: str = name, folder: Path = folder, epochs: int = epochs) -> None:
                for epoch in range(epochs):
                    PEERS[name].read(folder, 64, epoch)

            runs[name] = epochs, run_peer
        rates = in_turn({name: run for name, (_, run) in runs.items()}, options.repeats)
        rates = {n: [options.chips * runs[n][0] / seconds for seconds in of_n] for n, of_n in rates.items()}
        print(f"\n{options.chips:,} chips, batches of 64, {options.epochs} epochs a run, shuffled")
        ours = {name: rates[name] for name in first}
        for name, of_name in rates.items():
            ratios = [
                statistics.median(a / b for a, b in zip(o, of_name, strict=True)) for o in ours.values()
            ]
            version = PEERS[name].version if name in PEERS else ""
            print(
                f"{f'{name} {version}':30}{statistics.median(of_name):10,.0f} chips/s "
                f"({min(of_name):9,.0f} to {max(of_name):9,.0f})   tar is {ratios[0]:6.1f} times that, "
                f"zarr {ratios[1]:6.1f}"
            )
        for name, seconds in first.items():
            print(f"{name}: first epoch, verified: {options.chips / statistics.median(seconds):,.0f} chips/s")


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Measure seconds of each by name, in turn, so that a slow moment of the machine affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def plain_gets(dataset: Dataset) -> None:
    """Get every shard's bytes with the same client, and nothing else."""
    bucket, _, prefix = dataset.url.removeprefix("s3://").partition("/")

    def get(name: str) -> int:
        answer = client(attempts=1).get_object(Bucket=bucket, Key=f"{prefix}/{name}")
        return len(answer["Body"].read())

    with ThreadPoolExecutor(PLAIN_GETS) as threads:
        list(threads.map(get, [shard.name for shard in dataset.manifest.shards]))


def benchmark_s3(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch, rclone_server(Path(scratch), etags=False) as server:
        write_ours(f"{scratch}/bucket/set", make_chips(options.chips), "tar")
        for delay in (0.0, 0.03):
            with ExitStack() as stack:
                front = stack.enter_context(proxy(server, delay)).server if delay else server
                stack.enter_context(environment_of(front))
                dataset = open_dataset("s3://bucket/set")
                nbytes = sum(shard.nbytes for shard in dataset.manifest.shards)
                first: list[float] = []

                def ours(dataset: Dataset = dataset, first: list[float] = first) -> None:
                    start = time.perf_counter()
                    for number, _ in enumerate(
                        dataset.batches(dataset.epoch(dataset.chips("train"), 0, 0), 64)
                    ):
                        if not number:
                            first.append(time.perf_counter() - start)

                runs = {"treeline": ours, "plain GETs": lambda dataset=dataset: plain_gets(dataset)}
                rates = {
                    n: [nbytes / s / 1e6 for s in of_n] for n, of_n in in_turn(runs, options.repeats).items()
                }
            print(f"\nS3 (rclone on loopback), {1000 * delay:.0f} ms added to each request, {nbytes:,} bytes")
            for name, of_name in rates.items():
                print(
                    f"{name:12}{statistics.median(of_name):8.0f} MB/s "
                    f"({min(of_name):.0f} to {max(of_name):.0f})"
                )
            ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
            share = statistics.median(first) * statistics.median(rates["treeline"]) * 1e6 / nbytes
            print(f"ratio       {ratio:8.2f}")
            print(
                f"first batch {statistics.median(first):8.2f} s: {share:.1%} of an epoch of "
                f"{len(dataset.manifest.shards)} shards"
            )


MEASURE = """
import json, sys
from shards.read.dataset import open_dataset
from shards.read.read_options import ReadOptions
from shards.read.row_stream import Schedule
def high(): return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))
url, ahead = sys.argv[1], int(sys.argv[2])
dataset = open_dataset(url, ReadOptions(shards_ahead=ahead))
chips = dataset.chips('train')
order = dataset.epoch(chips, 0, 0)
next(iter(dataset.batches(order[:64], 64)))  # start the client and its threads
constant = high()
for batch in dataset.batches(order, 64): pass
plan = Schedule.of(dataset.shard_of(order), order)
shard = max(shard.nbytes for shard in dataset.manifest.shards)
print(json.dumps([constant, high(), plan.most_at_once(), shard]))
"""


def benchmark_memory(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch, rclone_server(Path(scratch), etags=False) as server:
        write_ours(f"{scratch}/bucket/set", make_chips(options.chips), "tar")
        print("\npeak = (shards in use + shards ahead) x shard bytes + constant, reading an epoch from S3")
        for ahead in (1, 2, 4, 8):
            with environment_of(server):
                constant, peak, in_use, shard = in_process(MEASURE, "s3://bucket/set", str(ahead))
            stated = (in_use + ahead) * shard + constant
            print(
                f"{ahead} ahead, {in_use} in use: {peak / 1e6:,.0f} MB measured, {stated / 1e6:,.0f} stated "
                f"(constant {constant / 1e6:,.0f}), ratio {peak / stated:.2f}"
            )


START = """
import json, sys, time
start = time.perf_counter()
from shards.read.chip_reader import ChipReader
from shards.read.dataset import open_dataset
def high(): return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))
imported = time.perf_counter()
dataset = open_dataset(sys.argv[1])
chips = dataset.chips('train', where=sys.argv[2])
weights = dataset.height_weights(chips, (0, 2, 5, 10)) if sys.argv[2] else None
reader = ChipReader(dataset, chips, 64, weights=weights)
order = reader.order(0)
from shards.read.row_stream import Schedule
shard = dataset.shard_of(order)
Schedule.of(shard, order - dataset.manifest.first_chip[shard])
print(json.dumps([imported - start, time.perf_counter() - imported, high(), int(order.size)]))
"""


def benchmark_start(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        write_index_of_a_million(Path(scratch))
        print("\nuntil the first shard is asked for, 1,000,000 chips in 977 shards")
        for where in ("", "source != 'AK_IFSAR' and 2 <= height_max < 35 and acquired >= '2015-01-01'"):
            found = [in_process(START, scratch, where) for _ in range(options.repeats)]
            imports, seconds, high, size = (statistics.median(column) for column in zip(*found, strict=True))
            what = "a selection, balanced" if where else "all"
            print(
                f"{what} ({size:,.0f} chips): {seconds:.2f} s after {imports:.2f} s of imports, "
                f"peak {high / 1e6:,.0f} MB"
            )


def write_index_of_a_million(folder: Path) -> None:
    """Write manifest and index like a real dataset's, without shards."""
    generator, count, per_shard = np.random.default_rng(0), 1_000_000, 1024
    sources = np.array(["AK_IFSAR", "fairbanks_ql1_2017", "infrastructure_2011_26906"])
    number = np.arange(count)
    scene = np.char.add("WV02_20150802_M1BS_10300100", np.char.zfill((number // 2000).astype(str), 8))
    columns = {
        "key": np.char.add(
            np.char.add("chip_", scene), np.char.add("_", np.char.zfill(number.astype(str), 7))
        ),
        "split": np.full(count, "train"),
        "shard": np.char.add(
            np.char.add("train/", np.char.zfill((number // per_shard).astype(str), 6)), ".tar"
        ),
        "row": (number % per_shard).astype(np.int32),
        "source": generator.choice(sources, count),
        "sensor": np.full(count, "WV02"),
        "acquired": np.full(count, "2015-08-02"),
        "scene": scene,
        "x": generator.uniform(0, 1e6, count),
        "y": generator.uniform(1e6, 2e6, count),
        "crs": np.full(count, "EPSG:3338"),
        "catalogue": np.full(count, "1030010047ADDD00"),
        "number": number,
        "height_mean": generator.gamma(1, 2, count).astype(np.float32),
        "height_max": generator.gamma(2, 4, count).astype(np.float32),
        "height_p95": generator.gamma(2, 3, count).astype(np.float32),
        "valid_fraction": np.ones(count, np.float32),
        "xxh3": generator.integers(0, 2**64, count, dtype=np.uint64),
        "image_at": pa.nulls(count, pa.int64()),
        "height_at": pa.nulls(count, pa.int64()),
        "duplicate_of": pa.nulls(count, pa.string()),
    }
    table = pa.table([pa.array(column) for column in columns.values()], names=list(columns)).cast(
        INDEX_SCHEMA
    )
    pq.write_table(table, folder / INDEX, row_group_size=per_shard)
    index = StoredObject.of(INDEX, (folder / INDEX).read_bytes())
    sizes = [per_shard] * (count // per_shard) + [count % per_shard]
    shards = tuple(
        Shard("train", size, "", (StoredObject(f"train/{n:06d}.tar", size * 52_736 + 1024, ""),))
        for n, size in enumerate(sizes)
    )
    manifest = Manifest(SCHEMA, "tar", per_shard, shards, {INDEX: index}, {}, {"train": count})
    (folder / "dataset.json").write_bytes(json_bytes(manifest.to_json()))


def benchmark_order(options: argparse.Namespace) -> None:
    """Measure the order of 428,464 chips in shards of 1024, like the first users', in batches of 64."""
    shard_of_chip = np.arange(428_464) // 1024
    correlations, distinct, largest, in_use, seconds = [], [], [], [], []
    for epoch in range(options.repeats):
        start = time.perf_counter()
        order = epoch_order(shard_of_chip, 0, epoch)
        seconds.append(time.perf_counter() - start)
        met = shard_of_chip[order]
        correlations.append(np.corrcoef(np.arange(order.size), order)[0, 1])
        batches = met[: met.size // 64 * 64].reshape(-1, 64)
        counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
        distinct += [found.size for found in counts]
        largest += [found.max() / 64 for found in counts]
        in_use.append(Schedule.of(met, order).most_at_once())
    print(f"\nthe order of 428,464 chips, {options.repeats} epochs, {statistics.median(seconds):.2f} s each")
    print(f"rank correlation of stored and met place: {', '.join(f'{r:+.3f}' for r in correlations)}")
    print(f"shards in a batch of 64: mean {np.mean(distinct):.1f}; most shards in use: {max(in_use)}")
    share, most = np.mean(largest), np.percentile(largest, 99)
    print(f"largest share of one shard: mean {share:.2f}, 99 % below {most:.2f}")


def in_process(program: str, *arguments: str) -> list[float]:
    """Run a program in a fresh Python process; return what it prints as JSON."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return list(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "local": benchmark_local,
        "s3": benchmark_s3,
        "memory": benchmark_memory,
        "start": benchmark_start,
        "order": benchmark_order,
    }
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--chips", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )
    for part in options.parts:
        parts[part](options)


if __name__ == "__main__":
    main()
