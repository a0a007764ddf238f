"""Options that change how torch computes, not what is learnt: compiled, repeatable, bfloat16, channels last.

- Compiled code gives the losses of uncompiled code, and what it leaves is an ordinary run.
- --deterministic gives the same bits twice, with every decoder, and is over when the run is.
- In bfloat16 losses stay finite and near those in float32; weights stay float32.
- Channels last is a matter of memory alone: the same heights, also after learning and going on.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regressors import fitted, small_config, small_regressor, stored_images, write_dataset

from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands.train import fit_of, resumed_fit
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.decoders.features import DecoderConfig, memory_format
from trainer.devices.ranks import Ranks
from trainer.fit.callback import Callback
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.make import new_regressor
from trainer.run_folder.state_callback import StateCallback

DECODERS = {"detail": (16, 8, 8, 8), "residual": (16, 8, 8, 8), "dpt": (32, 16, 16, 8), "linear": ()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """18 chips: with batches of 8 the last one has 2."""
    return write_dataset(tmp_path_factory.mktemp("chips") / "chips", chips=18)


@pytest.fixture(autouse=True)
def _afterwards_as_before() -> Iterator[None]:
    """Whatever a test does, torch computes afterwards as it did before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()


def records_of(out: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def config_for(dataset: Dataset, backbone: Path, decoder: str = "residual", **options: Any) -> TrainConfig:
    options = {"decoder": decoder, "decoder_widths": DECODERS[decoder], "learning_rate": 1e-4, **options}
    return small_config(dataset, backbone, **options)


class Steps(StateCallback):
    """Notes each step's loss, and whether torch was asked to repeat itself."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.repeatable: list[bool] = []

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        self.repeatable.append(torch.are_deterministic_algorithms_enabled())


def steps_of(dataset: Dataset, config: TrainConfig, device: str = "cpu") -> tuple[Fit, Steps]:
    """A run without files."""
    torch.manual_seed(config.fit.seed)
    ranks = Ranks(device=torch.device(device))
    regressor = new_regressor(dataset, config.model).to(ranks.device)
    fit = fit_of(regressor, Learning(dataset, dataset.chips("train"), np.arange(0), ranks), config)
    steps = Steps()
    fit.run(steps)
    return fit, steps


# --- compiled ---


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own: a process that is killed can leave half a library in the common one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()


# torch 2.13's compiler uses what torch itself gives up, and looks at gradients where there are none.
COMPILING = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)


@COMPILING
@pytest.mark.usefixtures("compiler")
@pytest.mark.slow
def test_a_compiled_step_gives_the_same_losses(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    """For one shape of batch: the compiler takes its time for each."""
    plain = config_for(dataset, backbone, "linear", out=str(tmp_path / "plain"), batch_size=18)
    compiled = plain.with_options(out=str(tmp_path / "compiled"), compile=True)
    launch(plain)
    launch(compiled)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    losses, compiled_losses = ([r["loss"] for r in records_of(run.out)] for run in (plain, compiled))
    assert compiled_losses == pytest.approx(losses, rel=1e-4)


@COMPILING
@pytest.mark.usefixtures("compiler")
@pytest.mark.long
@pytest.mark.timeout(600)
def test_compiled_code_gives_the_same_losses_and_leaves_an_ordinary_run(
    dataset: Dataset, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the last, shorter batch; it is stopped, and goes on without a compiler."""
    options = {"learning_rate": 2e-5, "dropout": 0.0, "epochs": 3}
    plain = config_for(dataset, backbone, "detail", out=str(tmp_path / "plain"), **options)
    compiled = plain.with_options(out=str(tmp_path / "compiled"), compile=True)
    launch(plain)
    train_epoch = Fit._train_epoch

    def stopped(fit: Fit, callback: Callback) -> None:
        if fit.position.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(fit, callback)

    monkeypatch.setattr(Fit, "_train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        launch(compiled)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    monkeypatch.setattr(Fit, "_train_epoch", train_epoch)
    launch(compiled.with_options(compile=False, resume="auto"))
    losses, compiled_losses = ([r["loss"] for r in records_of(run.out)] for run in (plain, compiled))
    assert compiled_losses == pytest.approx(losses, rel=1e-4)
    assert losses[2] < losses[0]
    names = load_checkpoint(compiled.out).regressor.state_dict().keys()
    assert names == load_checkpoint(plain.out).regressor.state_dict().keys()


def test_without_a_compiler_compiling_is_refused_in_one_line(
    dataset: Dataset, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"--compile: no C\+\+ compiler here .*; install one") as refused:
        launch(config_for(dataset, backbone, out=str(tmp_path / "run"), compile=True))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


# --- the same bits ---


@pytest.mark.parametrize("decoder", DECODERS)
def test_deterministic_gives_the_same_bits_and_is_over_when_the_run_is(
    dataset: Dataset, backbone: Path, decoder: str
) -> None:
    config = config_for(dataset, backbone, decoder, epochs=1, deterministic=True, dropout=0.2)
    (one, steps), (again, steps_again) = steps_of(dataset, config), steps_of(dataset, config)
    assert steps.losses == steps_again.losses
    assert steps.repeatable == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_without_deterministic_torch_is_left_alone(dataset: Dataset, backbone: Path) -> None:
    assert steps_of(dataset, config_for(dataset, backbone, epochs=1))[1].repeatable == [False] * 3


def test_deterministic_is_over_also_when_a_run_fails(dataset: Dataset, backbone: Path) -> None:
    wild = config_for(dataset, backbone, deterministic=True, learning_rate=1e30, gradient_norm=1e30)
    with pytest.raises(FloatingPointError):
        steps_of(dataset, wild)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_deterministic_run_tells_cublas_before_a_gpu_is_used(
    dataset: Dataset, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user says counts more."""
    config = config_for(dataset, backbone, deterministic=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    resumed_fit(config, Ranks())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    resumed_fit(config, Ranks())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_deterministic_gives_the_same_bits_on_a_gpu(
    dataset: Dataset, backbone: Path, decoder: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = config_for(dataset, backbone, decoder, deterministic=True, precision=precision)
    one, again = steps_of(dataset, config, "cuda")[1], steps_of(dataset, config, "cuda")[1]
    assert one.losses == again.losses


# --- bfloat16, channels last ---


@pytest.mark.parametrize("decoder", DECODERS)
def test_bfloat16_stays_finite_and_near(dataset: Dataset, backbone: Path, decoder: str) -> None:
    """It has 8 bits of precision: half a percent a number."""
    config = config_for(dataset, backbone, decoder, epochs=1)
    full = [record["loss"] for record in fitted(dataset, config)[1]]
    regressor, records = fitted(dataset, config.with_options(precision="bf16"))
    half = [record["loss"] for record in records]
    assert np.isfinite(half).all()
    assert half == pytest.approx(full, rel=2e-2)
    assert half != full
    assert {tensor.dtype for tensor in regressor.parameters()} == {torch.float32}


def test_channels_lie_side_by_side_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory stands for a GPU."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    formats = [memory_format(device, norm) for device in (cpu, gpu) for norm in ("batch", "group")]
    assert formats == [*[torch.channels_last] * 3, torch.contiguous_format]
    monkeypatch.setattr(
        "trainer.model.pixel_model.memory_format",
        lambda device, norm: memory_format(gpu if device.type == "meta" else device, norm),
    )
    for norm, side_by_side in (("batch", True), ("group", False)):
        regressor = small_regressor(decoder=DecoderConfig((16, 8, 8, 8), norm)).to("meta")
        wide = [weight for weight in regressor.decoder.parameters() if weight.dim() == 4]
        wide = [weight for weight in wide if 1 not in weight.shape]
        assert wide
        assert all(weight.is_contiguous(memory_format=torch.channels_last) == side_by_side for weight in wide)


def test_channels_last_is_a_matter_of_memory(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    """In the decoder's weights while they learn and after going on; heights are those of plain memory."""
    config = config_for(dataset, backbone, "detail", out=str(tmp_path / "run"), epochs=1)
    launch(config)
    fit = resumed_fit(config.with_options(epochs=2), Ranks())
    fit.run(StateCallback())
    wide = [
        weight for weight in fit.model.decoder.parameters() if weight.dim() == 4 and 1 not in weight.shape
    ]
    assert wide
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)
    regressor = fit.model.eval()
    image_BCHW = torch.from_numpy(stored_images(4))
    last_BHW, _ = regressor.predict(image_BCHW)
    regressor.decoder.to(memory_format=torch.contiguous_format)
    plain_BHW, _ = regressor.predict(image_BCHW)
    torch.testing.assert_close(last_BHW, plain_BHW, rtol=1e-4, atol=1e-4)
