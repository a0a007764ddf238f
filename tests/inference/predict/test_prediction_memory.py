"""Windows that do not fit into memory are predicted fewer at a time, and the map says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from in_process import treeline
from regressors import small_regressor, stored_images, write_checkpoint, write_scene
from torch import nn

from inference.config import PredictConfig
from inference.predict.batch_search import most_windows, useful_batch
from inference.predict.block import metres_of_block
from inference.predict.in_process import InProcess
from inference.predict.map_options import MapOptions
from inference.predict.ready_block import ready_block
from inference.predict.run import predict
from inference.predict.scene_map import SMALLER_TAG
from inference.tiling.halo import Halo
from inference.tiling.windows import Block, Span, WindowGrid
from shards.errors import InputError
from trainer.model.normalise import Normalise

BATCH, BLOCKS = 8, 6


class Crowded:
    """A device that holds `most` windows at a time, as long as it is `full`."""

    def __init__(self, most: int, error: Callable[[str], Exception] = torch.OutOfMemoryError) -> None:
        self.most, self.error, self.full, self.batches = most, error, True, 0

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if isinstance(module, Normalise):
            self.batches += 1
            if self.full and len(inputs[0]) > self.most:
                raise self.error(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 16 GiB"
                )


class OnceFull(Crowded):
    """One whose memory is free after the first failure, and that is gone after some batches."""

    def __init__(self, most: int, batches: int) -> None:
        super().__init__(most)
        self._last = batches

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if self.batches > self._last:
            raise KeyboardInterrupt
        try:
            super().__call__(module, inputs)
        except RuntimeError:
            self.full = False
            raise


@contextmanager
def crowded(device: Any) -> Iterator[None]:
    """Let all models of this process compute on that device."""
    handle = nn.modules.module.register_module_forward_pre_hook(device)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PredictConfig:
    """A scene of six blocks."""
    folder = tmp_path_factory.mktemp("memory")
    checkpoint = write_checkpoint(folder / "checkpoint", small_regressor())
    write_scene(folder / "scene.tif", stored_images(1, 128, 192, seed=3)[0])
    return PredictConfig(
        (str(folder / "scene.tif"),), str(checkpoint), str(folder / "maps"), block=64, batch_size=BATCH
    )


def mapped(config: PredictConfig) -> tuple[Any, dict[str, str]]:
    """Pixels and metadata of the map."""
    (url,) = predict(config, InProcess()).maps.values()
    with rasterio.open(url) as raster:
        return raster.read(), raster.tags()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, torch.AcceleratorError])
def test_the_map_is_that_of_the_smaller_batch(
    config: PredictConfig, tmp_path: Path, capsys: Any, error: Any
) -> None:
    """Bit for bit, since each block is computed as a whole with the size that fits."""
    small, _ = mapped(replace(config, out=str(tmp_path / "small"), batch_size=2))
    whole, tags = mapped(replace(config, out=str(tmp_path / "whole")))
    assert SMALLER_TAG not in tags
    capsys.readouterr()
    with crowded(Crowded(3, error)):
        halved, tags = mapped(replace(config, out=str(tmp_path / "halved")))
    assert tags[SMALLER_TAG] == str(BLOCKS)
    assert tags["TREELINE_BATCH_SIZE"] == str(BATCH)
    assert np.array_equal(halved, small)
    assert np.abs(halved - whole).max() <= 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "do not fit" in line]
    assert line.startswith(f"treeline: {BATCH} windows at a time do not fit into memory; such blocks")


def test_heights_of_halves_are_equal_to_a_hundredth_of_a_millimetre() -> None:
    regressor = small_regressor()
    regressor.decoder.output.weight.data /= (
        4  # as large as after a training: sums of larger terms lose digits
    )
    image_CHW = stored_images(1, 128, 128, seed=5)[0]
    halo = Halo(image_CHW, 0, 0, (128, 128))
    block = Block(Span(0, 128), Span(0, 128))
    grid = WindowGrid(64, 32)
    ready = ready_block(regressor.normalise, block, halo, grid, torch.device("cpu"))
    metres = [
        metres_of_block(regressor, ready, MapOptions(grid, batch_size=size))[0][0] for size in (8, 4, 2, 1)
    ]
    assert metres[0].max() > 3
    assert all((one - metres[0]).abs().max() < 1e-5 for one in metres[1:])


def test_only_blocks_that_do_not_fit_are_counted_also_after_a_resume(
    config: PredictConfig, tmp_path: Path
) -> None:
    """The first block finds memory taken by somebody else; then the run is stopped, and run again."""
    whole, _ = mapped(replace(config, out=str(tmp_path / "whole")))
    stopped = replace(config, out=str(tmp_path / "stopped"))

    with pytest.raises(KeyboardInterrupt), crowded(OnceFull(4, batches=4)):
        predict(stopped, InProcess())
    assert len(list((tmp_path / "stopped").glob(".predict/*/*-smaller.block"))) == 1
    pixels, tags = mapped(stopped)
    assert tags[SMALLER_TAG] == "1"
    assert np.abs(pixels - whole).max() <= 1
    assert np.array_equal(pixels[:, 64:], whole[:, 64:])
    assert np.array_equal(pixels[:, :, 64:], whole[:, :, 64:])


def test_a_window_that_does_not_fit_ends_the_command_in_one_line(
    config: PredictConfig, tmp_path: Path
) -> None:
    options = ["--checkpoint", config.checkpoint, "--out", str(tmp_path / "out"), "--batch-size", "4"]
    with crowded(Crowded(0)):
        done = treeline("predict", *config.scenes, *options)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        "treeline: failed: OutOfMemoryError: cpu has too little memory for the model and one"
    )
    assert "--window" in said


def test_another_error_is_no_want_of_memory(config: PredictConfig, tmp_path: Path) -> None:
    def broken(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, Normalise):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"), crowded(broken):
        predict(replace(config, out=str(tmp_path / "out")), InProcess())


# --- the search for a batch size ---


class FakeDevice:
    """A device with a fixed time for each batch and each window, on which some numbers of windows fail."""

    def __init__(self, seconds: float, fits: int = 2**40, error: type[RuntimeError] = RuntimeError) -> None:
        self.seconds, self.fits, self.error, self.tried = seconds, fits, error, list[int]()

    def __call__(self, size: int) -> float:
        self.tried.append(size)
        if size > self.fits:
            raise self.error("CUDA error: invalid configuration argument")
        return self.seconds + size

    def per_window(self, size: int) -> float:
        return (self.seconds + size) / size


@pytest.mark.parametrize("seconds", [0.0, 0.3, 3.0, 50.0])
def test_the_search_stops_where_nothing_is_gained(seconds: float) -> None:
    device = FakeDevice(seconds)
    found = useful_batch(device, 1024)
    assert device.per_window(2 * found) > 0.95 * device.per_window(found)
    assert found == 1 or device.per_window(found) <= 0.95 * device.per_window(found // 2)
    assert max(device.tried) == 2 * found, "larger batches are not even tried"


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, torch.AcceleratorError])
def test_the_search_bears_every_error_and_takes_half_of_what_fits(error: type[RuntimeError]) -> None:
    for fits in (1, 2, 4, 64, 100, 1024):
        device = FakeDevice(1e6, fits, error)
        assert useful_batch(device, 1024) == max(1, 2 ** (int(np.log2(fits))) // 2)
        assert device.tried[-1] <= fits, "at last it is seen that the device still computes"


def test_the_search_has_an_end() -> None:
    device = FakeDevice(1e9)
    assert useful_batch(device, 1024) == 1024
    assert max(device.tried) == 2048
    assert [most_windows(side) for side in (32, 64, 112, 128, 256, 4096)] == [4096, 1024, 256, 256, 64, 1]


def test_a_device_that_is_lost_in_the_search_is_told() -> None:
    device = FakeDevice(1e6, 16)

    def compute(size: int) -> float:
        if max(device.tried, default=0) > 16:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return device(size)

    with pytest.raises(InputError, match=r"fails with 32 windows.*, and then with 8 .*give --batch-size 8"):
        useful_batch(compute, 1024)
    with pytest.raises(InputError, match="--batch-size 0: the device fails with 1 windows"):
        useful_batch(FakeDevice(1.0, 0), 1024)
