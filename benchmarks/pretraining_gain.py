"""Measure what pre-training gains on the synthetic SAR landscape, and how sure that is.

    python benchmarks/pretraining_gain.py --out gain --workers 2
    python benchmarks/pretraining_gain.py --out gain --worlds 101 --limits 1% --tunes all     # a part of it

For each world (a seed of the landscape): tiles of four regions, a masked autoencoder and a self-distillation
on three of them, and for each share of labels, way to tune and method a matrix of trainings from it and from
random weights of the same shape, in each region and in all together. The same command resumes where it was
stopped, with the same results. Each matrix has a folder of its own, so that other options add to what is
there. It takes hours.

For each share of labels, method and way to tune, the table gives the difference in RMSE from training from
random weights, in points of tree cover, with its 95 % interval: trained and tested in one region, as a mean
over the regions that pre-training saw, and for the one that it did not. There is a row for each world and
one over all. That interval holds for these worlds and pre-trainings: it does not contain the spread between
worlds. Single cells are in the matrices' own pages.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from ingest.synthetic.sar_regions import REGIONS  # noqa: E402
from trainer.score.intervals import Estimate, mean_of, rmse_difference, rmse_interval  # noqa: E402
from trainer.score.tile_baselines import RIDGE  # noqa: E402

NAMES = tuple(region.name for region in REGIONS)
UNSEEN = NAMES[-1]
SEASONS = ("winter", "spring", "summer", "autumn")
METHODS = {
    "mae": ["--recipe", "mae", "--decoder-width", "96", "--decoder-depth", "1", "--epochs", "12"],
    "dino": ["--recipe", "dino-tiny", "--patch-size", "16", "--epochs", "6"],
}
"""Options of pre-training; they were chosen in world 0, which is in no table."""
TRAINING = {"batch_size": 16, "epochs": 3, "epoch_steps": 20, "learning_rate": 1e-3}
"""Options of every training."""


Part = tuple[str, str, str]
"""Share of the labels, what is tuned, and the method: what one matrix is about."""


def treeline(*arguments: str) -> None:
    """Run a command, and end with it if it fails."""
    print("treeline", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True, cwd=ROOT)


def tiles_of(world: int, folder: Path, count: int) -> Path:
    """Make the tiles of a world; what is there already is kept."""
    tiles = folder / "tiles"
    treeline(
        *f"ingest synthetic --sar seasonal --seed {world} --chips {count} --chip-size 64 --out {tiles} "
        "--split-by bands --split-bands 60 --split-angle 15 --shares 0.6 0.2 0.2 "
        "--region-column region --derive".split(),
        *(f"vv_vh_{season} = vv_{season} - vh_{season}" for season in SEASONS),
    )
    return tiles


def pretrained(tiles: Path, folder: Path, method: str) -> Path:
    """Pre-train on the regions that are seen, unless that is done."""
    run = folder / method
    treeline(
        *f"pretrain --data {tiles} --out {run} --resume auto".split(),
        *METHODS[method],
        *("--where", f"region != '{UNSEEN}'", "--probe", "tree_percent", "--probe-epochs", "4"),
    )
    return run


def matrix_of(folder: Path, tiles: Path, part: Part, options: argparse.Namespace) -> Path:
    """Train and test from both beginnings with one share of the labels."""
    limit, tune, method = part
    out, config = folder / f"matrix-{limit.removesuffix('%')}-{tune}-{method}", folder / "training.json"
    config.write_text(json.dumps(TRAINING))
    treeline(
        *f"matrix --data {tiles} --region-column region --label tree_percent --limit {limit}".split(),
        *f"--draws {options.draws} --out {out} --train-config {config} --workers {options.workers}".split(),
        *f"--tune {tune} --init scratch=random {method}={folder / method}".split(),
    )
    return out


Errors = dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]
"""By init (or ridge), source and region: sums of squared errors by draw and block, tiles by block."""


def errors_of(matrix: Path) -> Errors:
    """Read the squared errors of a matrix's rows."""
    rows = pq.read_table(matrix / "predictions.parquet").to_pydict()
    columns = {name: np.array(values) for name, values in rows.items()}
    block_N = np.unique(columns["block"].astype(str), return_inverse=True)[1]
    draw_N = columns["draw"].astype(int)
    shape = draw_N.max() + 1, block_N.max() + 1
    names = [columns[name].astype(str) for name in ("init", "trained_on", "tested_on")]
    keys = np.array(["|".join(key) for key in zip(*names, strict=True)])
    found: Errors = {}
    for key in np.unique(keys):
        mine_N = keys == key
        init, source, region = key.split("|")
        for name, column in ((init, "predicted"), (RIDGE, "ridge")):
            squares_DB, counts_DB = np.zeros(shape), np.zeros(shape)
            away_N = (columns[column] - columns["truth"])[mine_N].astype(np.float64)
            np.add.at(squares_DB, (draw_N[mine_N], block_N[mine_N]), away_N**2)
            np.add.at(counts_DB, (draw_N[mine_N], block_N[mine_N]), 1)
            found[name, source, region] = squares_DB, counts_DB[0]
    return found


def gains(errors: Errors, first: str, second: str, regions: Sequence[str]) -> list[Estimate]:
    """Compare two inits in each region, trained and tested there; second may be the ridge."""
    return [
        rmse_difference(errors[first, region, region][0], *errors[second, region, region])
        for region in regions
    ]


def written(estimate: Estimate) -> str:
    """Write a difference, and what it says."""
    verdict = "better" if estimate.high < 0 else "worse" if estimate.low > 0 else "not told apart"
    return f"{estimate.value:+.2f} ({estimate.low:+.2f} to {estimate.high:+.2f}) {verdict}"


def report(found: dict[tuple[int, Part], Errors], options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the tables."""
    places = [region for region in NAMES if region != UNSEEN], [UNSEEN]
    for limit in options.limits:
        yield f"\n{limit} of the labels, RMSE in points of tree cover, trained and tested in one region\n"
        yield "| world | tune | compared | regions seen | region not seen |"
        yield "|---|---|---|---|---|"
        for tune, method in product(options.tunes, options.methods):
            of_worlds = {world: found[world, (limit, tune, method)] for world in options.worlds}
            for init in (method, "scratch", RIDGE):
                levels = (
                    ", ".join(f"{level(errors, init, place):.2f}" for errors in of_worlds.values())
                    for place in places
                )
                yield f"| each | {tune} | RMSE of {init}{shape_of(init, method)} | {' | '.join(levels)} |"
            for second in ("scratch", RIDGE):
                pooled: list[list[Estimate]] = [[], []]
                for world, errors in of_worlds.items():
                    cells = [mean_of(gains(errors, method, second, place)) for place in places]
                    for column, cell in zip(pooled, cells, strict=True):
                        column.append(cell)
                    yield f"| {world} | {tune} | {method} less {second} | {' | '.join(map(written, cells))} |"
                text = " | ".join(written(mean_of(column)) for column in pooled)
                yield f"| **all** | {tune} | {method} less {second} | {text} |"


def level(errors: Errors, init: str, place: Sequence[str]) -> float:
    """Return the mean RMSE of trainings that were tested in their own region."""
    return mean_of([rmse_interval(*errors[init, region, region]) for region in place]).value


def shape_of(init: str, method: str) -> str:
    """Say whose shape random weights have."""
    return f" (shape of {method})" if init == "scratch" else ""


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--chips", type=int, default=8000)
    parser.add_argument("--limits", nargs="+", default=["1%", "10%", "100%"])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--tunes", nargs="+", default=["frozen", "all"])
    parser.add_argument("--methods", nargs="+", default=["mae", "dino"])
    parser.add_argument("--workers", type=int, default=0)
    options: Any = parser.parse_args()
    found: dict[tuple[int, Part], Errors] = {}
    for world in options.worlds:
        folder = options.out.resolve() / f"world-{world}"
        folder.mkdir(parents=True, exist_ok=True)
        tiles = tiles_of(world, folder, options.chips)
        for method in options.methods:
            pretrained(tiles, folder, method)
        for part in product(options.limits, options.tunes, options.methods):
            found[world, part] = errors_of(matrix_of(folder, tiles, part, options))
    lines = list(report(found, options))
    (options.out / "gain.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
