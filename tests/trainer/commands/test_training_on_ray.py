"""Training on Ray workers ends as if nothing had happened when a worker, a machine or the driver is killed.

Real clusters, started here, of two machines as Ray sees it. What is compared is an undisturbed run in this
process: the same chips met, the same losses within rounding, every epoch scored once.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray_machines import (
    BIN,
    PATIENCE_SECONDS,
    kill_all,
    machine_to_lose,
    processes_of,
    running,
    wait_until,
)
from regressors import local_backbone, small_config, write_dataset

from shards.version import COMMIT
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.model.height_checkpoint import load_checkpoint
from trainer.run_folder.state_callback import NOTICE_STEPS

EPOCHS = 8
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """So small a learning rate that the rounding of two ranks does not grow."""
    folder = tmp_path_factory.mktemp("on_ray")
    dataset = write_dataset(folder / "chips", chips=40, val_share=0.2)
    backbone = local_backbone(folder / "backbone")
    options = {"epochs": EPOCHS, "learning_rate": 2e-5, "checkpoint_steps": 2, "dropout": 0.2}
    return small_config(dataset, backbone, str(folder / "here"), **options)


@pytest.fixture(scope="module")
def undisturbed(config: TrainConfig) -> list[dict[str, float]]:
    """The records of a run in this process."""
    launch(config)
    return records_of(Path(config.out))


def records_of(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_the_same(run: Path, undisturbed: list[dict[str, float]]) -> None:
    records = records_of(run)
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    for ours, theirs in zip(records, undisturbed, strict=True):
        assert ours["chips"] == theirs["chips"]
        for name in ("loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (name, ours["epoch"])


@contextmanager
def started(
    env: dict[str, str], config: TrainConfig, out: Path, workers: str = "2", *more: str
) -> Iterator["subprocess.Popen[str]"]:
    """`treeline train --workers` in a process of its own."""
    options = {
        "data": config.data,
        "out": str(out),
        "recipe": "tiny",
        "backbone": config.model.backbone,
        "epochs": str(config.fit.epochs),
        "batch-size": str(config.fit.batch_size),
        "learning-rate": str(config.optimiser.learning_rate),
        "dropout": str(config.model.dropout),
        "checkpoint-steps": str(config.keep.checkpoint_steps),
        "resume": "auto",
        "workers": workers,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    widths = map(str, config.model.decoder_widths)
    with running(env, "train", *flags, "--decoder-widths", *widths, *more) as process:
        yield process


def finish(process: "subprocess.Popen[str]") -> None:
    said, _ = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert process.returncode == 0, said


def give_notice(env: dict[str, str], name: str, seconds: int) -> None:
    """Say what a cloud says when it will take a machine away in so many seconds."""
    reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it is taken away")
    where = ("--address", env["RAY_ADDRESS"], "--node-id", name)
    command = [str(BIN / "ray"), "drain-node", *where, *reason, "--deadline-remaining-seconds", str(seconds)]
    subprocess.run(command, env=env, capture_output=True, timeout=60, check=True)


def test_a_worker_that_is_killed_is_replaced(
    ray_env: dict[str, str],
    ray_second: "subprocess.Popen[bytes]",
    config: TrainConfig,
    undisturbed: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    run, drivers = tmp_path / "run", "0123456789abcdef" * 2 + "01234567"
    with started(ray_env | {COMMIT: drivers}, config, run) as process:
        wait_until(lambda: len(records_of(run)) >= 2 or process.poll() is not None)
        killed = processes_of(ray_second, "RayTrainWorker")
        assert killed
        killed[0].send_signal(signal.SIGKILL)
        finish(process)
    assert_the_same(run, undisturbed)
    assert load_checkpoint(str(run)).trained_on["commit"] == drivers


@pytest.mark.long
def test_a_sharded_run_goes_on_when_a_worker_is_killed(
    ray_env: dict[str, str],
    ray_second: "subprocess.Popen[bytes]",
    config: TrainConfig,
    undisturbed: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    """Of its state each worker has written a part."""
    run = tmp_path / "run"
    with started(ray_env, config, run, "2", "--shard-model") as process:
        wait_until(lambda: len(records_of(run)) >= 2 or process.poll() is not None)
        for killed in processes_of(ray_second, "RayTrainWorker")[:1]:
            killed.send_signal(signal.SIGKILL)
        finish(process)
    assert_the_same(run, undisturbed)
    parts = json.loads((run / "state.json").read_text())["parts"]
    assert [name.rpartition("/")[2][:5] for name in parts] == ["00000", "00001"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_machine_is_lost_and_the_others_go_on(
    ray_env: dict[str, str],
    ray_second: "subprocess.Popen[bytes]",
    config: TrainConfig,
    undisturbed: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    """With --workers 1:2 the run shrinks to the machine that is left."""
    run = tmp_path / "run"
    with started(ray_env, config, run, "1:2") as process:
        # Ray keeps room for a run whose driver was killed for 180 s, and an elastic one waits for it.
        wait_until(lambda: len(records_of(run)) >= 2 or process.poll() is not None, seconds=300)
        kill_all(ray_second)
        finish(process)
    assert_the_same(run, undisturbed)


@pytest.mark.long
def test_the_driver_is_killed_and_started_again(
    ray_env: dict[str, str],
    ray_second: "subprocess.Popen[bytes]",
    config: TrainConfig,
    undisturbed: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with started(ray_env, config, run) as process:
        wait_until(lambda: len(records_of(run)) >= 2 or process.poll() is not None)
        process.kill()
    with started(ray_env, config, run) as process:
        finish(process)
    assert_the_same(run, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_notice_that_a_machine_will_be_taken_away_saves_the_state_at_once(
    ray_env: dict[str, str],
    ray_second: "subprocess.Popen[bytes]",
    config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    """In the middle of an epoch, where nothing else would; then the machine is taken away."""
    run, epochs = tmp_path / "run", 4
    dataset = write_dataset(tmp_path_factory.mktemp("long") / "chips", chips=400, val_share=0.1)
    chips = dataset.chips("train").size
    long = config.with_options(data=dataset.url, epochs=epochs, batch_size=2, checkpoint_steps=10**6)
    # Ray looks for notices every 5 s, and waits 60 s for a machine that it does not yet know to be gone.
    watchful = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}

    def saved() -> dict[str, int]:
        state = run / "state.json"
        position: dict[str, int] = json.loads(state.read_text())["position"] if state.exists() else {}
        return position if position.get("seen") else {}  # not that of an epoch's end

    name = machine_to_lose(ray_env)
    with started(ray_env | watchful, long, run, "1:2") as process:
        # Ray keeps room for a run whose driver was killed for 180 s, and an elastic one waits for it.
        wait_until(lambda: (run / "config.yaml").exists() or process.poll() is not None, seconds=300)
        give_notice(ray_env, name, seconds=30)
        wait_until(lambda: bool(saved()) or process.poll() is not None)
        position = saved()
        kill_all(ray_second)
        finish(process)
    assert position["step"] % NOTICE_STEPS == 0
    assert 0 < position["seen"] < chips
    records = records_of(run)
    assert [record["epoch"] for record in records] == list(range(1, epochs + 1))
    assert [record["chips"] for record in records] == [chips * (epoch + 1) for epoch in range(epochs)]


def test_an_error_that_would_come_again_ends_the_run(
    ray_env: dict[str, str], ray_head: "subprocess.Popen[bytes]", config: TrainConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    wild = config.with_options(learning_rate=1e30)
    with started(ray_env, wild, run, "1", "--gradient-norm", "1e30") as process:
        said, _ = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert process.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("treeline: failed: FloatingPointError: the loss is")
    assert "--learning-rate" in last
    assert (
        f"; no state was saved in {run} yet" in last or f"; the last state, after step 2, is {run}/" in last
    )
    assert not (run / "failed.json").exists()
