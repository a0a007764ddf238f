"""What the checks share: sizes, data, trainings, and clocks.

Imports beyond torch and NumPy stand inside functions: a machine that lacks a package leaves out only the
checks that need it.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from shards.read.dataset import Dataset
    from trainer.config import TrainConfig
    from trainer.devices.choice import Precision
    from trainer.fit.loop import Fit
    from trainer.model.regressor import Regressor

BANDS = ("blue", "green", "red", "nir")
SEEN = ("nir", "red", "green")
SMALL = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 16,
    "image_size": 64,
    "num_register_tokens": 4,
}
"""Backbone for checks of equality."""
VITL = {
    **SMALL,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
"""Shape of facebook/dinov3-vitl16-pretrain-sat493m; random weights take the same time."""
VITB = {
    **SMALL,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
SEVEN_BILLION = {
    **SMALL,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "use_gated_mlp": True,
}
"""Shape of facebook/dinov3-vit7b16-pretrain-sat493m."""
NARROW = (16, 8, 8, 8)
"""Widths of decoders whose speed nobody asks for: a CPU takes seconds for a step of wide ones."""
FROZEN_TOKENS = {"flips": False, "brightness": 0.0, "band_dropout": 0.0, "tune": "frozen"}
"""Options of training with stored tokens, which are those of chips as they are."""


@dataclass(frozen=True)
class Finding:
    """A figure that a check found."""

    what: str
    figure: float
    unit: str = ""
    passed: bool | None = None
    """Whether it is as it should be; None: there is no goal."""
    goal: str = ""
    """The goal, as a reader wants it."""


def equal(what: str, is_equal: bool) -> Finding:
    """Return the finding that two things are the same bits, or are not."""
    return Finding(what, float(is_equal), "", is_equal, "the same bits")


def holds(what: str, is_so: bool) -> Finding:
    """Return the finding that something is so, or is not."""
    return Finding(what, float(is_so), "", is_so, "1")


def at_most(what: str, figure: float, most: float, unit: str = "") -> Finding:
    """Return a figure that must not be above `most`."""
    return Finding(what, figure, unit, figure <= most, f"at most {most:g}")


def at_least(what: str, figure: float, least: float, unit: str = "") -> Finding:
    """Return a figure that must not be below `least`."""
    return Finding(what, figure, unit, figure >= least, f"at least {least:g}")


def as_figure(finding: Finding) -> Finding:
    """Return a finding without its goal, which is one for GPUs."""
    return Finding(finding.what, finding.figure, finding.unit)


class Left(Exception):
    """Raised by a check that cannot be made here; says why."""


@dataclass(frozen=True)
class Bench:
    """The device, and how large everything is."""

    device: torch.device
    folder: Path
    """Folder for data, which later processes find again."""
    tiny: bool
    """Whether everything is small, to try the script itself on a CPU."""
    limits: dict[str, float] = field(default_factory=dict)
    """What `limits` measured, by name."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def large(self) -> dict[str, Any]:
        """Shape of the backbone whose speed is measured."""
        return SMALL if self.tiny else VITL

    @property
    def fast(self) -> "Precision":
        """Precision in which speed is measured: many CPUs compute bfloat16 tens of times slower."""
        return "float32" if self.tiny else "bf16"

    def of_size(self, full: int, tiny: int) -> int:
        """Return a number of things."""
        return tiny if self.tiny else full

    # --- data ---

    def chips(self, count: int, dtype: str = "int16", size: int = 64, val: int = 0) -> "Dataset":
        """Open a dataset of `count` training chips and `val` validation chips of noise on waves.

        Args:
            count: number of training chips.
            dtype: type of the pixels.
            size: pixels along each side.
            val: number of validation chips.
        """
        from shards.format.schema import Chip, Schema
        from shards.read.dataset import open_dataset
        from shards.write.writer import DatasetWriter

        out = self.folder / f"{dtype}-{size}-{count}-{val}"
        if not (out / "dataset.json").exists():
            schema = Schema(BANDS, dtype, None, size)
            generator = np.random.default_rng(0)
            with DatasetWriter(str(out), schema, {"command": "benchmark"}, max(1, count // 8)) as writer:
                for number in range(count + val):
                    image_CHW, height_HW = _chip(generator, schema.image_shape, dtype)
                    split = "train" if number < count else "val"
                    writer.add(Chip(f"{split}{number:06d}", image_CHW, height_HW), split)
                writer.finish()
        return open_dataset(str(out))

    def tiles(self, count: int, size: int) -> str:
        """Write a dataset of unlabelled tiles of 12 bands; return its place."""
        from benchmarks.pretrain import write_tiles

        out = self.folder / f"tiles-{size}-{count}"
        return str(out) if (out / "dataset.json").exists() else write_tiles(out, count, size)

    # --- models and trainings ---

    def backbone(self, shape: dict[str, Any], bands: int = len(SEEN)) -> str:
        """Write a backbone with random weights in transformers' layout; return its folder."""
        from trainer.model.backbone import build_backbone

        name = f"backbone-{shape['hidden_size']}-{shape['num_hidden_layers']}-{bands}"
        if not (self.folder / name / "config.json").exists():
            torch.manual_seed(0)
            build_backbone({**shape, "num_channels": bands}).save_pretrained(self.folder / name)
        return str(self.folder / name)

    def regressor(self, shape: dict[str, Any], **options: Any) -> "Regressor":
        """Return an untrained regressor on the device; `options` are those of ModelOptions."""
        from trainer.model.make import new_regressor
        from trainer.options import ModelOptions

        chosen = ModelOptions(backbone=self.backbone(shape), bands=SEEN, **(self._narrow(options) | options))
        torch.manual_seed(0)
        return new_regressor(self.chips(64), chosen).to(self.device).eval()

    def _narrow(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the widths of a decoder where everything is small."""
        return {"decoder_widths": NARROW} if self.tiny and options.get("decoder") != "linear" else {}

    def config(self, dataset: "Dataset", shape: dict[str, Any], **options: Any) -> "TrainConfig":
        """Return the configuration of a training of heights."""
        from trainer.config import TrainConfig

        given = {"backbone": self.backbone(shape), "bands": SEEN, "average": 0.0}
        given |= self._narrow(options) | options
        return TrainConfig.of(dataset.url, str(self.folder / "run"), **given)

    def fit(self, config: "TrainConfig", device: torch.device | None = None) -> "Fit":
        """Make a training ready for its first step."""
        from trainer.commands.train import new_fit
        from trainer.devices.ranks import Ranks

        return new_fit(config, Ranks(device=device or self.device))

    # --- clocks and memory ---

    def finish(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int = 3, warm_up: int = 1) -> float:
        """Return the median of the seconds that `work` takes, with what it leaves on the device to do."""
        taken = list[float]()
        for number in range(warm_up + rounds):
            self.finish()
            start = time.perf_counter()
            work()
            self.finish()
            if number >= warm_up:
                taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Measure the most memory (GB) that tensors take, beyond what they take now; one number at the end.

        On a CPU it counts nothing and gives NaN.
        """
        measured = list[float]()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        yield measured
        if self.on_gpu:
            self.finish()
            measured.append((torch.cuda.max_memory_allocated(self.device) - before) / 1e9)
        else:
            measured.append(float("nan"))


@dataclass(frozen=True)
class Check:
    """A question to the device."""

    name: str
    seconds: float
    """Seconds after which it is given up."""
    run: Callable[[Bench], Iterator[Finding]]


def steps_of(fit: "Fit", steps: int) -> list[float]:
    """Run that many steps of a training; return their losses. The training stands after the last one."""
    from trainer.run_folder.state_callback import StateCallback

    class Enough(Exception):
        pass

    class Losses(StateCallback):
        def __init__(self) -> None:
            super().__init__()
            self.losses = list[float]()
            self.last = fit.position.step + steps

        def may_save(self, step: int) -> bool:
            return step >= self.last  # so that nothing of the next step is queued

        def after_step(self, fit: "Fit", chips: int, loss: float) -> None:
            self.losses.append(loss)
            if len(self.losses) == steps:
                raise Enough

    callback = Losses()
    with suppress(Enough):
        fit.run(callback)
    return callback.losses


def apart(ours: list[float], theirs: list[float]) -> float:
    """Return the largest difference of two lists, as a share of the second one's numbers."""
    return max(abs(one - other) / max(abs(other), 1e-12) for one, other in zip(ours, theirs, strict=True))


@cache
def waves(size: int) -> np.ndarray:
    """Return waves_HW from -1 to 1."""
    row_HW, column_HW = np.indices((size, size))
    waves_HW: np.ndarray = np.sin(row_HW / 7) * np.cos(column_HW / 5)
    return waves_HW


def _chip(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the image_CHW and height_HW of a chip."""
    top = 200 if dtype == "uint8" else 3000
    waves_HW = waves(shape[-1])
    image_CHW = top * (0.5 + 0.2 * waves_HW + generator.normal(0, 0.05, shape))
    height_HW = np.maximum(
        0, 3 + 3 * waves_HW * generator.random() + generator.normal(0, 0.5, waves_HW.shape)
    )
    return np.clip(image_CHW, 1, top).astype(dtype), height_HW.astype(np.float32)


def read_limits(folder: Path) -> dict[str, float]:
    """Return the limits that an earlier check wrote, by name; none if it did not run."""
    path = folder / "limits.json"
    return json.loads(path.read_text()) if path.exists() else {}
