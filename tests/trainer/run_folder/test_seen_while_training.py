"""What is seen while training runs: where the time goes, how much arithmetic it is, who is told.

- Each second is counted once: waiting, computing, communication or saving; a delay shows where it is.
- A GPU that has yet to finish a step when the next one may be queued is busy; no clock waits to learn it.
- Operations are those of the formulas; what is computed twice to save memory is counted once.
- Each epoch says one line, and TensorBoard and MLflow have the same numbers; metrics.jsonl has none of them.
- MLflow: options, numbers, the same run after going on; a lost server stops nothing; no credentials.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import PROCESSES, in_group, run_ranks
from mlflow.tracking import MlflowClient
from ray_machines import PATIENCE_SECONDS, wait_until
from regressors import local_backbone, small_config, write_dataset
from servers import free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainer.fit.loop
from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands.train import new_fit
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.data.feed import Fed
from trainer.devices.clock import COMMUNICATION, STEPPING, WAITING, Clock, TimeSpent
from trainer.devices.ranks import Ranks
from trainer.fit.callback import Callback
from trainer.fit.flops import peak_flops, published_peak, training_flops
from trainer.fit.loop import Fit
from trainer.model.make import new_regressor
from trainer.run_folder.epoch_rate import EpochRate, epoch_rate, slow_end
from trainer.run_folder.mlflow_log import EXPERIMENT, RUN, MlflowLog, check_mlflow
from trainer.run_folder.state_callback import StateCallback

BIN = Path(sys.executable).parent
STEPS = 3
DELAY_SECONDS = 0.25


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """18 chips to train on in 3 steps, some held out."""
    return write_dataset(tmp_path_factory.mktemp("chips") / "chips", chips=24, val_share=0.25)


@pytest.fixture(scope="module")
def config(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    backbone = local_backbone(tmp_path_factory.mktemp("backbone"))
    return small_config(dataset, backbone, decoder="linear", decoder_widths=())


# --- where the time goes ---


class HandClock:
    """A clock that goes on when a test says so: no figure depends on how fast the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Slow(StateCallback):
    """Takes its time after each step."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self.clock = clock

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.clock.pass_by(DELAY_SECONDS)


def test_a_clock_counts_what_began_and_ended() -> None:
    hand = HandClock()
    clock = Clock(torch.device("cpu"), hand)
    clock.stop(COMMUNICATION)
    clock.start(WAITING)
    hand.pass_by(2)
    clock.stop(WAITING)
    hand.pass_by(16)
    clock.start(STEPPING)
    hand.pass_by(4)
    clock.start(COMMUNICATION)
    hand.pass_by(8)
    clock.stop(COMMUNICATION)
    clock.stop(STEPPING)
    assert clock.spent(chips=5) == TimeSpent(chips=5, seconds=30, waiting=2, computing=4, communication=8)
    clock.restart()
    assert clock.spent(0) == TimeSpent()


def test_a_clock_that_nobody_handed_in_is_the_machines() -> None:
    clock = Ranks().clock
    clock.start(WAITING)
    time.sleep(0.02)
    clock.stop(WAITING)
    spent = clock.spent(0)
    assert 0.02 <= spent.waiting <= spent.seconds
    assert (spent.computing, spent.communication) == (0, 0)


class Gpu:
    """What a clock asks of a GPU: it works off what is queued, and stamps events when it gets there."""

    def __init__(self, hand: HandClock) -> None:
        self.hand, self.free_at = hand, 0.0

    def queue(self, seconds: float) -> None:
        """Queue work that takes so long."""
        self.free_at = max(self.hand.now, self.free_at) + seconds

    def event(self) -> type:
        """Return the kind of events that this GPU stamps."""
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = float("inf")

            def record(self, stream: Any) -> None:
                gpu.queue(0)
                self.at = gpu.free_at

            def query(self) -> bool:
                return gpu.hand.now >= self.at

            def synchronize(self) -> None:
                gpu.hand.now = max(gpu.hand.now, self.at)

            def elapsed_time(self, end: Any) -> float:
                return 1e3 * float(end.at - self.at)

        return Event


@pytest.mark.parametrize(
    ("of_gpu", "of_process", "busy", "waiting"),
    [(10, 1, 1.0, 1), (1, 10, 0.0, 4), (3, 2, 1.0, 1.9)],
    ids=["the GPU is slower", "the process is slower", "the GPU is slower than either, not than both"],
)
def test_a_gpu_that_lies_behind_is_busy(
    of_gpu: int, of_process: int, busy: float, waiting: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps whose passes take the one and the other so long, in ten kernels, after a second for a batch.

    A GPU that has work while the process waits for a batch does not wait.
    """
    hand = HandClock()
    gpu = Gpu(hand)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock = Clock(torch.device("cuda"), hand)
    for _ in range(4):
        clock.start(WAITING)
        hand.pass_by(1)
        clock.stop(WAITING)
        clock.start(STEPPING)
        for _ in range(10):
            hand.pass_by(of_process / 10)
            gpu.queue(of_gpu / 10)
        clock.passes_queued()
        hand.pass_by(0.5)
        clock.step_queued()
        clock.stop(STEPPING)
    spent = clock.spent(chips=4)
    assert spent.busy == busy
    assert spent.waiting == pytest.approx(waiting)
    assert spent.seconds == pytest.approx(max(hand.now, gpu.free_at))
    assert spent.waiting + spent.computing == pytest.approx(spent.seconds)
    clock.restart()
    assert clock.spent(0).busy is None


def test_each_step_asks_once_whether_it_kept_the_gpu_busy(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the gradients are there, and when the step is queued with all its pieces; a CPU has no answer."""
    noted = list[str]()
    for name in ("passes_queued", "step_queued"):
        monkeypatch.setattr(Clock, name, lambda clock, name=name: noted.append(name))
    fit = new_fit(config.with_options(epochs=1, accumulate=2), Ranks())
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *arguments: noted.append("norm") or clip(*arguments)
    )
    fit.run(StateCallback())
    assert noted == ["passes_queued", "norm", "step_queued"] * STEPS
    assert fit.spent.busy is None


def test_a_delay_shows_where_it_is(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config, hand = config.with_options(epochs=1), HandClock()
    saving, waiting, computing = (new_fit(config, Ranks(seconds_now=hand)) for _ in range(3))
    saving.run(Slow(hand))
    delay = STEPS * DELAY_SECONDS
    chips = saving.learning.train_chips.size
    assert saving.spent == TimeSpent(chips, seconds=delay)

    step = Fit._step

    def slow_step(fit: Fit, fed: Fed) -> None:
        hand.pass_by(DELAY_SECONDS)
        step(fit, fed)

    monkeypatch.setattr(Fit, "_step", slow_step)
    computing.run(StateCallback())
    monkeypatch.undo()
    assert computing.spent == TimeSpent(chips, seconds=delay, computing=delay)

    feed = trainer.fit.loop.feed

    def slow_feed(*arguments: Any) -> Iterator[Any]:
        for fed in feed(*arguments):
            hand.pass_by(DELAY_SECONDS)
            yield fed

    monkeypatch.setattr(trainer.fit.loop, "feed", slow_feed)
    waiting.run(StateCallback())
    assert waiting.spent == TimeSpent(chips, seconds=delay, waiting=delay)


@dataclass
class SharedClock:
    """The clock of two ranks: it goes on while the faster one waits for the slower one's gradients."""

    now: Any
    """Of multiprocessing: seconds."""
    is_waiting: Any
    """Of multiprocessing: an event, that the faster rank has found all its gradients."""
    has_gradient: bool = False

    def __call__(self) -> float:
        """What it says; in the faster rank's backward pass it is read when all gradients are there."""
        now = float(self.now.value)
        if self.has_gradient:
            self.has_gradient = False
            self.is_waiting.set()
        return now

    def gradient_found(self, gradient: torch.Tensor) -> None:
        self.has_gradient = True

    def wait_and_go_on(self, gradient: torch.Tensor) -> None:
        assert self.is_waiting.wait(PATIENCE_SECONDS)
        self.is_waiting.clear()
        self.now.value += DELAY_SECONDS


def train_slowly(rank: int, config: TrainConfig, folder: Path, clock: SharedClock) -> None:
    """In a process of its own: the second rank's gradients come late."""
    spent = in_group(rank, 2, folder / "rendezvous", lambda ranks: spent_slowly(config, ranks, clock))
    (folder / str(rank)).write_text(json.dumps(vars(spent)))


def spent_slowly(config: TrainConfig, ranks: Ranks, clock: SharedClock) -> TimeSpent:
    fit = new_fit(config, replace(ranks, seconds_now=clock))
    first = next(p for p in fit.model.decoder.parameters() if p.requires_grad)
    first.register_hook(clock.wait_and_go_on if ranks.rank == 1 else clock.gradient_found)
    fit.run(StateCallback())
    return fit.spent


@pytest.mark.slow
def test_waiting_for_the_gradients_of_a_slower_rank_is_communication(
    config: TrainConfig, tmp_path: Path
) -> None:
    """For the faster rank; the slower one computes meanwhile."""
    clock = SharedClock(PROCESSES.Value("d", 0.0), PROCESSES.Event())
    run_ranks(train_slowly, 2, (config.with_options(epochs=1), tmp_path, clock))
    fast, slow = (TimeSpent(**json.loads((tmp_path / str(rank)).read_text())) for rank in range(2))
    delay = STEPS * DELAY_SECONDS
    assert (fast.waiting, fast.computing, fast.communication) == (0, 0, delay)
    assert (slow.waiting, slow.computing, slow.communication) == (0, delay, 0)
    assert slow.seconds == delay


# --- how much arithmetic ---


def backbone_flops(tokens: int, width: int, hidden: int, layers: int, patches: int, bands: int) -> int:
    """Forward, by the formulas of a ViT; patches of 16 x 16."""
    in_a_block = 4 * tokens * width**2 + 2 * tokens * width * hidden + 2 * tokens**2 * width
    return 2 * (layers * in_a_block + patches * width * bands * 16 * 16)


def test_operations_are_those_of_the_formulas(dataset: Dataset, config: TrainConfig) -> None:
    """A backward pass takes twice a forward one; no gradient goes to the pixels, nor to what is frozen."""
    forward = backbone_flops(9, 32, 64, 2, 4, 3)
    decoder = training_flops(
        new_regressor(dataset, config.with_options(tune="frozen").model), stored_tokens=True
    )
    frozen = training_flops(new_regressor(dataset, config.with_options(tune="frozen").model))
    assert frozen == decoder + forward
    everything = training_flops(new_regressor(dataset, config.model))
    embedding = 2 * 4 * 32 * 3 * 16 * 16
    into_features = decoder / 2  # one product: when frozen, forward and its weights' gradient
    assert everything == decoder + into_features + 3 * forward - embedding


def test_counting_changes_nothing_and_counts_nothing_twice(dataset: Dataset, config: TrainConfig) -> None:
    regressor = new_regressor(dataset, config.model)
    before = {name: tensor.clone() for name, tensor in regressor.state_dict().items()}
    random = torch.get_rng_state()
    once = training_flops(regressor)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in regressor.parameters())
    for name, tensor in regressor.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert (
        training_flops(new_regressor(dataset, config.with_options(recompute_activations=True).model)) == once
    )


def test_a_peak_is_told_of_known_devices_alone() -> None:
    assert published_peak("NVIDIA H100 80GB HBM3", "bf16") == pytest.approx(989.4e12)
    assert published_peak("NVIDIA H100 PCIe", "bf16") == 756e12
    assert published_peak("NVIDIA H200", "bf16") == published_peak("NVIDIA H100 80GB HBM3", "bf16")
    assert published_peak("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert published_peak("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert published_peak("Tesla V100-SXM2-32GB", "bf16") is None
    assert published_peak("Tesla V100-SXM2-32GB", "fp16") == 125e12
    assert published_peak("Tesla V100-SXM2-32GB", "tf32") == 15.7e12  # it has no TF32
    assert published_peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16") is None
    assert published_peak("A GPU of tomorrow", "bf16") is None
    assert peak_flops(torch.device("cpu"), "bf16") is None


def test_an_epoch_in_a_line(config: TrainConfig) -> None:
    record = {"epoch": 3, "loss": 2.0, "val_loss": 1.25, "val_rmse": 2.104}
    summary = new_fit(config, Ranks()).objective.summary
    spent = TimeSpent(chips=2468, seconds=2.0, waiting=0.04, computing=1.5, communication=0.1)
    alone = epoch_rate(spent, 1e6, Ranks(), config.fit)
    assert alone.line(3, summary(record), "chips") == "epoch 3: val_loss 1.25, RMSE 2.10 m; 1,234 chips/s"
    one_of_two = epoch_rate(spent, 4e8, Ranks(0, 2), config.fit)
    assert one_of_two.line(1, summary({"epoch": 1, "loss": 2.0}), "tiles") == (
        "epoch 1: loss 2; 1,234 tiles/s"
    )
    on_gpu = replace(one_of_two, busy=0.97, utilisation=0.38, peak_memory_gb=11.21)
    assert on_gpu.line(2, summary(record), "chips").endswith(
        "1,234 chips/s; 247 GFLOP/s (38% of the device's peak); 11.2 GB"
    )
    assert epoch_rate(spent, 4e8, Ranks(0, 2), replace(config.fit, shard_model=True)).communication is None


WELL = EpochRate(100.0, 0.02, 0.9, 0.05, 0.97, 1.0, 0.4, 8.0)
REMOTE = "s3://bucket/chips"


@pytest.mark.parametrize(
    ("rate", "data", "resolved", "what", "said"),
    [
        ({"waiting_for_data": 0.4}, REMOTE, {"cache": ""}, "reading", "40% of epoch 3 .* --cache FOLDER"),
        ({"waiting_for_data": 0.4}, REMOTE, {"cache": "c"}, "reading", "; bring the dataset nearer$"),
        ({"waiting_for_data": 0.4}, "chips", {}, "reading", "waiting for chips; copy .* to a faster disk"),
        ({"communication": 0.3}, "chips", {}, "the exchange between workers", "30% .*; give fewer --workers"),
        ({"computing": 0.6}, "chips", {"checkpoint_steps": 5}, "saving states", "33% .* --checkpoint-steps"),
        ({"busy": 0.4}, "chips", {}, "the process that queues work", "in 60% of .* --compile, or .*size"),
        (
            {"busy": 0.4},
            "chips",
            {"compile": True},
            "the process that queues work",
            "; give a larger --batch",
        ),
    ],
)
def test_what_is_slow_is_named_with_what_to_set(
    rate: dict[str, float], data: str, resolved: dict[str, Any], what: str, said: str
) -> None:
    found = slow_end(replace(WELL, **rate), 3, data, resolved)  # type: ignore[arg-type]
    assert found is not None
    assert found.what == what
    assert re.search(said, found.why), found.why


def test_nothing_is_said_of_an_epoch_that_is_well() -> None:
    assert slow_end(WELL, 3, "chips", {"checkpoint_steps": 5}) is None
    on_cpu = replace(WELL, communication=None, busy=None, computing=0.97)
    assert slow_end(on_cpu, 3, REMOTE, {}) is None
    assert slow_end(replace(WELL, computing=0.5), 3, "chips", {"checkpoint_steps": 0}) is None


def test_what_is_slow_is_said_once(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the epochs are, and however fast they are read."""
    monkeypatch.setattr("trainer.run_folder.run_writer.SLOW_SECONDS", 0.0)
    monkeypatch.setattr("trainer.run_folder.epoch_rate.SLOW", 1e-6)
    launch(config.with_options(out=str(tmp_path / "run")))
    (slow,) = [line for line in capsys.readouterr().err.splitlines() if " is slow: " in line]
    assert re.match(r"treeline: reading is slow: \d+% of epoch 1 was spent waiting for ", slow)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_tells_its_memory_and_its_shares(config: TrainConfig) -> None:
    ranks = Ranks(device=torch.device("cuda"))
    fit = new_fit(config.with_options(epochs=1), ranks)
    fit.run(StateCallback())
    spent, rate = fit.spent, epoch_rate(fit.spent, fit.flops_per_chip, ranks, fit.options)
    assert rate.peak_memory_gb
    assert rate.busy is not None
    assert 0 <= rate.busy <= 1
    assert 0 < spent.computing <= spent.seconds
    assert spent.waiting + spent.computing <= 1.01 * spent.seconds


# --- who is told ---


def test_each_epoch_says_a_line_and_metrics_stay_the_same_in_every_run(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        launch(config.with_options(out=str(run)))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"] * 2
    assert all(line.endswith(" chips/s") for line in lines), "nothing says what no option can change"
    one, two = ((run / "metrics.jsonl").read_bytes() for run in runs)
    assert one == two
    log = EventAccumulator(str(runs[0] / "tensorboard"))
    log.Reload()
    shown = {tag for tag in log.Tags()["scalars"] if tag.startswith("time/")}
    assert shown == {
        f"time/{name}" for name in ("chips_per_second", "waiting_for_data", "computing", "gflop_per_second")
    }
    for tag in ("time/waiting_for_data", "time/computing"):
        assert all(0 <= event.value <= 1 for event in log.Scalars(tag))


# --- MLflow ---


@contextmanager
def mlflow_server(folder: Path, port: int = 0) -> Iterator[str]:
    """A tracking server of MLflow's own; its address."""
    port = port or free_port()
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        deadline = time.monotonic() + 200
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                assert time.monotonic() < deadline, "MLflow's server does not start"
                assert process.poll() is None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mlflow_has_options_and_numbers_also_after_going_on(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that goes on is the same one there; each epoch is there once."""
    run = tmp_path / "run"
    train_epoch = Fit._train_epoch

    def stopped(fit: Fit, callback: Callback) -> None:
        if fit.position.epoch == 1:
            raise KeyboardInterrupt
        train_epoch(fit, callback)

    with mlflow_server(tmp_path) as uri:
        config = config.with_options(out=str(run), mlflow=uri)
        monkeypatch.setattr(Fit, "_train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            launch(config)
        monkeypatch.undo()
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment
        (before,) = client.search_runs([experiment.experiment_id])
        assert before.info.status == "KILLED"
        assert before.info.run_name == str(run)
        assert before.data.params["batch_size"] == "8"
        assert before.data.params["bands"] == "['nir', 'red', 'green']"
        assert_the_same_numbers(client, before.info.run_id, run)
        launch(config.with_options(resume="auto"))
        (after,) = client.search_runs([experiment.experiment_id])
        assert after.info.run_id == before.info.run_id
        assert after.info.status == "FINISHED"
        assert_the_same_numbers(client, after.info.run_id, run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def assert_the_same_numbers(client: MlflowClient, run_id: str, run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "val_loss", "val_rmse"):
        history = client.get_metric_history(run_id, name)
        assert [(metric.step, metric.value) for metric in history] == [
            (record["epoch"], record[name]) for record in records
        ]
    rates = client.get_metric_history(run_id, "time/chips_per_second")
    assert [metric.step for metric in rates] == [record["epoch"] for record in records]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_a_lost_server_missed_is_sent_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    log = MlflowLog(f"http://127.0.0.1:{port}", str(tmp_path / "run"), {"seed": 0})
    log.add({"loss": 2.0}, 0)
    wait_until(lambda: "cannot be reached" in capsys.readouterr().err)
    with mlflow_server(tmp_path, port) as uri:
        with log:
            log.add({"loss": 1.0}, 1)
        run_id = json.loads((tmp_path / "run" / RUN).read_text())["run_id"]
        history = MlflowClient(uri).get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 2.0), (1, 1.0)]


@pytest.mark.slow
def test_a_lost_server_stops_nothing_and_is_said_once(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port()}"
    launch(config.with_options(out=str(tmp_path / "run"), mlflow=uri))
    warned = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(warned) == 1
    assert warned[0].startswith(f"treeline: MLflow at {uri} cannot be reached; training continues: ")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "run" / RUN).exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://ann:secret@server:5000", "MLFLOW_TRACKING_USERNAME"),
        ("https://token@server", "MLFLOW_TRACKING_USERNAME"),
        ("runs", "give http://HOST:PORT"),
        ("ftp://server", "give http://HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_anything_is_written(
    config: TrainConfig, tmp_path: Path, uri: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        launch(config.with_options(out=str(tmp_path / "run"), mlflow=uri))
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_without_mlflow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process whose Python does not find it."""
    script = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'mlflow' else find(name)\n"
        "from trainer.run_folder.mlflow_log import check_mlflow\n"
        "check_mlflow('http://127.0.0.1:5000')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("MLflow is not installed; pip install 'treeline[mlflow]'")
    check_mlflow("http://127.0.0.1:5000")
