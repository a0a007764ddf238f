"""A matrix says what evaluate says of each cell, and is the same bytes however often it was stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from classes import CLASS_SCHEMA, class_chip
from in_process import treeline
from policies import assert_forbidding
from ray_machines import PATIENCE_SECONDS, wait_until
from regressors import CHIP_SCHEMA, visible_chip

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.write.writer import DatasetWriter
from trainer.commands.matrix import Done, cells_here, check_matrix, matrix
from trainer.commands.matrix_cell import CellJob
from trainer.config import TrainConfig
from trainer.matrix.plan import Plan
from trainer.matrix_config import MatrixConfig

ROOT = Path(__file__).parents[3]
BANDS = ("vv_summer", "vh_summer", "vv_winter", "vh_winter")
TRAINING = f"epochs: 1\nhead: class\nlearning_rate: 0.003\nbands: [{', '.join(BANDS)}]\n"
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PATH": "/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
RESULTS = ("matrix.json", "predictions.parquet", "index.html")
SPLIT = ["--split-by", "bands", "--split-bands", "10", "--shares", "0.6", "0.2", "0.2"]


def ran(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`treeline ARGUMENTS` in a folder; it must succeed."""
    done = treeline(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiles of two regions, a pre-training run, and options of training."""
    folder = tmp_path_factory.mktemp("matrix")
    tiles = ["ingest", "synthetic", "--sar", "seasonal", "--regions", "2", "--chips", "120"]
    ran(folder, *tiles, "--chip-size", "32", "--out", "tiles", *SPLIT, "--region-column", "region")
    small = ["--epochs", "1", "--width", "24", "--depth", "1", "--bands", *BANDS]
    ran(folder, "pretrain", "--data", "tiles", "--out", "run", "--recipe", "mae-tiny", *small)
    (folder / "train.yaml").write_text(TRAINING)
    return folder


def command(out: str, **changes: Any) -> list[str]:
    """Arguments of a small matrix; an option that is None is left out."""
    options: dict[str, Any] = {
        "data": ["tiles"],
        "region-column": "region",
        "init": ["pretrained=run", "scratch=random"],
        "tune": ["frozen"],
        "limit": ["30%"],
        "draws": 2,
        "label": "tree_percent",
        "train-config": "train.yaml",
        "out": out,
    }
    words = ["matrix"]
    for name, value in (options | changes).items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    """The matrix of `command`, made in one go."""
    ran(made, *command("whole"))
    return made / "whole"


def results(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "matrix.json").read_text())
    return values


def entry(rows: list[dict[str, Any]], **names: Any) -> dict[str, Any]:
    (found,) = (row for row in rows if all(row[name] == value for name, value in names.items()))
    return found


def checked(out: str) -> tuple[Plan, dict[str, Dataset]]:
    """What `command` plans, for a call from here; the folder must be the current one."""
    config = MatrixConfig(
        data=("tiles",),
        out=out,
        init=("pretrained=run", "scratch=random"),
        region_column="region",
        label="tree_percent",
        tune=("frozen",),
        limit=("30%",),
        draws=2,
        train_config="train.yaml",
    )
    options = {"epochs": 1, "head": "class", "learning_rate": 0.003, "bands": BANDS}
    base = TrainConfig.of("tiles", out, **options)
    return check_matrix(config, base, {**options})


@pytest.mark.slow
def test_a_cell_is_what_train_and_evaluate_make_by_hand(made: Path) -> None:
    """The same RMSE, of the model and of the ridge, in the region itself, in the other, and from all."""
    ran(made, *command("one", draws=1, tune=["all"]))
    found = results(made / "one")
    model = entry(found["models"], init="pretrained", tune="all", limit="30%")["matrix"]
    ridge = entry(found["baselines"], baseline="ridge on bands", limit="30%")["matrix"]
    assert len(model) == len(ridge) == 6
    conus, both = "region == 'conus'", "region in ('conus', 'europe')"
    for name, where, more in (("conus", conus, []), ("all", both, ["--per", "region"])):
        options = ["--task", "tile-value", "--label", "tree_percent", "--limit", "30%", "--tune", "all"]
        options += ["--config", "train.yaml", "--backbone", "run", "--deterministic", "--where", where, *more]
        ran(made, "train", "--data", "tiles", "--out", f"by-hand-{name}", *options)
        for region in ("conus", "europe"):
            tested = ["--split", "test", "--where", f"region == '{region}'", "--out", "scores"]
            ran(made, "evaluate", "--checkpoint", f"by-hand-{name}", "--data", "tiles", *tested)
            scores = json.loads((made / "scores" / "evaluation.json").read_text())["scores"]
            for rows, expected in ((model, scores["model"]), (ridge, scores["ridge on bands"])):
                ours = entry(rows, trained_on=name, tested_on=region)
                assert ours["rmse"]["value"] == pytest.approx(expected["rmse"], rel=1e-6)
                assert ours["bias"] == pytest.approx(expected["bias"], rel=1e-5)
                assert ours["r2"] == pytest.approx(expected["r2"], rel=1e-5)
                assert ours["n"] == expected["count"]


@pytest.mark.slow
def test_what_matrix_json_says_follows_from_the_predictions(whole: Path) -> None:
    found, table = results(whole), pq.read_table(whole / "predictions.parquet").to_pandas()
    tiles = table[table.tested_on == "europe"].drop_duplicates("key")
    assert len(table) == 12 * table.key.nunique()
    assert (table.trained_on.unique() == found["trained_on"]).all()
    rmse: dict[tuple[str, str], float] = {}
    for init in ("pretrained", "scratch"):
        rows = entry(found["models"], init=init, tune="frozen", limit="30%")["matrix"]
        for row in rows:
            chosen = table[(table.init == init) & (table.trained_on == row["trained_on"])]
            chosen = chosen[chosen.tested_on == row["tested_on"]]
            squares = (chosen.predicted - chosen.truth) ** 2
            by_draw = [float(np.sqrt(squares[chosen.draw == draw].mean())) for draw in (0, 1)]
            assert row["rmse"]["value"] == pytest.approx(np.mean(by_draw))
            assert row["rmse"]["low"] <= row["rmse"]["value"] <= row["rmse"]["high"]
            assert (row["blocks"], row["draws"]) == (chosen.block.nunique(), 2)
            rmse[init, f"{row['trained_on']} {row['tested_on']}"] = row["rmse"]["value"]
    pairs = entry(found["differences"], first="pretrained", second="scratch")
    assert sum(pairs["counts"].values()) == len(pairs["comparisons"]) == 6
    for row in pairs["comparisons"]:
        place = f"{row['trained_on']} {row['tested_on']}"
        assert row["value"] == pytest.approx(rmse["pretrained", place] - rmse["scratch", place])
        verdict = "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "not told apart"
        assert row["verdict"] == verdict
    assert tiles.block.nunique() == 2, "two of ten bands are for tests"


@pytest.mark.slow
def test_the_report_begins_with_the_verdict(whole: Path) -> None:
    verdict, page = results(whole)["verdict"], (whole / "index.html").read_text()
    assert verdict.startswith("Pretrained is better than scratch in ")
    assert verdict in page.partition("<section>")[0]
    assert_forbidding(page)
    ridge = entry(results(whole)["differences"], first="scratch", second="ridge on bands")["counts"]
    assert ("the ridge on bands wins" in verdict.split("Scratch")[1]) == (ridge["worse"] > ridge["better"])
    assert page.count("data:image/png") == 3
    assert "trained on" in page
    assert "tested on" in page


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.slow
def test_stopped_between_cells_and_started_again_it_is_the_same(
    made: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cells are run in another order, by two processes in turn."""
    monkeypatch.chdir(made)

    def some(jobs: list[CellJob], workers: int, done: Done) -> None:
        cells_here(jobs[:2:-1], workers, done)
        raise Stop

    with pytest.raises(Stop):
        matrix(*checked("stopped"), some)
    assert not (made / "stopped" / "matrix.json").exists()
    left: list[int] = []

    def rest(jobs: list[CellJob], workers: int, done: Done) -> None:
        left.append(len(jobs))
        cells_here(jobs, workers, done)

    matrix(*checked("stopped"), rest)
    assert left == [3]
    for name in RESULTS:
        assert (made / "stopped" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_killed_anywhere_and_started_again_it_is_the_same(made: Path, whole: Path) -> None:
    """SIGKILL: once within a cell, once when some cells are done."""
    cells = made / "killed" / "cells"
    words = [sys.executable, "-m", "cluster.cli", *command("killed")]

    def killed_when(is_time: Callable[[], bool]) -> None:
        process = subprocess.Popen(words, cwd=made, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        while not is_time() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"

    killed_when(lambda: any((made / "killed" / "runs").glob("*/config.yaml")))
    killed_when(lambda: len(list(cells.glob("*.parquet"))) >= 5)
    assert not (made / "killed" / "matrix.json").exists()
    ran(made, *command("killed"))
    for name in RESULTS:
        assert (made / "killed" / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (made / "killed" / "runs").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_one_and_two_workers_make_the_same_bytes_also_when_killed(
    ray_env: dict[str, str],
    ray_head: "subprocess.Popen[bytes]",
    ray_second: "subprocess.Popen[bytes]",
    made: Path,
    whole: Path,
) -> None:
    """Begun by one worker, killed, and finished by two."""
    words = [sys.executable, "-m", "cluster.cli", *command("on-ray")]
    env = ray_env | {"PYTHONPATH": str(ROOT)}
    cells = made / "on-ray" / "cells"
    process = subprocess.Popen([*words, "--workers", "1"], cwd=made, env=env, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(cells.glob("*.parquet"))) >= 3 or process.poll() is not None)
    process.kill()
    process.wait()
    assert not (made / "on-ray" / "matrix.json").exists()
    done = subprocess.run(
        [*words, "--workers", "2"],
        cwd=made,
        env=env,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in RESULTS:
        assert (made / "on-ray" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"draws": 3}, "--draws"),
        ({"limit": ["30%", "100%"]}, "--limit"),
        ({"init": ["scratch=random"]}, "--init"),
        ({"train-config": "other.yaml"}, "learning_rate of --train-config"),
    ],
    ids=str,
)
def test_another_matrix_in_the_same_folder_is_refused(
    made: Path, whole: Path, changes: dict[str, Any], says: str
) -> None:
    (made / "other.yaml").write_text(TRAINING.replace("0.003", "0.001"))
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    done = treeline(*command("whole", **changes), folder=made)
    assert done.returncode == 2
    assert f"holds a matrix with other options ({says}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_matrix_that_names_the_older_option_for_bfloat16_goes_on(
    made: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    text = (whole / "matrix.yaml").read_text()
    assert "  precision: float32\n" in text
    for older, differs in (("false", False), ("true", True)):
        (tmp_path / older).mkdir()
        older_text = text.replace("  precision: float32\n", f"  bf16: {older}\n")
        (tmp_path / older / "matrix.yaml").write_text(older_text)
        with pytest.raises(InputError, match="precision of --train-config") if differs else nullcontext():
            checked(str(tmp_path / older))


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_are_kept(
    made: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then tries it again."""
    monkeypatch.chdir(made)

    def one_wild(jobs: list[CellJob], workers: int, done: Done) -> None:
        wild = jobs[1].training.with_options(learning_rate=1e30, gradient_norm=1e30, batch_size=2)
        cells_here([jobs[0], replace(jobs[1], training=wild), *jobs[2:]], workers, done)

    found = matrix(*checked("failing"), one_wild)
    (title,) = found.failed
    assert title == "conus, scratch, frozen, 30% of labels, draw 0"
    assert "FloatingPointError" in found.failed[title]
    told = results(made / "failing")
    assert [row["cell"] for row in told["failed"]] == [title]
    rows = entry(told["models"], init="scratch")["matrix"]
    assert {row["trained_on"]: row["draws"] for row in rows} == {"conus": 1, "europe": 2, "all": 2}
    ran(made, *command("failing"))
    assert (made / "failing" / "matrix.json").read_bytes() == (whole / "matrix.json").read_bytes()


def write_heights(folder: Path, first: int, has_test: bool = True) -> None:
    """A dataset of heights in three splits, or two; its chips have no place."""
    splits = ("train", "train", "val", "test" if has_test else "train")
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 4) as writer:
        for number in range(12):
            writer.add(visible_chip(first + number), splits[number % 4])
        writer.finish()


@pytest.mark.slow
def test_heights_of_two_datasets_fail_apart_and_have_no_interval_without_bands(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        write_heights(tmp_path / name, 20 * number)
    (tmp_path / "train.yaml").write_text("recipe: tiny\nepochs: 1\ndecoder_widths: [16, 8, 8, 8]\n")
    words = command("out", data=["a", "b"], task="height", label=None, init=["scratch=random"], draws=1)
    words = [word for word in words if word not in ("--region-column", "region")]
    said = ran(tmp_path, *words).stdout
    assert "No difference has an interval: no region has two bands" in said
    found = results(tmp_path / "out")
    assert found["trained_on"] == found["tested_on"] == ["a", "b"]
    (row,) = (
        one for one in found["models"][0]["matrix"] if (one["trained_on"], one["tested_on"]) == ("a", "b")
    )
    assert (row["rmse"]["low"], row["blocks"]) == (None, 1)
    options = ["--deterministic", "--config", "train.yaml", "--limit", "30%", "--tune", "frozen"]
    ran(tmp_path, "train", "--data", "a", "--out", "run", *options)
    ran(tmp_path, "evaluate", "--checkpoint", "run", "--data", "b", "--split", "test", "--out", "scores")
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]
    regressor, linear = scores["regressor"]["all"], scores["per-pixel linear regression"]["all"]
    assert row["rmse"]["value"] == pytest.approx(regressor["rmse"], rel=1e-5)
    assert (row["n"], row["bias"]) == (regressor["count"], pytest.approx(regressor["bias"], rel=1e-4))
    baseline = entry(found["baselines"], baseline="per-pixel linear regression")["matrix"]
    ours = entry(baseline, trained_on="a", tested_on="b")
    assert ours["rmse"]["value"] == pytest.approx(linear["rmse"], rel=1e-5)

    shard = next((tmp_path / "a" / "train").glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[2000] ^= 255
    shard.write_bytes(content)
    done = treeline(*[word if word != "out" else "damaged" for word in words], folder=tmp_path)
    assert done.returncode == 1
    assert "cell a, scratch, frozen, 30% of labels, draw 0: failed: DatasetError" in done.stderr
    assert [row["cell"][0] for row in results(tmp_path / "damaged")["failed"]] == ["a"]


@pytest.mark.slow
def test_classes_are_compared_by_their_share_of_errors(made: Path) -> None:
    ran(
        made,
        *command(
            "classes", task="tile-class", label="land_cover", init=["scratch=random"], draws=1, limit=["100%"]
        ),
    )
    found = results(made / "classes")
    table = pq.read_table(made / "classes" / "predictions.parquet").to_pandas()
    assert found["measure"]["name"] == "wrong"
    for row in found["models"][0]["matrix"]:
        chosen = table[(table.trained_on == row["trained_on"]) & (table.tested_on == row["tested_on"])]
        assert row["wrong"]["value"] == pytest.approx((chosen.predicted != chosen.truth).mean())
        assert (row["bias"], row["r2"]) == (None, None)


@pytest.mark.slow
def test_classes_of_pixels_are_compared_as_train_and_evaluate_score_them(tmp_path: Path) -> None:
    tiles = [
        "ingest",
        "synthetic",
        "--sar",
        "seasonal",
        "--regions",
        "2",
        "--chips",
        "120",
        "--pixel-classes",
    ]
    ran(tmp_path, *tiles, "--chip-size", "32", "--out", "tiles", *SPLIT, "--region-column", "region")
    (tmp_path / "train.yaml").write_text(
        "recipe: tiny\nepochs: 1\ndecoder: linear\nbands: [vv_summer, vh_winter]\nlearning_rate: 0.003\n"
    )
    changes = {"task": "pixel-class", "label": None, "init": ["scratch=random"], "draws": 1, "tune": ["all"]}
    said = ran(tmp_path, *command("out", **changes)).stdout
    assert "share of wrong pixels" in said
    found, table = results(tmp_path / "out"), pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert found["measure"] == {"name": "wrong", "title": "share of wrong pixels", "unit": ""}
    assert found["about"]["label"] == "land_cover"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Trained here, tested there: land_cover" in page
    assert "share of wrong pixels over the number of training labels" in page
    options = ["--task", "pixel-class", "--config", "train.yaml", "--deterministic", "--limit", "30%"]
    options += ["--tune", "all", "--where", "region == 'conus'", "--backbone", "tiny"]
    ran(tmp_path, "train", "--data", "tiles", "--out", "by-hand", *options)
    tested = ["--split", "test", "--where", "region == 'europe'", "--out", "scores"]
    ran(tmp_path, "evaluate", "--checkpoint", "by-hand", "--data", "tiles", *tested)
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]
    names = {"model": "right_predicted", "per-pixel linear regression": "right_ridge"}
    names["commonest class"] = "right_mean"
    rows = {name: entry(found["baselines"], baseline=name)["matrix"] for name in list(names)[1:]}
    rows["model"] = found["models"][0]["matrix"]
    frame = table.to_pandas()
    chosen = frame[(frame.trained_on == "conus") & (frame.tested_on == "europe")]
    for name, column in names.items():
        ours = entry(rows[name], trained_on="conus", tested_on="europe")
        assert ours["wrong"]["value"] == pytest.approx(1 - scores[name]["accuracy"], abs=1e-9), name
        assert ours["n"] == scores[name]["count"] == chosen.pixels.sum()
        assert ours["wrong"]["value"] == pytest.approx(1 - chosen[column].sum() / chosen.pixels.sum())
    assert ours["blocks"] == chosen.block.nunique() == 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no draw": ({"draws": 0}, "--draws 0: give 1 or more"),
    "workers": ({"workers": -1}, "--workers -1: give 0 or more"),
    "one region": ({"region-column": None}, "is one region, and a matrix needs two"),
    "one value": ({"region-column": "sensor"}, "--region-column sensor: tiles has "),
    "no column": ({"region-column": "country"}, "--region-column country: tiles has no such column"),
    "both": ({"data": ["tiles", "other/tiles"]}, "--region-column region: 2 datasets are regions themselves"),
    "one name": ({"data": ["tiles", "other/tiles"], "region-column": None}, "2 datasets are called tiles"),
    "twice": ({"data": ["tiles", "tiles"], "region-column": None}, "--data: tiles is given 2 times"),
    "no init": ({"init": ["scratch"]}, "--init scratch: give NAME=RUN"),
    "init": ({"init": ["a=nowhere"]}, "--init a=nowhere: is no pre-training run"),
    "init twice": ({"init": ["a=run", "a=random"]}, "--init: a is given 2 times"),
    "tune twice": ({"tune": ["all", "all"]}, "--tune: all is given 2 times"),
    "share": ({"limit": ["0%"]}, "--limit 0%: give a number of chips, or a share above 0%"),
    "few": (
        {"limit": ["1%"]},
        "trained on conus: --label tree_percent: --limit 1% leaves 1 labelled training tile",
    ),
    "no label": ({"label": None}, "--label: is needed for tiles"),
    "label": ({"label": "forest"}, "--label forest: tiles has no such column"),
    "text": ({"label": "region"}, "--label region: holds no numbers"),
    "constant": ({"label": "valid_fraction"}, "training tiles have the same value"),
    "untested": (
        {
            "data": ["partly"],
            "region-column": "place",
            "label": "age",
            "init": ["scratch=random"],
            "train-config": "optical.yaml",
        },
        "partly: no test tile of region b has a label age",
    ),
    "heights": (
        {"task": "height", "label": None, "train-config": "optical.yaml"},
        "has no heights to learn from",
    ),
    "pixel classes": (
        {"task": "pixel-class", "label": None, "train-config": "optical.yaml"},
        "has 0 classes of pixels; ingest it with two or more",
    ),
    "label of pixels": (
        {"task": "pixel-class", "label": "forest", "train-config": "optical.yaml"},
        "--label forest: the pixels of tiles are labelled with nothing; leave it out",
    ),
    "other classes": (
        {
            "data": ["classes", "classes2"],
            "region-column": None,
            "task": "pixel-class",
            "label": None,
            "init": ["scratch=random"],
            "train-config": "optical.yaml",
        },
        "classes2: its pixels have cover (water, trees), and those of classes have cover",
    ),
    "seed": ({"train-config": "seed.yaml"}, "seed.yaml: names seed, which the matrix sets for each cell"),
    "data": ({"train-config": "two.yaml"}, "two.yaml: names data, limit, which the matrix sets"),
    "idle": ({"train-config": "linear.yaml"}, "--decoder: does nothing without --task height"),
    "option": ({"train-config": "odd.yaml"}, "odd.yaml: no option is called 'odd'"),
    "bands": ({"train-config": "nir.yaml"}, "was pre-trained on the bands vv_summer"),
    "no file": ({"train-config": "absent.yaml"}, "absent.yaml: no such file"),
    "no data": ({"data": ["nowhere"]}, "nowhere: no dataset here"),
    "no test": ({"data": ["heights", "tiles"], "region-column": None}, "heights: region heights has no tile"),
    "all": ({"data": ["other/all", "tiles"], "region-column": None}, "region 'all': is the name for all"),
    "other bands": (
        {
            "data": ["optical", "optical2"],
            "region-column": None,
            "task": "height",
            "label": None,
            "train-config": "rates.yaml",
        },
        "vv_summer",
    ),
}


@pytest.fixture(scope="module")
def spoiled(made: Path) -> Path:
    """The same folder with more columns, datasets and files of options."""
    for name in ("other/tiles", "other/all"):
        shutil.copytree(made / "tiles", made / name)
    write_heights(made / "heights", 0, has_test=False)
    write_heights(made / "optical", 0)
    write_heights(made / "optical2", 40)
    with DatasetWriter(
        str(made / "partly"),
        CHIP_SCHEMA,
        {"command": "test"},
        attributes={"place": "string", "age": "float64"},
    ) as writer:
        for number in range(24):
            place, split = "ab"[number % 2], ("train", "train", "val", "test")[number // 6]
            age = None if (place, split) == ("b", "test") else float(number)
            writer.add(replace(visible_chip(number), attributes={"place": place, "age": age}), split)
        writer.finish()
    for name, schema in (
        ("classes", CLASS_SCHEMA),
        ("classes2", replace(CLASS_SCHEMA, class_names=CLASS_SCHEMA.class_names[:2])),
    ):
        with DatasetWriter(str(made / name), schema, {"command": "test"}, 4) as writer:
            for number in range(12):
                chip = class_chip(number)
                if name == "classes2":
                    chip.height_HW[chip.height_HW == 90] = 5
                writer.add(chip, ("train", "train", "val", "test")[number % 4])
            writer.finish()
    (made / "optical.yaml").write_text("epochs: 1\n")
    (made / "rates.yaml").write_text("learning_rate: 0.003\n")
    (made / "seed.yaml").write_text("seed: 3\n")
    (made / "two.yaml").write_text("data: tiles\nlimit: 5\n")
    (made / "linear.yaml").write_text("decoder: linear\n")
    (made / "odd.yaml").write_text("odd: 3\n")
    (made / "nir.yaml").write_text("bands: [vv_summer, vh_summer]\n")
    return made


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_matrix_is_refused_in_a_line(spoiled: Path, name: str) -> None:
    changes, says = BAD[name]
    done = treeline(*command("bad", **changes), folder=spoiled)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (spoiled / "bad").exists()
