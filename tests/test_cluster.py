"""Jobs on a real Ray cluster, started here with token authentication, give what one process gives.

Losses agree to 1e-4 of their value between 0 and 2 workers; maps are the same bytes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import free_port

from inference.config import PredictConfig
from inference.here import InProcess
from inference.predict import predict
from ingest.config import ScenesConfig
from ingest.landscape import write_scene
from ingest.run import ingest
from ingest.scenes import ScenesSource
from shards.version import commit
from trainer.checkpoint import load_checkpoint
from trainer.config import TrainConfig
from trainer.launch import launch

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START_SECONDS = 90


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its dashboard is, and the environment of its user."""

    address: str
    env: dict[str, str]

    def treeline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=240, check=False
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a-token-for-this-test-alone-0123456789")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"HOME": str(home), "PATH": f"{BIN}:{env['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    options = f"--head --block --node-ip-address 127.0.0.1 --port {free_port()} --num-cpus 3"
    options += f" --dashboard-host 127.0.0.1 --dashboard-port {port} --object-store-memory 100000000"
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    scratch = tempfile.mkdtemp(prefix="treeline-ray-")
    options += f" --temp-dir {scratch} --disable-usage-stats"
    log = (home / "ray.log").open("w")
    command = [BIN / "ray", "start", *options.split()]
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process)
        yield Cluster(address, env)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            return  # it answers, and asks for the token
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"no Ray dashboard at {address} after {START_SECONDS} s")


@dataclass(frozen=True)
class Trained:
    """Scenes, their chips, and a run in this process."""

    scene: str
    chips: str
    options: list[str]
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("job")
    scenes = [write_scene(folder, number, 0, (256, 256)) for number in range(2)]
    images, heights = tuple(str(s.image) for s in scenes), tuple(str(s.height) for s in scenes)
    options = ScenesConfig(images=images, heights=heights, out=str(folder / "chips"))
    ingest(ScenesSource(options), options)
    config = TrainConfig(str(folder / "chips"), str(folder / "here"), epochs=2, batch_size=7)
    launch(config)
    options = ["--data", config.data, "--epochs", "2", "--batch-size", "7"]
    return Trained(images[0], config.data, options, folder / "here")


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records for name in ("loss", "val_loss")]


@pytest.mark.ray
def test_a_training_job_on_ray_gives_the_losses_of_one_process(
    cluster: Cluster, trained: Trained, tmp_path: Path
) -> None:
    command = ["train", *trained.options, "--out", str(tmp_path / "run"), "--workers", "2"]
    done = cluster.treeline("submit", "--address", cluster.address, "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(trained.run), rel=1e-4)
    # The job has no checkout: submit tells it the commit.
    there, here = (load_checkpoint(str(run)).trained_on for run in (tmp_path / "run", trained.run))
    assert there["commit"] == here["commit"] == commit()


@pytest.mark.ray
def test_a_map_made_on_ray_by_two_workers_is_the_map_made_by_one_process(
    cluster: Cluster, trained: Trained, tmp_path: Path
) -> None:
    here = PredictConfig((trained.scene,), str(trained.run), str(tmp_path / "here"), block=100)
    (expected,) = predict(here, InProcess()).maps.values()
    command = ["predict", trained.scene, "--checkpoint", str(trained.run), "--out", str(tmp_path / "there")]
    done = cluster.treeline(
        "submit", "--address", cluster.address, "--", *command, "--workers", "2", "--block", "64"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (tmp_path / "there").glob("*.tif")
    assert made.read_bytes() == Path(expected).read_bytes()


@pytest.mark.ray
def test_a_job_on_ray_that_fails_fails_the_submission(cluster: Cluster, tmp_path: Path) -> None:
    command = ["train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")]
    done = cluster.treeline("submit", "--address", cluster.address, "--", *command)
    assert done.returncode == 1
    assert "no dataset here" in done.stdout


def test_without_a_cluster_there_is_one_line() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cluster.cli", "submit", "--address", f"http://127.0.0.1:{free_port()}"]
    job = ["--", "train", "--data", "a", "--out", "b"]
    done = subprocess.run([*command, *job], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
