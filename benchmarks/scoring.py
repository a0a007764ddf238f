"""Chips scored a second: sums on the device, beside NumPy on the host, as scores were computed before.

    python benchmarks/scoring.py                             # one thread of this machine's CPU
    python benchmarks/scoring.py --device cuda --batch-size 256

Predictions are there already: only what comes after them is timed, but for the copy and the rounding of
totals, which happen once a pass. `validation` is what a training computes after each epoch, without and with
its loss; `evaluation` compares a regressor with two baselines. The ways take turns; figures are medians over
rounds, ratios medians of each round's ratio.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from numpy_scores import numpy_sums  # noqa: E402

from trainer.devices.exact_sums import chip_totals, exact_sums  # noqa: E402
from trainer.devices.linear import linear  # noqa: E402
from trainer.devices.score_sums import chip_sums, height_sums  # noqa: E402
from trainer.losses.loss import parse_loss  # noqa: E402
from trainer.options import ObjectiveOptions  # noqa: E402
from trainer.score.baselines import Baselines  # noqa: E402
from trainer.score.exact_totals import rounded  # noqa: E402

BASELINES = Baselines(2.5, (0.001, 0.0, -0.001, 0.0005, 0.25), chips=1)
LOSS = parse_loss(ObjectiveOptions().loss)
WARM_UP_ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    batch = Batch(options.batch_size, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, batches of {options.batch_size} chips of 64 x 64")
    print(f"{'':24}{'NumPy chips/s':>16}{'device chips/s':>16}{'ratio':>8}")
    for title, old, new in (
        ("validation", batch.validation_of_before, batch.validation),
        ("validation with loss", batch.validation_and_loss_of_before, batch.validation_and_loss),
        ("evaluation", batch.evaluation_of_before, batch.evaluation),
    ):
        np.testing.assert_allclose(np.concatenate([on_host(one) for one in new()]), old(), rtol=1e-9)
        seconds = [(timed(old, device), timed(new, device)) for _ in range(options.rounds)][WARM_UP_ROUNDS:]
        before, after = (
            options.batch_size / statistics.median(of_one) for of_one in zip(*seconds, strict=True)
        )
        ratio = statistics.median(one / other for one, other in seconds)
        print(f"{title:24}{before:16,.0f}{after:16,.0f}{ratio:8.1f}")


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes, with what it leaves on the device to do."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def on_host(sums_XL: Tensor) -> np.ndarray:
    return rounded(sums_XL.cpu().numpy())


class Batch:
    """A batch of chips and a prediction, and both ways to score it: to totals, and to exact sums."""

    def __init__(self, chips: int, device: torch.device) -> None:
        generator = np.random.default_rng(0)
        shape = chips, 64, 64
        height_BHW = generator.exponential(3, shape) * (generator.random(shape) > 0.3)
        predicted_BHW = np.maximum(0, 0.8 * height_BHW + generator.normal(0, 1, shape))
        height_BHW[generator.random(shape) < 0.05] = np.nan
        self.image_BCHW = generator.integers(0, 3000, (chips, 4, 64, 64)).astype(np.int16)
        self.stored_BCHW = torch.from_numpy(self.image_BCHW).to(device)
        self.predicted_BHW, self.measured_BHW = (
            torch.from_numpy(one.astype(np.float32)).to(device) for one in (predicted_BHW, height_BHW)
        )

    def validation_of_before(self) -> np.ndarray:
        return numpy_sums(self.predicted_BHW.cpu().numpy(), self.measured_BHW.cpu().numpy())[0].sum(0)

    def validation(self) -> list[Tensor]:
        return [exact_sums(chip_sums(self.predicted_BHW, self.measured_BHW))]

    def validation_and_loss_of_before(self) -> np.ndarray:
        loss_K = LOSS.sums(self.predicted_BHW, self.measured_BHW, self.measured_BHW.isfinite()).cpu()
        return np.concatenate([loss_K.numpy(), self.validation_of_before()])

    def validation_and_loss(self) -> list[Tensor]:
        known_BHW = self.measured_BHW.isfinite()
        losses_KB = LOSS.sums(self.predicted_BHW, self.measured_BHW, known_BHW, chip_totals)
        return [exact_sums(losses_KB.T), *self.validation()]

    def evaluation_of_before(self) -> np.ndarray:
        linear_BHW = torch.from_numpy(BASELINES.linear(self.image_BCHW))
        compared = self.predicted_BHW.cpu(), linear_BHW, linear_BHW * 0 + BASELINES.mean_height
        measured_BHW = self.measured_BHW.cpu().numpy()
        return np.concatenate([numpy_sums(one_BHW.numpy(), measured_BHW)[0] for one_BHW in compared])

    def evaluation(self) -> list[Tensor]:
        linear_BHW = linear(self.stored_BCHW, [BASELINES.coefficients])[:, 0]
        compared = self.predicted_BHW, linear_BHW, torch.full_like(linear_BHW, BASELINES.mean_height)
        return list(height_sums(compared, self.measured_BHW)[0])


if __name__ == "__main__":
    main()
