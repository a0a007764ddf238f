"""Kernels, waits and copies of a training step, counted on a CPU, for a backbone of 24 narrow blocks.

python benchmarks/step_counts.py                       # of this checkout
python benchmarks/step_counts.py --code OTHER          # of another one

They are counted as in tests/trainer/fit/test_one_wait.py: a wait brings a number to the host, a copy is a
list or number that the host sends and waits for.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser()
parser.add_argument("--code", default=str(ROOT))
OPTIONS = parser.parse_args()
sys.path[:0] = [OPTIONS.code, str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from dispatched import Counted  # noqa: E402
from pretrainings import config_of, write_tiles  # noqa: E402
from regressors import SMALL_BACKBONE, small_config  # noqa: E402

from shards.read.dataset import Dataset, open_dataset  # noqa: E402
from trainer.commands import pretrain, train  # noqa: E402
from trainer.data.feed import Fed, feed  # noqa: E402
from trainer.devices.ranks import Ranks  # noqa: E402
from trainer.fit.loop import Fit  # noqa: E402
from trainer.model.backbone import build_backbone  # noqa: E402

BLOCKS, BATCH = 24, 6
TRAININGS: dict[str, dict[str, Any]] = {
    "heights, frozen": {"tune": "frozen"},
    "heights, all": {"tune": "all"},
    "heights, all, Muon": {"tune": "all", "optimiser": "muon"},
    "heights, silog, frozen": {"tune": "frozen", "loss": ("silog",)},
    "tile value": {"task": "tile-value", "label": "height_mean"},
    "mae": {"method": "mae"},
    "dino": {"method": "dino"},
    "ibot": {"method": "ibot", "koleo": 0.0},
    "ibot, KoLeo": {"method": "ibot"},
}


def new_fit(dataset: Dataset, backbone: Path, **options: Any) -> Fit:
    """Begin one of the trainings."""
    if "method" in options:
        config = config_of(dataset, options.pop("method"), batch_size=BATCH, depth=BLOCKS, **options)
        return pretrain.new_fit(config, Ranks())
    return train.new_fit(small_config(dataset, backbone, batch_size=BATCH, **options), Ranks())


def batches(fit: Fit) -> Iterator[Fed]:
    """Feed the training chips for ever."""
    dataset, chips = fit.learning.dataset, fit.learning.train_chips
    while True:
        yield from feed(dataset.batches(chips, BATCH), dataset.schema, torch.device("cpu"))


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) / "backbone"
        build_backbone({**SMALL_BACKBONE, "num_hidden_layers": BLOCKS}).save_pretrained(backbone)
        datasets = dict[str, Dataset]()
        for kind in ("whole", "holes"):
            write_tiles(Path(folder) / kind, whole=kind == "whole")
            datasets[kind] = open_dataset(str(Path(folder) / kind))
        print("| training | tiles | `--accumulate` | kernels | waits | copies |\n|---|---|---|---|---|---|")
        for name, options in TRAININGS.items():
            for kind, dataset in datasets.items():
                for pieces in (1, 2) if options.get("method") != "ibot" or "koleo" in options else (1,):
                    fit = new_fit(dataset, backbone, accumulate=pieces, **options)
                    fit._wrapped.train()
                    fed = batches(fit)
                    fit._step(next(fed))
                    fit._settle()
                    second = next(fed)
                    with Counted() as count:
                        fit._step(second)
                        fit._settle()
                    # What was copied to the host needs no other wait.
                    waits = [wait for wait in count.waits if not wait.startswith("numpy")]
                    cells = name, kind, pieces, count.kernels, len(waits), len(count.copies)
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
