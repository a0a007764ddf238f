"""Compare Treeline's regressor with U-Nets that learn for as many seconds of the processor.

    python benchmarks/accuracy.py --out FOLDER --places folds --tahoe TAHOE --seconds 45 --seeds 0 1
    python benchmarks/accuracy.py --out FOLDER --places east --tahoe TAHOE --seconds 72 143 --seeds 0 1 2
    python benchmarks/accuracy.py --out FOLDER --places 101 102 103 104 --seconds 72 --seeds 0 1 2
    python benchmarks/accuracy.py --out FOLDER --places folds --tahoe TAHOE --variant "no average=--average 0"

TAHOE is a folder with tahoe_highrez.tif, tahoe_lidar_highesthit.tif and tahoe_lidar_bareearth.tif. Each run
is a process of its own with one thread; Treeline's goes first and the peers get the seconds that it took.
Choices are made on `folds`, inside the west half of Tahoe. Ground that is kept aside (east, and worlds by
their seed) is for reports: each look at it is counted in looks.json. Runs that are there are not made again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from compared import ours  # noqa: E402
from compared.maps import mapped  # noqa: E402
from compared.paired import difference, scores  # noqa: E402
from compared.peers import Recipe, train  # noqa: E402
from compared.places import Place, east_half, folds, world  # noqa: E402

from cluster.cli import parse  # noqa: E402
from shards.nested import flat  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402

OURS = "treeline"
PEERS = {
    "U-Net": Recipe(),
    "U-Net, as Treeline learns": Recipe(muon_rate=0.02, weight_decay=0.1, jitter=0.1, average=0.98, batch=8),
}
"""Peers by name."""
SHOWN = ("rmse", "mae", "bias", "r2", "block_r2", "edge")


def main() -> None:
    """Read the command line, make the runs that are missing, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--places", nargs="+", required=True, help="folds, east, or seeds of worlds")
    parser.add_argument("--tahoe", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[72.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=[OURS, *PEERS])
    parser.add_argument(
        "--variant", action="append", default=[], help='"NAME=--option value": Treeline with other options'
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    variants = {OURS: "", **dict(one.split("=", 1) for one in options.variant)}
    if options.one:
        run_one(json.loads(options.one), options.tahoe, variants)
        return
    names = [*options.models, *(name for name in variants if name not in options.models and name != OURS)]
    for seconds in options.seconds:
        for place in [place for name in options.places for place in of_name(name, options.tahoe)]:
            report(place, names, seconds, options)


def of_name(name: str, tahoe: Path | None) -> list[Place]:
    """Return the places that a name means."""
    if name.isdigit():
        return [world(int(name))]
    if tahoe is None:
        raise SystemExit(f"--places {name}: give --tahoe as well")
    return folds(tahoe) if name == "folds" else [east_half(tahoe)]


def report(place: Place, names: list[str], seconds: float, options: argparse.Namespace) -> None:
    """Make what is missing of a place, and print its scores and differences."""
    maps = {name: list[np.ndarray[Any, Any]]() for name in names}
    told = {name: list[dict[str, Any]]() for name in names}
    for seed in options.seeds:
        taken = seconds
        for name in names:
            run = options.out / place.name / f"{seconds:g}s" / name.replace(" ", "-") / str(seed)
            if not (run / "run.json").exists():
                asked = {"place": place.name, "name": name, "seconds": taken, "seed": seed, "run": str(run)}
                _start(asked)
            found = json.loads((run / "run.json").read_text())
            if name == OURS:
                taken = found["seconds"]
            maps[name].append(np.load(run / "map.npy"))
            told[name].append(found)
    looks = _count_look(place, options.out)
    print(f"\n{place.name}, {seconds:g} s of the processor, seeds {options.seeds}{looks}\n", flush=True)
    print("| model | steps | seconds | RMSE of each seed | " + " | ".join(SHOWN) + " |")
    print("|---|---|---|---|" + "---|" * len(SHOWN))
    for name in names:
        of_seeds = [one["scores"] for one in told[name]]
        means = [np.mean([one[key] for one in of_seeds]) for key in SHOWN]
        print(
            f"| {name} | {', '.join(str(one['steps']) for one in told[name])} "
            f"| {np.mean([one['seconds'] for one in told[name]]):.0f} "
            f"| {', '.join('{rmse:.2f}'.format(**one) for one in of_seeds)} | "
            + " | ".join(f"{mean:.3f}" for mean in means)
            + " |"
        )
    classes = list(told[names[0]][0]["scores"]["rmse_of_class"])
    print("\n| RMSE where the measured height is | " + " | ".join(f"{one} m" for one in classes) + " |")
    print("|---|" + "---|" * len(classes))
    for name in names:
        of_classes = [np.mean([one["scores"]["rmse_of_class"][key] for one in told[name]]) for key in classes]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in of_classes) + " |")
    print("\n| less | RMSE | 95 % interval |\n|---|---|---|")
    measured_HW = np.load(options.out / place.name / "measured.npy")
    for other in names[1:]:
        found = difference(maps[names[0]], maps[other], measured_HW)
        interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
        print(f"| {names[0]} less {other} | {found['mean']:+.3f} m | {interval} |", flush=True)


def _start(asked: dict[str, Any]) -> None:
    """Make one run in a process of its own, with this command's other options."""
    words = [sys.executable, "-P", __file__, *sys.argv[1:], "--one", json.dumps(asked)]
    subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def run_one(asked: dict[str, Any], tahoe: Path | None, variants: dict[str, str]) -> None:
    """Train one model once, map the ground that is scored, and keep the map and its scores."""
    torch.set_num_threads(1)
    named = {"tahoe-east": "east"}.get(asked["place"], asked["place"].removeprefix("world-"))
    places = of_name("folds" if named.startswith("fold-") else named, tahoe)
    place = next(one for one in places if one.name == asked["place"])
    run, name, seed = Path(asked["run"]), asked["name"], asked["seed"]
    if name in PEERS:
        trained = train(place.learns, PEERS[name], asked["seconds"], seed)
    else:
        chips = ours.chips_of(place, run.parents[2])
        trained = ours.train(chips, options_of(variants[name]), asked["seconds"], seed)
    predicted_HW = mapped(trained.predict, place.scored.image_CHW)
    run.mkdir(parents=True, exist_ok=True)
    np.save(run / "map.npy", predicted_HW)
    np.save(run.parents[2] / "measured.npy", place.scored.height_HW)
    found = {
        "seconds": trained.seconds,
        "steps": trained.steps,
        "scores": scores(predicted_HW, place.scored.height_HW),
    }
    (run / "run.json").write_text(json.dumps(found, indent=1))


def options_of(words: str) -> dict[str, Any]:
    """Return the options of `treeline train` that are not as by default, from words of its command line."""
    asked = flat(parse("train", ["--data", "chips", "--out", "run", *shlex.split(words)]))
    without = flat(TrainConfig.of("chips", "run"))
    return {name: value for name, value in asked.items() if value != without[name]}


def _count_look(place: Place, out: Path) -> str:
    """Count a look at ground that is kept aside."""
    if not place.is_kept_aside:
        return ""
    file = out / "looks.json"
    looks = json.loads(file.read_text()) if file.exists() else {}
    looks[place.name] = looks.get(place.name, 0) + 1
    file.write_text(json.dumps(looks, indent=1))
    return f", look {looks[place.name]} at this ground"


if __name__ == "__main__":
    main()
