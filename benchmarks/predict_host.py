"""Host work for a block of prediction, with a model that costs nothing.

python benchmarks/predict_host.py                       # of this checkout
python benchmarks/predict_host.py --code OTHER          # of another one

On a GPU the host cuts nothing and adds nothing: it queues operations and works in numpy. So the time inside
torch's operations is measured by a dispatch mode and taken off; the mode's own cost stays in. "prepared" is
what a thread does for the next block meanwhile (0 in a checkout whose `Predictor` has no `ready`). Times are
CPU seconds of one thread, so that other programs hardly count.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--code", default=str(Path(__file__).resolve().parent.parent))
parser.add_argument("--side", type=int, default=2048)
parser.add_argument("--batch-size", type=int, default=1024)
parser.add_argument("--repeats", type=int, default=5)
OPTIONS = parser.parse_args()
sys.path[:0] = [OPTIONS.code, f"{OPTIONS.code}/tests/support"]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from regressors import SCHEMA, small_regressor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from inference.predict import block as block_module  # noqa: E402
from inference.predict.map_options import MapOptions  # noqa: E402
from inference.tiling.halo import Halo, halo_block  # noqa: E402
from inference.tiling.windows import Block, Span, WindowGrid  # noqa: E402


class InOperations(TorchDispatchMode):
    """CPU seconds inside torch's operations."""

    seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        self.seconds += time.thread_time() - start
        return result


def main() -> None:
    """Print milliseconds a block: prepared ahead, host, and in all."""
    torch.set_num_threads(1)
    side, regressor = OPTIONS.side, small_regressor()
    method = MapOptions(WindowGrid(64, 32), batch_size=OPTIONS.batch_size)
    block, shape = Block(Span(side, 2 * side), Span(side, 2 * side)), (3 * side, 3 * side)
    read, bands = halo_block(block, method.grid, shape), len(SCHEMA.bands)
    size = bands, len(read.rows), len(read.columns)
    image_CHW = np.random.default_rng(1).integers(1, 9000, size).astype(SCHEMA.dtype)
    halo = Halo(image_CHW, read.rows.start, read.columns.start, shape)

    def nothing(_: Any, image_BCHW: torch.Tensor, __: Any) -> Any:
        height_BHW = torch.zeros(()).expand(len(image_BCHW), 64, 64)
        return block_module.Windows(height_BHW, height_BHW)

    block_module.predict_windows = nothing  # type: ignore[assignment]
    # In the measuring thread, where the dispatch mode is.
    batches = sys.modules["inference.predict.window_batches"]
    batches.side_by_side = map  # type: ignore[attr-defined]
    rounds = []
    for _ in range(1 + OPTIONS.repeats):
        begun, ready = time.thread_time(), None
        try:
            from inference.predict.ready_block import ready_block

            ready = ready_block(regressor.normalise, block, halo, method.grid, torch.device("cpu"))
        except ImportError:
            pass
        prepared, start = time.thread_time() - begun if ready else 0.0, time.thread_time()
        given: tuple[Any, ...] = (ready,) if ready else (block, halo)
        with InOperations() as operations:
            block_module.predict_block(regressor, *given, method)
        total = time.thread_time() - start
        rounds.append((prepared, total - operations.seconds, prepared + total))
    medians = [1000 * statistics.median(values) for values in zip(*rounds[1:], strict=True)]
    print("prepared {:.0f} ms, host {:.0f} ms, in all {:.0f} ms".format(*medians))


if __name__ == "__main__":
    main()
