"""A prediction that was killed, at whatever moment, and run again makes the maps of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from older_checkpoints import without_checksum
from regressors import NODATA, small_regressor, stored_images, write_checkpoint, write_scene
from servers import S3Server, environment_of

import shards
from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.ledger import Ledger
from inference.predict.run import predict
from inference.predict.summary import Summary
from inference.tiling.windows import Block, Span
from shards.errors import DatasetError, InputError
from shards.roles import identity
from shards.storage.objects import find_files, join, publish, read_bytes
from trainer.devices.choice import Precision

ROOT = Path(__file__).parents[3]
BATCH = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PredictConfig:
    """Three scenes of 30 blocks in all, a checkpoint, and where the maps of an undisturbed run are."""
    folder = tmp_path_factory.mktemp("prediction")
    checkpoint = write_checkpoint(folder / "checkpoint", small_regressor())
    for number, shape in enumerate([(131, 97), (64, 200), (90, 90)]):
        image_CHW = stored_images(1, *shape, seed=number, missing=0.005)[0]
        image_CHW[:, : shape[0] // 8] = NODATA
        write_scene(folder / f"scene_{number}.tif", image_CHW)
    config = PredictConfig(
        (str(folder / "*.tif"),), str(checkpoint), str(folder / "maps"), block=32, batch_size=BATCH
    )
    assert len(run(config).maps) == 3
    return config


def run(config: PredictConfig) -> Summary:
    return predict(config, InProcess())


def contents(url: str) -> dict[str, bytes]:
    """All that is there, but for what is said of maps that are done: files' times, and where scenes are."""
    names = [name for name in find_files(url) if not name.endswith((".made", ".map.json"))]
    return {name: read_bytes(join(url, name)) for name in names}


@contextmanager
def started(config: PredictConfig) -> Iterator["subprocess.Popen[str]"]:
    """`treeline predict` in a process of its own, which is gone at the end."""
    options = ["--checkpoint", config.checkpoint, "--out", config.out]
    options += ["--block", str(config.block), "--batch-size", str(config.batch_size)]
    command = [sys.executable, "-m", "cluster.cli", "predict", *config.scenes, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def blocks_in(out: str) -> int:
    return sum(name.endswith(".block") for name in find_files(join(out, ".predict")))


@pytest.mark.slow
@pytest.mark.parametrize("moments", [2, pytest.param(5, marks=pytest.mark.long)])
def test_killed_at_random_moments(config: PredictConfig, tmp_path: Path, moments: int) -> None:
    """Each process is killed a random time after its first block; at last one may end."""
    rng, states = random.Random(4), set()
    out = replace(config, out=str(tmp_path / "maps"))
    for _ in range(moments):
        before = blocks_in(out.out)
        with started(out) as process:
            while (
                process.poll() is None and blocks_in(out.out) == before and not list(tmp_path.glob("*/*.tif"))
            ):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        states.add(blocks_in(out.out))
    run(out)
    assert len(states) > 1, "the kills fell into the work"
    assert contents(out.out) == contents(config.out)


@pytest.mark.slow
def test_asked_to_stop_it_says_how_to_go_on(config: PredictConfig, tmp_path: Path) -> None:
    for attempt in range(5):  # on a busy machine it can end before it is asked
        out = replace(config, out=str(tmp_path / f"maps{attempt}"))
        with started(out) as process:
            while process.poll() is None and blocks_in(out.out) < 2:
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        if process.returncode:
            break
    assert process.returncode != 0
    assert said.splitlines()[-1] == (
        "treeline: stopped; finished work is kept; the same command resumes from there"
    )
    kept = blocks_in(out.out)
    assert kept >= 2
    run(out)
    assert contents(out.out) == contents(config.out)


class Stopping(InProcess):
    """Stops after this many blocks, the first time, and notes how many it was asked for."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.asked = after, list[int]()

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        tasks = list(tasks)
        self.asked.append(len(tasks))
        for number, done in enumerate(super().blocks(tasks, job), 1):
            yield done
            if number == self.after and len(self.asked) == 1:
                raise KeyboardInterrupt


def test_only_what_is_missing_is_computed(config: PredictConfig, tmp_path: Path) -> None:
    out = replace(config, out=str(tmp_path / "maps"))

    stopping = Stopping(11)
    with pytest.raises(KeyboardInterrupt):
        predict(out, stopping)
    predict(out, stopping)
    first, second = stopping.asked
    assert first - second in (11, 12), "one more may have been under way"
    assert contents(out.out) == contents(config.out)


@pytest.mark.parametrize(("older", "precision"), [(True, "bf16"), (False, "float32")])
def test_maps_begun_with_or_without_bfloat16_are_finished(
    older: bool, precision: Precision, config: PredictConfig, tmp_path: Path
) -> None:
    """Their predict.json names the older option, a yes or no; blocks that are done are not done again."""
    out = replace(config, out=str(tmp_path / "maps"), precision=precision)
    stopping = Stopping(5)
    with pytest.raises(KeyboardInterrupt):
        predict(out, stopping)
    made_with = Path(out.out) / "predict.json"
    text = without_checksum(made_with)
    assert f'"precision": "{precision}"' in text
    made_with.write_text(text.replace(f'"precision": "{precision}"', f'"bf16": {str(older).lower()}'))
    with pytest.raises(InputError, match=rf"another precision \({precision} there, fp16 asked for\)"):
        predict(replace(out, precision="fp16"), stopping)
    predict(out, stopping)
    assert stopping.asked[0] - stopping.asked[1] in (5, 6), "one more may have been under way"
    recorded = json.loads(without_checksum(made_with))
    assert recorded["precision"] == precision
    # What names blocks and maps in the ledger is what it was before the option had other values.
    names = [name for name in recorded if name != "commit"]
    assert list(identity(PredictConfig, recorded)) == ["bf16" if n == "precision" else n for n in names]


def test_what_an_older_version_began_is_finished(
    config: PredictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is recorded in each map, and never compared: blocks that are done are not done again."""
    first, *others = sorted(Path(config.scenes[0]).parent.glob("*.tif"))
    out = replace(config, out=str(tmp_path / "maps"))
    run(replace(out, scenes=(str(first),)))
    stopping = Stopping(5)
    some = replace(out, scenes=tuple(map(str, others)))
    with pytest.raises(KeyboardInterrupt):
        predict(some, stopping)
    monkeypatch.setattr(shards, "__version__", "7.8.9")
    predict(some, stopping)
    assert stopping.asked[0] - stopping.asked[1] in (5, 6), "one more may have been under way"
    assert run(out).before == 3


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_scenes_and_maps_on_s3(
    config: PredictConfig, server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Read by range and written whole; nothing else is left there."""
    s3: S3Server = request.getfixturevalue(server)
    with environment_of(s3):
        folder = f"s3://bucket/predict-{server}"
        for path in sorted(Path(config.checkpoint).parent.glob("*.tif")):
            publish(f"{folder}/scenes/{path.name}", path.read_bytes())
        for path in Path(config.checkpoint).iterdir():
            publish(f"{folder}/checkpoint/{path.name}", path.read_bytes())
        there = replace(
            config,
            scenes=(f"{folder}/scenes/*.tif",),
            checkpoint=f"{folder}/checkpoint",
            out=f"{folder}/maps",
            block=64,
        )
        assert len(run(there).maps) == 3
        assert contents(there.out) == contents(config.out)


def test_a_damaged_block_is_named_and_not_used(tmp_path: Path) -> None:
    ledger, block = Ledger(str(tmp_path)), Block(Span(0, 3), Span(8, 12))
    stored_CHW = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    ledger.write("a-1", block, stored_CHW)
    assert np.array_equal(ledger.read("a-1", block), stored_CHW)
    assert ledger.entries().blocks == {"a-1": {block}}
    (path,) = (tmp_path / ".predict" / "a-1").iterdir()
    data = path.read_bytes()
    for place in range(len(data)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DatasetError, match=r"0-3-8-12\.block: was damaged and has been removed"):
            ledger.read("a-1", block)
        assert not path.exists()


def test_a_map_that_is_done_leaves_the_blocks_of_others(tmp_path: Path) -> None:
    ledger, block = Ledger(str(tmp_path)), Block(Span(0, 1), Span(0, 1))
    for name in ("a-1", "a-2", "b-1"):
        ledger.write(name, block, np.zeros((1, 1, 1), np.int16))
    ledger.finish("a-1", set())
    ledger.replace({"a-1"})
    ledger.finish("a-2", {"a-1"})
    entries = ledger.entries()
    assert (entries.blocks.keys(), entries.made) == ({"b-1"}, {"a-2"})
