"""CPU seconds to load a checkpoint, with this tree's code and with that of another, in alternating turns.

python benchmarks/load_checkpoint.py --also /path/to/another/tree   # 305 MB of weights; --layers 24: 1.2 GB

Each tree loads a checkpoint that it wrote itself, in a process of its own that does nothing else. A turn is
"predict" (`load_checkpoint`: all weights, and the fingerprint), "header" (the same without memory), and
"train" (`load_pretrained`, from which training starts), each the fastest of three in that process; the
files are in the page cache. CPU seconds, because other work on the machine does not change them much.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
    "num_channels": 3,
}
"""Shape of the backbone: per layer 12.6 million weights, 50 MB in float32."""
TRIES = 3


def write(folder: Path, layers: int) -> None:
    """Write a checkpoint and a pre-training with the code that is imported."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from regressors import BANDS, SCHEMA, small_regressor, write_checkpoint

    from trainer.decoders.features import DecoderConfig
    from trainer.model.backbone import build_backbone
    from trainer.model.pretrained import Pretrained
    from trainer.model.regressor import Regressor

    statistics_of_bands, backbone = (
        small_regressor().statistics,
        build_backbone({**SHAPE, "num_hidden_layers": layers}),
    )
    model = Regressor(SCHEMA, BANDS, statistics_of_bands, backbone, DecoderConfig(kind="linear"))
    write_checkpoint(folder / "predict", model.eval())
    (folder / "train").mkdir()
    origin, scores = {"data": "chips", "fingerprint": "0" * 16}, {"epoch": 1}
    pretrained = Pretrained("mae", SCHEMA, BANDS, statistics_of_bands, {"student": backbone}, origin, scores)
    for name, data in pretrained.files().items():
        (folder / "train" / name).write_bytes(data)


def measure(folder: Path) -> dict[str, float]:
    """Time each way to load."""
    from trainer.model.height_checkpoint import load_checkpoint
    from trainer.model.pretrained import load_pretrained

    ways: dict[str, Callable[[], Any]] = {
        "predict": lambda: load_checkpoint(str(folder / "predict")),
        "header": lambda: load_checkpoint(str(folder / "predict"), with_weights=False),
        "train": lambda: load_pretrained(str(folder / "train")),
    }
    return {name: min(_seconds(load) for _ in range(TRIES)) for name, load in ways.items()}


def _seconds(load: Callable[[], Any]) -> float:
    start = time.process_time()
    load()
    return time.process_time() - start


def run(tree: Path, *arguments: str) -> str:
    """Run this file with the code of a tree."""
    command = [sys.executable, __file__, *arguments]
    environment = {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, cwd=tree, check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    """Print a row for each way to load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--also", type=Path)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.layers)
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        trees = [ROOT, *([options.also.resolve()] if options.also else [])]
        with tempfile.TemporaryDirectory(prefix="treeline-") as scratch:
            folders = [Path(scratch) / str(number) for number in range(len(trees))]
            for tree, folder in zip(trees, folders, strict=True):
                folder.mkdir()
                run(tree, "--write", str(folder), "--layers", str(options.layers))
            found: list[list[dict[str, float]]] = [[] for _ in trees]
            for turn in range(options.turns):
                for place in range(len(trees)) if turn % 2 else reversed(range(len(trees))):
                    found[place].append(json.loads(run(trees[place], "--measure", str(folders[place]))))
        for name in found[0][0]:
            medians = [statistics.median(one[name] for one in of_tree) for of_tree in found]
            ratio = f"   ratio {medians[0] / medians[1]:.2f}" if len(medians) > 1 else ""
            print(f"{name:10}" + "".join(f"{1000 * seconds:10.0f} ms" for seconds in medians) + ratio)


if __name__ == "__main__":
    main()
