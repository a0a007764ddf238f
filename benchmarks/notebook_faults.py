"""Effect of each fault of the notebook: training without faults, with each alone, and with all.

python benchmarks/notebook_faults.py                  # about ten minutes on one core

Scenes are those of the synthetic landscape, as in `treeline demo`. Their heights have gaps like those between
the strips of a lidar, and chips with at least half of their pixels are kept. Whole scenes are held out, and
those of the test split judge: no run trains on their chips. (The scenes of `treeline ingest synthetic` all
show one world.) The frozen backbone was trained before on red, green and blue of other scenes, so that its
patch weights and positions mean something. Each run is a small version of the recipe notebook; differences
compare runs of the same seed.

    says     RMSE and R2 that the run itself records for its best epoch
    true     RMSE and R2 of that epoch's regressor on the test scenes, and how much worse than without faults
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ingest.config import ScenesConfig  # noqa: E402
from ingest.scenes.scenes_source import ScenesSource  # noqa: E402
from ingest.synthetic.landscape import missing, write_scene  # noqa: E402
from ingest.work.run import ingest  # noqa: E402
from shards.read.dataset import Dataset, open_dataset  # noqa: E402
from shards.read.order import Chips  # noqa: E402
from trainer.commands.train import new_fit  # noqa: E402
from trainer.config import RECIPES, TrainConfig  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.fit.loop import Fit  # noqa: E402
from trainer.fit.notebook_faults import Faults, notebook_variant  # noqa: E402
from trainer.model.make import new_regressor  # noqa: E402
from trainer.run_folder.state_callback import StateCallback  # noqa: E402

SCENE_PX = 192
FLIGHT_PX, GAP_PX = 120, 14
"""Pixels between the middles of a lidar's strips, and between their edges."""
SHARES = (0.5, 0.25, 0.25)
SEED = 88
"""Seed of the landscape: one that gives each split its share of the scenes."""
RECIPE: dict[str, Any] = {
    **RECIPES["notebook"],
    "recipe": "notebook",
    "decoder_widths": (16, 16, 8, 8),
    "batch_per_worker": 4,
    # The notebook's 5e-5 is for a decoder 32 times as wide, trained for a hundred times as many steps.
    "learning_rate": 3e-3,
    "output_rate_factor": 10.0,
}
NONE, ALL, OWN = "none", "all", "own_scores"
SINGLE = {fault.name: Faults(**{fault.name: True}) for fault in fields(Faults)}
ROWS = {NONE: SINGLE[OWN], **SINGLE, ALL: Faults(**dict.fromkeys(SINGLE, True))}
"""Faults by row. Faults of scores change no weights (a test shows it), so they share the first row's run."""


class Judge(StateCallback):
    """Callback that scores every epoch on chips unknown to training."""

    def __init__(self, chips: Chips) -> None:
        super().__init__()
        self.chips, self.scored = chips, list[dict[str, Any]]()

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        self.scored.append(fit.score(self.chips))


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: its own record of each epoch, and the scores on the test scenes."""

    records: list[dict[str, Any]]
    judged: list[dict[str, Any]]

    def numbers(self, own: bool) -> tuple[float, float, float, float]:
        """Return the best epoch's recorded (RMSE, R2), the notebook's own if `own`, and the true ones."""
        best = min(range(len(self.records)), key=lambda epoch: float(self.records[epoch]["val_loss"]))
        names = ("val_notebook_rmse", "val_notebook_r2") if own else ("val_rmse", "val_r2")
        rmse, r2 = (float(self.records[best][name]) for name in names)
        true_rmse, true_r2 = (float(self.judged[best][name]) for name in ("rmse", "r2"))
        return rmse, r2, true_rmse, true_r2

    def chosen(self) -> tuple[float, float]:
        """Return the root of the loss on the stopping chips: in their best epoch, and in the test scenes'."""
        losses = [float(record["val_loss"]) for record in self.records]
        other = min(range(len(losses)), key=lambda epoch: float(self.judged[epoch]["loss"]))
        return min(losses) ** 0.5, losses[other] ** 0.5


def make_dataset(folder: Path, scenes: int, seed: int, shares: tuple[float, ...]) -> Dataset:
    """Make a dataset of scenes with gaps in their heights; whole scenes are held out."""
    folder.mkdir()
    for number in range(scenes):
        paths = write_scene(folder, number, seed, (SCENE_PX, SCENE_PX))
        rng = np.random.default_rng([seed, number, 2])
        with rasterio.open(paths.height, "r+") as raster:
            height_HW = raster.read(1)
            row_HW, column_HW = np.indices(height_HW.shape)
            across_HW = column_HW + 0.2 * row_HW + rng.integers(FLIGHT_PX)
            height_HW[(across_HW % FLIGHT_PX < GAP_PX) | missing(height_HW.shape, rng)] = raster.nodata
            raster.write(height_HW, 1)
    config = ScenesConfig(
        images=(f"{folder}/WV02_*.tif",),
        heights=(f"{folder}/lidar_*.tif",),
        out=f"{folder}/chips",
        split_by="scene",
        shares=shares,
        min_valid=0.5,
    )
    ingest(ScenesSource(config), config)
    return open_dataset(config.out)


def pretrain(dataset: Dataset, epochs: int, out: Path) -> None:
    """Train a tiny backbone on red, green and blue, and save it as transformers does."""
    config = TrainConfig.of(
        dataset.url,
        "",
        **{**RECIPES["tiny"], "bands": ("red", "green", "blue"), "decoder_widths": (16, 16, 8, 8)},
        batch_size=4,
        epochs=epochs,
    )
    fit = new_fit(config, Ranks())
    fit.run(StateCallback())
    fit.model.backbone.save_pretrained(out)


def run(dataset: Dataset, backbone: Path, faults: Faults, seed: int, epochs: int) -> Outcome:
    options = {**RECIPE, "backbone": str(backbone), "seed": seed, "epochs": epochs}
    config, judge = TrainConfig.of(dataset.url, "", **options), Judge(dataset.chips("test"))
    fit = new_fit(config, Ranks(), notebook_variant(config, faults))
    fit.run(judge)
    return Outcome(fit.records, judge.scored)


def jitter_of(dataset: Dataset, backbone: Path) -> float:
    """Measure how far a patch's tokens differ between passes in train mode, as a share of tokens' spread."""
    config = TrainConfig.of(dataset.url, "", **{**RECIPE, "backbone": str(backbone)})
    regressor = new_regressor(dataset, config.model)
    image_BCHW = torch.from_numpy(dataset.gather(dataset.chips("test")).image_BCHW)
    torch.manual_seed(0)
    regressor.backbone.train()
    with torch.no_grad():
        pixels_BCHW = regressor.normalise(image_BCHW)[0]
        passes = [regressor.features(pixels_BCHW).patches[0] for _ in range(8)]
    spread = passes[0].var((0, 2, 3)).sum()
    changes = [(one - other).square().sum(1).mean() for one, other in pairwise(passes)]
    return float((sum(changes) / len(changes) / spread).sqrt())


def about_of(dataset: Dataset, backbone: Path) -> str:
    """Describe the data that the runs trained on."""
    chips = {split: dataset.chips(split) for split in ("train", "val", "test")}
    scenes = {split: set(dataset.index["scene"].take(of).to_pylist()) for split, of in chips.items()}
    lines = [f"{split}: {of.size} chips of {len(scenes[split])} scenes" for split, of in chips.items()]
    unknown_BHW = np.isnan(dataset.gather(chips["train"]).height_BHW)
    lines.append(f"heights are missing of {unknown_BHW.mean():.0%} of the pixels to learn from")
    lines.append(
        f"tokens of two jittered passes differ by {jitter_of(dataset, backbone):.0%} of their spread"
    )
    return "\n".join(lines)


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Format a line per fault: means over seeds, and for the difference also the lowest and highest."""
    lines = [f"{'fault':14}{'says RMSE':>10}{'R2':>7}{'true RMSE':>11}{'R2':>7}  worse by"]
    without = [outcome.numbers(False)[2] for outcome in outcomes[NONE]]
    for name in ROWS:
        of_runs = outcomes[NONE if name == OWN else name]
        numbers = [outcome.numbers(name in (OWN, ALL)) for outcome in of_runs]
        rmse, r2, true_rmse, true_r2 = (statistics.mean(column) for column in zip(*numbers, strict=True))
        worse = [of_run[2] - its for of_run, its in zip(numbers, without, strict=True)]
        lines.append(
            f"{name:14}{rmse:8.2f} m{r2:7.2f}{true_rmse:9.2f} m{true_r2:7.2f}"
            f"  {statistics.mean(worse):+.2f} m ({min(worse):+.2f} to {max(worse):+.2f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        earlier = make_dataset(folder / "earlier", options.scenes // 2, SEED + 1, (1.0, 0.0))
        pretrain(earlier, options.epochs, folder / "tokens")
        dataset = make_dataset(folder / "scenes", options.scenes, SEED, SHARES)
        outcomes: dict[str, list[Outcome]] = {}
        for seed in range(options.seeds):
            for name in (name for name in ROWS if name != OWN):
                outcome = run(dataset, folder / "tokens", ROWS[name], seed, options.epochs)
                outcomes.setdefault(name, []).append(outcome)
                said = time.perf_counter() - start, name, seed, *outcome.numbers(name == ALL)
                print(
                    "{:6.0f} s  {:14} seed {}: says {:.2f} m {:.2f}, true {:.2f} m {:.2f}".format(*said),
                    flush=True,
                )
        about = about_of(dataset, folder / "tokens")
    print(table(outcomes), about, sep="\n")
    own, other = (
        statistics.mean(pair) for pair in zip(*(run.chosen() for run in outcomes[NONE]), strict=True)
    )
    print(
        f"root of the loss on the chips that stop: {own:.2f} m, in the epoch that others choose {other:.2f} m"
    )
    seconds = time.perf_counter() - start
    print(f"torch {torch.__version__}, {options.seeds} seeds, {options.epochs} epochs, {seconds:.0f} s")


if __name__ == "__main__":
    main()
