"""An ingest that was killed, at whatever moment, and run again gives the bytes of one that was not.

- random moments, and each step of the end; on disk and on S3
- only what is missing is done again; nothing is left besides the dataset
- an unfinished run of other files or options is not mixed with this one
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stopping_steps import stopped_before

import ingest.work.run as driver
import ingest.work.task as worker
import shards
import shards.write.assembly
import shards.write.finished_shard
from ingest.config import PairsConfig, SyntheticConfig
from ingest.files.pairs_source import PairsSource
from ingest.synthetic.synthetic_source import SyntheticSource
from ingest.work.plan import Present, make_plan
from ingest.work.run import Ingested
from ingest.work.run import ingest as ingest_source
from shards.commands.verify import VerifyConfig, verify
from shards.errors import InputError
from shards.format.sealed import SEAL
from shards.format.shard_cut import SHARD_BYTES
from shards.read.dataset import open_dataset
from shards.storage.objects import find_files, join, read_bytes

SIZE = 16
CHIPS = 400
ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "interrupted.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of 16 x 16 pixels, some of them spoilt."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(5)
    for name in ("images", "heights"):
        (folder / name).mkdir()
    for number in range(CHIPS):
        key = f"chip_WV02_2015080{number % 9 + 1}_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_{number:05d}_v1.npy"
        image = rng.integers(1, 5000, (4, SIZE, SIZE)).astype(np.int16)
        height = rng.gamma(2, 2, (SIZE, SIZE)).astype(np.float32)
        if number % 17 == 3:
            image[1, 2, 3] = -9999
        if number % 13 == 5:
            height[:] = 0
        np.save(folder / "images" / key, image)
        if number % 29:
            np.save(folder / "heights" / key, height)
    return folder


def config_of(folders: Path, out: Path | str, **options: Any) -> PairsConfig:
    places = {name: str(folders / name) for name in ("images", "heights")}
    return PairsConfig(**places, out=str(out), **{"chip_size": SIZE, "shard_chips": 6, **options})


def ingest(folders: Path, out: Path | str, **options: Any) -> Ingested:
    config = config_of(folders, out, **options)
    return ingest_source(PairsSource(config), config)


def contents(url: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(join(str(url), name)) for name in find_files(str(url))}


@pytest.fixture(scope="module")
def whole(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a dataset that was made without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ingest(folders, out)
    return contents(out)


def flags(config: PairsConfig) -> list[str]:
    """Of the command line."""
    return [
        "pairs",
        *("--images", config.images, "--heights", config.heights, "--out", config.out),
        *("--chip-size", str(config.chip_size), "--shard-chips", str(config.shard_chips)),
    ]


def started(config: PairsConfig) -> subprocess.Popen[str]:
    """An ingest in a process that has just begun to work."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags(config)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def killed_after(seconds: float, config: PairsConfig) -> None:
    """Start an ingest in a process, and kill it that long after it began to work."""
    with started(config) as process:
        time.sleep(seconds)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_says_how_to_go_on(
    folders: Path, whole: dict[str, bytes], tmp_path: Path, number: signal.Signals
) -> None:
    for attempt in range(5):  # on a busy machine it can end before it is asked
        out = tmp_path / f"out{attempt}"
        with started(config_of(folders, out)) as process:
            for _ in range(10_000):
                # A part that is whole, of which the next run will know: not the folder, nor one half written.
                if any(".treeline-" not in name for name in find_files(str(out / ".ingest" / "parts"))):
                    break
                time.sleep(0.001)
            process.send_signal(number)
            _, said = process.communicate()
        if process.returncode:
            break
    assert process.returncode != 0
    assert said.splitlines()[-1].startswith("treeline: stopped; complete shards are kept: the same command")
    assert "Traceback" not in said
    assert not [name for name in find_files(str(out)) if ".treeline-" in name]
    with started(config_of(folders, out)) as process:
        _, said = process.communicate()
    assert re.search(r"ingest: resumes; \d+ of \d+ chips are done", said)
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize("moments", [4, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments(
    folders: Path, whole: dict[str, bytes], tmp_path: Path, moments: int
) -> None:
    """One in each stretch of the work, however few there are."""
    start = time.monotonic()
    ingest(folders, tmp_path / "timed")
    seconds = time.monotonic() - start
    rng = random.Random(3)
    states = set()
    for moment in range(moments):
        out = tmp_path / f"out-{moment}"
        # A little later than the end, too: there must be nothing to do then.
        killed_after(1.4 * seconds * (moment + rng.random()) / moments, config_of(folders, out))
        names = find_files(str(out))
        parts = sum(name.startswith(".ingest/parts") for name in names)
        states.add(
            "nothing" if not names else "done" if "dataset.json" in names else "begun" if parts else "plan"
        )
        ingest(folders, out)
        assert contents(out) == whole
    assert "begun" in states, f"no kill fell into the work ({states})"


def steps_of(
    folders: Path, out: str, monkeypatch: pytest.MonkeyPatch, stop_at: int | None, **options: Any
) -> list[str]:
    """Ingest, and stop before the step of that number: each thing that is published or removed is a step."""
    functions = (
        (shards.write.finished_shard, "publish"),
        (worker, "publish"),
        (shards.write.assembly, "publish"),
        (driver, "write_json"),
        (driver, "remove_folder"),
        (driver, "remove_unlisted_shards"),
    )
    with stopped_before(stop_at, functions, monkeypatch) as steps:
        run(folders, out, **options)
    return steps


def run(folders: Path, out: str, **options: Any) -> Ingested:
    return ingest(folders, out, shard_chips=90, **options)


@pytest.mark.parametrize(
    "storage",
    [
        "local",
        pytest.param("memory", marks=pytest.mark.slow),
        pytest.param("rclone", marks=pytest.mark.slow),
        pytest.param("moto", marks=pytest.mark.long),
    ],
    indirect=True,
)
def test_stopped_before_any_step_in_any_storage(
    folders: Path, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folders, str(tmp_path / "expected"))
    expected = contents(tmp_path / "expected")
    steps = steps_of(folders, f"{storage}/counted", monkeypatch, None)
    assert contents(f"{storage}/counted") == expected
    assert len(steps) > 15
    for stop_at in range(len(steps)):
        out = f"{storage}/stop-{stop_at}"
        again = steps_of(folders, out, monkeypatch, stop_at)
        assert again == [step.replace("counted", f"stop-{stop_at}") for step in steps[:stop_at]]
        if "dataset.json" in find_files(out):
            assert verify(VerifyConfig(out)) == [
                f"{out}/{name}: is not listed in dataset.json"
                for name in find_files(out)
                if ".ingest" in name
            ]
        run(folders, out)
        assert contents(out) == expected


def test_only_what_is_missing_is_done_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(folders, str(tmp_path / "out"), monkeypatch, 9)
    done = [step for step in steps if "/parts/" in step]
    assert len(done) > 2
    rest = steps_of(folders, str(tmp_path / "out"), monkeypatch, None)
    assert not set(done) & set(rest)


def test_a_shard_that_was_lost_is_made_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folders, str(tmp_path / "expected"))
    steps_of(folders, str(tmp_path / "out"), monkeypatch, 9)
    (tmp_path / "out" / "train" / "000001.tar").unlink()
    run(folders, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_what_a_machine_that_stopped_did_not_write_is_written_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of(folders, str(tmp_path / "out"), monkeypatch, 9)
    part, *_ = sorted((tmp_path / "out" / ".ingest" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    (tmp_path / "out" / "train" / "000001.tar").write_bytes(b"")
    run(folders, str(tmp_path / "out"))
    run(folders, str(tmp_path / "expected"))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_what_was_begun_before_shards_were_cut_by_bytes_is_finished_uncut(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the plan's options said nothing of bytes."""
    out, expected, plan = (
        str(tmp_path / "out"),
        str(tmp_path / "expected"),
        tmp_path / "out/.ingest/plan.json",
    )
    run(folders, expected, shard_bytes=0)
    done = steps_of(folders, out, monkeypatch, 9, shard_bytes=0)
    begun = json.loads(plan.read_text())
    assert begun["config"].pop("shard_bytes") == 0
    del begun[SEAL]
    plan.write_text(json.dumps(begun))
    with pytest.raises(InputError, match="unfinished ingest of other files or options"):
        run(folders, out, shard_bytes=10 * 6_144)
    rest = steps_of(folders, out, monkeypatch, None)
    assert not set(rest) & {step for step in done if "/parts/" in step}
    assert contents(out) == contents(expected)
    assert open_dataset(out).manifest.made_by["config"]["shard_bytes"] == 0
    run(folders, str(tmp_path / "new"))
    assert open_dataset(str(tmp_path / "new")).manifest.made_by["config"]["shard_bytes"] == SHARD_BYTES


@pytest.mark.parametrize("change", ["options", "files"])
def test_another_unfinished_run_is_in_the_way(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out = tmp_path / "out"
    steps_of(folders, str(out), monkeypatch, 9)
    before = contents(out)
    other: dict[str, Any] = {"shares": (0.5, 0.5)}
    if change == "files":
        fewer = tmp_path / "fewer"
        for name in ("images", "heights"):
            (fewer / name).mkdir(parents=True)
            for path in sorted((folders / name).iterdir())[:50]:
                (fewer / name / path.name).symlink_to(path)
        folders, other = fewer, {}
    with pytest.raises(InputError, match=r"unfinished ingest of other files or options.*--restart"):
        ingest(folders, out, shard_chips=90, **other)
    assert contents(out) == before
    ingest(folders, out, shard_chips=90, restart=True, **other)
    ingest(folders, tmp_path / "expected", shard_chips=90, **other)
    assert contents(out) == contents(tmp_path / "expected")


@pytest.mark.parametrize("damage", ["cut", "empty", "another value", "a list"])
def test_a_damaged_plan_is_called_damaged(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    out, plan = tmp_path / "out", tmp_path / "out" / ".ingest" / "plan.json"
    steps_of(folders, str(out), monkeypatch, 9)
    text = plan.read_text()
    other = text.replace('"shards": ', '"shards": 1')
    plan.write_text({"cut": text[:100], "empty": "", "another value": other, "a list": "[]"}[damage])
    before = contents(out)
    for shares in ((0.8, 0.2), (0.5, 0.5)):
        with pytest.raises(InputError, match=r"plan\.json: .*; give --restart to forget it$") as refused:
            ingest(folders, out, shard_chips=90, shares=shares)
        assert "other files or options" not in str(refused.value)
    assert contents(out) == before
    ingest(folders, out, shard_chips=90, restart=True)
    ingest(folders, tmp_path / "expected", shard_chips=90)
    assert contents(out) == contents(tmp_path / "expected")


def test_what_an_older_version_began_is_finished(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is recorded, and never compared: not where shards are planned, nor in what is complete."""
    out = str(tmp_path / "out")
    done = [step for step in steps_of(folders, out, monkeypatch, 9) if "/parts/" in step]
    monkeypatch.setattr(shards, "__version__", "7.8.9")
    assert not set(done) & set(steps_of(folders, out, monkeypatch, None))
    assert open_dataset(out).manifest.made_by["treeline"] == "7.8.9"
    monkeypatch.setattr(shards, "__version__", "7.9.0")
    assert "is complete already" in run(folders, out).summary


def test_a_share_without_chips_is_refused_unless_it_began_so(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version began, and completed, what is refused now."""
    out, few = str(tmp_path / "out"), {"shares": (0.999999, 0.000001)}
    with pytest.raises(InputError, match=r"no chip is in val .* or hold out nothing with --shares 1"):
        run(folders, out, **few)
    assert find_files(out) == []
    with monkeypatch.context() as patch:
        patch.setattr(driver, "refuse_missing", lambda *_: None)
        steps_of(folders, out, monkeypatch, 9, **few)
    run(folders, out, **few)
    assert "is complete already" in run(folders, out, **few).summary
    assert "no chip is left" not in run(folders, str(tmp_path / "all"), shares=(1.0,)).summary


def test_the_fingerprint_of_a_request_stays() -> None:
    """An unfinished ingest is continued by every later version: this is what version 0.1.0 made of it."""
    config = SyntheticConfig(out="", chips=20, shard_bytes=0)
    source = SyntheticSource(config)
    plan = make_plan(source.candidates(), source.schema, config, Present())
    assert plan.request == "744cdd092085416f"


def test_an_option_without_effect_is_not_compared(folders: Path, tmp_path: Path) -> None:
    """It could be given once, and is refused now: what was begun with it is finished without it."""
    out = str(tmp_path / "out")
    ingest(folders, out, shard_chips=90, block_size=3000.0)
    assert "is complete already" in run(folders, out).summary


def test_the_plan_is_of_the_names_alone(folders: Path, tmp_path: Path) -> None:
    config = config_of(folders, tmp_path / "out")
    source = PairsSource(config)
    empty = tmp_path / "empty"
    for name in ("images", "heights"):
        (empty / name).mkdir(parents=True)
        for path in (folders / name).iterdir():
            (empty / name / path.name).touch()
    plans = [
        make_plan(PairsSource(config_of(place, "")).candidates(), source.schema, config, Present())
        for place in (folders, empty)
    ]
    assert plans[0].table.equals(plans[1].table)
    for first, second in zip(plans[0].shards(), plans[1].shards(), strict=True):
        assert (first.name, first.rows.tolist()) == (second.name, second.rows.tolist())


def test_a_finished_dataset_needs_nothing_of_what_it_was_made_from(folders: Path, tmp_path: Path) -> None:
    ingest(folders, tmp_path / "out")
    assert not (tmp_path / "out" / ".ingest").exists()
    assert open_dataset(str(tmp_path / "out")).manifest.samples("train") > 200
    assert verify(VerifyConfig(str(tmp_path / "out"))) == []
