"""A report says what train and evaluate left, to the digit, and what they did not leave."""

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from frozen_runs import config_of, write_datasets
from in_process import treeline
from older_states import make_from_0
from pretrainings import config_of as pretraining_of
from rasterio.transform import from_origin
from regressors import CHIP_SCHEMA, small_regressor, visible_chip, write_checkpoint
from report_runs import Run

from cluster.cli import parse
from inference.config import ReportConfig
from inference.report.figures import drawn_curves
from inference.report.run import report
from shards.format.key import split_of
from shards.format.manifest import read_manifest
from shards.raster.grid import Grid
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import join, publish_folder, read_bytes
from shards.write.change import publish_change
from shards.write.writer import DatasetWriter
from trainer.commands.last_lines import after_pretraining
from trainer.commands.pretrain import pretrain
from trainer.commands.train import train
from trainer.devices.ranks import Ranks
from trainer.evaluate.ground_blocks import blocks_of_ground
from trainer.fit.sample_panel import predicted_heights
from trainer.model.height_checkpoint import load_checkpoint
from trainer.run_folder.metrics_file import read_metrics
from trainer.score.baselines import MEAN
from trainer.score.binding import binding
from trainer.score.chip_scores import read_chip_scores
from trainer.score.evaluation import LINEAR, REGRESSOR
from trainer.score.examples import example_rows, read_examples
from trainer.score.metrics import metrics_of


class Texts(HTMLParser):
    """What a page says, and the tags that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def page_of(run: Path | str, out: Path, **options: object) -> str:
    report(ReportConfig(str(run), out=str(out), **options))  # type: ignore[arg-type]
    return out.read_text()


def test_the_page_says_the_numbers_of_the_evaluation(made: Run, tmp_path: Path) -> None:
    said = Texts(page_of(made.run, tmp_path / "page.html")).said
    scores = made.evaluation["scores"]
    rows = {name: score["all"] for name, score in scores.items()} | scores[REGRESSOR]["by_class"]
    for name, found in rows.items():
        if found["count"]:
            at = said.index(name)
            expected = [
                f"{found['count']:,}",
                *(f"{found[k]:.2f}" for k in ("mae", "rmse")),
                f"{found['bias']:+z.2f}",
            ]
            assert said[at + 1 : at + 5] == expected
    low, high = made.evaluation["intervals"]["rmse"][REGRESSOR]
    assert f"{low:.2f} to {high:.2f}" in said
    verdict = made.evaluation["verdict"].lower()
    assert any(text.lower().startswith(verdict) for text in said), verdict
    assert (made.run / "config.yaml").read_text() in said
    assert said.index("Verdict") < said.index("Scores") < said.index("Training")
    assert "--epochs" in said
    assert "--dropout" not in said, "the recipe's value is its default"


def test_the_verdict_names_the_chips_and_their_dataset(made: Run, tmp_path: Path) -> None:
    """Also a dataset that is called chips, and one chip alone."""
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    path = run / "evaluation" / "evaluation.json"
    for split, chips, expected in (
        ("val", 1, "1 validation chip"),
        ("all", 1200, "1,200 chips"),
        ("test", 2, "2 test chips"),
    ):
        changed = {"data": "chips", "chips": chips, "split": split, "sharing_scenes": 0}
        path.write_text(json.dumps(made.evaluation | changed))
        verdict = report(ReportConfig(str(run))).splitlines()[-2]
        assert verdict == f"{made.evaluation['verdict']}; scored on {expected} of the dataset chips"


def test_scores_of_chips_that_share_scenes_with_training_say_so(made: Run, tmp_path: Path) -> None:
    """Evaluate records their number, and the verdict begins with it; evaluations of before lack it."""
    index = made.dataset.index.to_pylist()
    trained = {chip["scene"] for chip in index if chip["split"] == "train"}
    sharing = sum(chip["split"] == "val" and chip["scene"] in trained for chip in index)
    assert made.evaluation["sharing_scenes"] == sharing > 1
    said = f"{sharing} validation chips share a scene with training chips"
    page = page_of(made.run, tmp_path / "page.html")
    assert said in page.partition(">Verdict</h2>")[2].partition("</section>")[0]
    assert said in report(ReportConfig(str(made.run), out=str(tmp_path / "page.html")))
    run = shutil.copytree(made.run, tmp_path / "run")
    older = {name: value for name, value in made.evaluation.items() if name != "sharing_scenes"}
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(older))
    assert "share a scene with training" not in report(ReportConfig(str(run)))


def test_what_was_found_about_datasets_and_scenes_is_said(made: Run, tmp_path: Path) -> None:
    """In a section after the verdict, and beside the map; not where nothing was found."""
    taken, zeros = "lidar.tif: states no unit of heights", "38 % of pixels are 0 in all bands; is 0 nodata?"
    assert ">Findings</h2>" not in page_of(made.run, tmp_path / "page.html", maps=(str(made.map),))
    data = str(shutil.copytree(made.dataset.url, tmp_path / "chips"))
    manifest = read_manifest(data)
    before = {"findings": {"no unit": [taken]}}
    publish_change(data, replace(manifest, made_by=manifest.made_by | {"before": before}), {})
    height_map = str(shutil.copy(made.map, tmp_path / "scene.chm.tif"))
    with rasterio.open(height_map, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(TREELINE_FINDINGS=json.dumps({"filled": zeros}))
    page = page_of(made.run, tmp_path / "page.html", maps=(height_map,), data=data)
    found = page.partition(">Findings</h2>")[2].partition("</section>")[0]
    assert page.index(">Verdict</h2>") < page.index(">Findings</h2>") < page.index(">Scores</h2>")
    assert taken in found
    assert zeros in found
    assert zeros in page.partition(">Maps</h2>")[2].partition("</section>")[0]


def test_contents_link_to_every_section(made: Run, tmp_path: Path) -> None:
    page = page_of(made.run, tmp_path / "page.html", maps=(str(made.map),))
    contents = page.partition("<nav")[2].partition("</nav>")[0]
    links = dict(re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents))
    assert links == dict(re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', page))
    names = ["Verdict", "Scores", "Heights", "Chips", "Maps", "Training", "Splits", "Options", "Versions"]
    assert list(links.values()) == names


def test_every_map_is_shown_and_each_raster_beside_them_is_opened_once(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first four with their pixels, the others as pictures."""
    maps = [shutil.copy(made.map, tmp_path / f"{number}.chm.tif") for number in range(6)]
    read = []

    def grid(url: str) -> Grid:
        read.append(url)
        with rasterio.open(url) as raster:
            return Grid.of(raster)

    monkeypatch.setattr("inference.report.maps._grid", grid)
    options = {"image": (str(made.scene),), "heights": (str(made.heights),)}
    page = page_of(made.run, tmp_path / "page.html", maps=tuple(map(str, maps)), **options)
    after = page.partition(">Maps</h2>")[2].partition("</section>")[0]
    for number, shown in enumerate(after.split("<h3>")[1:]):
        kind = 'class="treeline-map"' if number < 4 else f'alt="Map {number}.chm.tif"'
        assert kind in shown, number
    assert after.count("<h3>") == 6
    assert sorted(read) == sorted(map(str, [*maps, made.scene, made.heights]))


def test_rows_of_chips_add_up_to_the_scores(made: Run) -> None:
    chips = read_chip_scores(str(made.run / "evaluation"))
    for start, name in (("", REGRESSOR), ("linear_", LINEAR), ("mean_", MEAN)):
        found = metrics_of(chips.sums_NS(start).sum(0))
        expected = made.evaluation["scores"][name]["all"]
        assert found.count == expected["count"]
        assert [found.mae, found.rmse, found.bias, found.r2] == pytest.approx(
            [expected[k] for k in ("mae", "rmse", "bias", "r2")], rel=1e-9
        )
    index = made.dataset.index.to_pydict()
    for row in chips.rows.to_pylist():
        at = index["key"].index(row["key"])
        assert row["split"] == "val"
        assert [row[k] for k in ("x", "y", "crs", "source", "scene")] == [
            index[k][at] for k in ("x", "y", "crs", "source", "scene")
        ]
    assert chips.rows.num_rows == made.evaluation["chips"]


def test_the_worst_chip_is_the_worst(made: Run) -> None:
    """By predictions that are made here, chip by chip."""
    regressor = load_checkpoint(str(made.run)).regressor
    val = made.dataset.chips("val")
    batch = made.dataset.gather(val)
    with torch.no_grad():
        predicted_BHW = predicted_heights(regressor, batch.image_BCHW, torch.device("cpu"))
    error_BHW = predicted_BHW - batch.height_BHW
    rmse_B = np.sqrt(np.nanmean(error_BHW**2, axis=(1, 2)))
    keys = made.dataset.index["key"].take(pa.array(val)).to_pylist()
    chips, examples = (read(str(made.run / "evaluation")) for read in (read_chip_scores, read_examples))
    order = [keys[place] for place in np.argsort(rmse_B)]
    assert chips.rows["key"].take(pa.array(chips.ranked)).to_pylist() == order
    groups = {n: chips.rows["key"].take(pa.array(r)).to_pylist() for n, r in example_rows(chips).items()}
    assert groups["worst"] == order[::-1][:4]
    assert groups["best"] == order[:4]
    assert groups["median"][1] == order[(len(order) - 4) // 2 + 1]
    assert set(examples.keys) == {key for group in groups.values() for key in group}
    for key, one_HW in zip(examples.keys, examples.predicted_BHW, strict=True):
        np.testing.assert_allclose(one_HW, predicted_BHW[keys.index(key)], atol=0.01)


def test_intervals_are_over_ground_that_neighbours_share(made: Run) -> None:
    val = made.dataset.chips("val")
    blocks, said = blocks_of_ground(made.dataset, val)
    count = len(set(blocks))
    assert count >= 20
    assert said.startswith(f"{count} squares of ")
    size = float(re.findall(r"of ([\d.]+) m", said)[0])
    places = made.dataset.index.select(["x", "y"]).take(pa.array(val)).to_pylist()
    for one, at in zip(blocks, places, strict=True):
        for other, there in zip(blocks, places, strict=True):
            if one == other:
                assert max(abs(at["x"] - there["x"]), abs(at["y"] - there["y"])) < size
    found = made.evaluation["intervals"]
    assert found["blocks"] == count
    for name, score in made.evaluation["scores"].items():
        low, high = found["rmse"][name]
        assert low < score["all"]["rmse"] < high


def test_chips_without_a_place_have_no_intervals(made: Run, tmp_path: Path) -> None:
    dataset = write_datasets(tmp_path)["heights"]
    blocks, said = blocks_of_ground(dataset, dataset.chips("val"))
    assert set(blocks) == {""}
    assert said.startswith("none: ")


def test_curves_are_those_of_the_records_and_of_old_ones(made: Run, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    old = tmp_path / "run"
    shutil.copytree(made.run, old)
    make_from_0(old)
    assert json.loads((old / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 0
    for run in (made.run, old):
        figure = drawn_curves(read_metrics(str(run)), best=2)
        drawn = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        for label, name in (("training", "loss"), ("validation", "val_loss"), ("model", "val_rmse")):
            assert drawn[label].get_xdata().tolist() == [1, 2, 3]
            assert drawn[label].get_ydata().tolist() == [line[name] for line in lines]
        assert list(drawn["best epoch: 2"].get_xdata()) == [2, 2]
    pages = [page_of(run, tmp_path / "page.html") for run in (made.run, old)]
    assert pages[0] == pages[1].replace(str(old), str(made.run))


def test_the_same_inputs_give_the_same_bytes(made: Run, tmp_path: Path) -> None:
    options = {"maps": (str(made.map),), "image": (str(made.scene),), "heights": (str(made.heights),)}
    first, second = (page_of(made.run, tmp_path / name, **options) for name in ("a.html", "b.html"))
    assert first == second


def test_what_is_missing_is_said_with_the_command_that_makes_it(made: Run, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    shutil.copytree(made.run, run, ignore=shutil.ignore_patterns("evaluation"))
    done = treeline("report", str(run))
    assert done.returncode == 0, done.stderr
    first, second, path, verdict, following = done.stdout.splitlines()
    assert first.startswith("no evaluation.json")
    assert second.startswith("no maps: run treeline predict SCENE... --checkpoint ")
    assert path == f"{run}/report.html"
    assert verdict.endswith("; scored on the validation chips")
    command = first.partition(": run ")[2]
    assert following == f"next: {command}"
    said = Texts(Path(path).read_text()).said
    assert f"{first}\n{second}" in said
    program, *words = shlex.split(command)
    assert program == "treeline"
    assert parse("evaluate", words[1:]).out == f"{run}/evaluation"
    assert treeline(*words).returncode == 0
    done = treeline("report", str(run), "--maps", str(made.map))
    assert [line for line in done.stdout.splitlines() if line.startswith("no ")] == []
    assert done.stdout.splitlines()[-1] == f"next: treeline view {made.map}"


@pytest.mark.parametrize("name", ["chips.parquet", "examples.npz", "evaluation.png"])
def test_an_evaluation_of_before_is_shown_without_what_it_lacks(made: Run, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    (run / "evaluation" / name).unlink()
    done = treeline("report", str(run))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"no {name}")
    assert "--split val" in done.stdout


def squared_times_1000(evaluation: Path) -> None:
    rows = pq.read_table(evaluation / "chips.parquet")
    place = rows.column_names.index("squared")
    larger = pa.array(rows["squared"].to_numpy() * 1000)
    pq.write_table(rows.set_column(place, "squared", larger), evaluation / "chips.parquet")


def one_chip_less(evaluation: Path) -> None:
    pq.write_table(pq.read_table(evaluation / "chips.parquet").slice(1), evaluation / "chips.parquet")


def another_checkpoint(evaluation: Path, *names: str) -> None:
    """Write files as if a checkpoint with the same sums had been scored."""
    path = evaluation / "evaluation.json"
    scored = binding(json.loads(path.read_text()) | {"checkpoint_fingerprint": "0" * 16})
    for name in names:
        read = read_chip_scores if name == "chips.parquet" else read_examples
        (evaluation / name).write_bytes(read(str(evaluation)).to_bytes(scored))


def killed_after_examples(evaluation: Path) -> None:
    another_checkpoint(evaluation, "chips.parquet", "examples.npz")


def examples_alone(evaluation: Path) -> None:
    another_checkpoint(evaluation, "examples.npz")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (squared_times_1000, "chips.parquet"),
        (one_chip_less, "chips.parquet"),
        (killed_after_examples, "chips.parquet"),
        (examples_alone, "examples.npz"),
    ],
)
def test_chips_of_another_evaluation_are_not_shown(
    made: Run, tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    evaluation = run / "evaluation"
    change(evaluation)
    done = treeline("report", str(run))
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    assert line.startswith(
        f"no {name} of these scores (the one in {evaluation} belongs to another evaluation): run "
    )
    text = (run / "report.html").read_text()
    assert line in html.unescape(text)
    assert (">Chips</h2>" in text) == (name == "examples.npz")
    assert ("Predicted against measured values" in text) == (name == "examples.npz")
    assert "Worst chips: image" not in text
    assert treeline(*shlex.split(line.partition(": run ")[2])[1:]).returncode == 0
    assert "of these scores" not in report(ReportConfig(str(run)))


def test_files_from_before_that_name_no_evaluation_are_made_anew(made: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    path = run / "evaluation" / "chips.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    said = report(ReportConfig(str(run)))
    assert said.startswith("no chips.parquet of these scores (an earlier version made this evaluation): run ")
    text = (run / "report.html").read_text()
    assert ">Chips</h2>" not in text
    assert "Predicted against measured values" in text


def test_a_dataset_that_moved_is_missed_and_found_with_data(made: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    path = run / "evaluation" / "evaluation.json"
    path.write_text(json.dumps(made.evaluation | {"data": "gone"}))
    assert report(ReportConfig(str(run))).startswith("no pictures of the chips: there is no dataset at gone;")
    without = (run / "report.html").read_text()
    assert "no pictures" not in report(ReportConfig(str(run), data=made.dataset.url))
    assert (run / "report.html").read_text().count("<img") == without.count("<img") + 3


def test_markup_in_a_key_stays_text(made: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    path, nasty = run / "evaluation" / "chips.parquet", "</td><script>alert(1)</script>"
    rows = pq.read_table(path)
    keys = pa.array([nasty] * rows.num_rows)
    pq.write_table(rows.set_column(rows.column_names.index("key"), "key", keys), path)
    listing = made.evaluation | {"files": []}  # as in an evaluation of somebody who knows how
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(listing))
    text = page_of(run, tmp_path / "page.html")
    assert "<script" not in text
    assert nasty in Texts(text).said


@pytest.mark.parametrize("what", ["nothing", "a checkpoint", "a dataset"])
def test_what_is_no_run_is_refused_in_one_line(made: Run, tmp_path: Path, what: str) -> None:
    if what == "a checkpoint":
        write_checkpoint(tmp_path / "it", small_regressor())
    place = made.dataset.url if what == "a dataset" else str(tmp_path / "it")
    before = sorted(tmp_path.rglob("*"))
    done = treeline("report", place)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "config.yaml" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--maps", "--data"])
def test_what_is_named_must_be_there(made: Run, tmp_path: Path, option: str) -> None:
    done = treeline("report", str(made.run), option, "gone", "--out", str(tmp_path / "page.html"))
    assert done.returncode == 2
    assert "gone" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_run_on_storage_has_the_same_page(made: Run, storage: str, tmp_path: Path) -> None:
    there = join(storage, "run")
    publish_folder(there, str(made.run))
    said = report(ReportConfig(there, maps=(str(made.map),)))
    assert f"\n{there}/report.html\n" in f"\n{said}"
    local = page_of(made.run, tmp_path / "page.html", maps=(str(made.map),))
    assert read_bytes(f"{there}/report.html").decode().replace(there, str(made.run)) == local


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tiles", "classes"])
def test_runs_of_other_tasks_show_their_scores(task: str, backbone: Path, tmp_path: Path) -> None:
    datasets, run = write_datasets(tmp_path / "data"), str(tmp_path / "run")
    train(config_of(task, datasets, backbone, run), Ranks())
    data = ("--data", datasets[task].url)
    assert treeline("evaluate", "--checkpoint", run, *data, "--out", f"{run}/evaluation").returncode == 0
    said = Texts(page_of(run, tmp_path / "page.html")).said
    scores = json.loads(Path(f"{run}/evaluation/evaluation.json").read_text())
    assert any(text.lower().startswith(scores["verdict"].lower()) for text in said)
    for name, score in scores["scores"].items():
        assert said[said.index(name) + 1] == f"{score['count']:,}"
    assert "Training" in said


def without_labels(folder: Path) -> Dataset:
    with DatasetWriter(str(folder), replace(CHIP_SCHEMA, label=""), {"command": "test"}, 10) as writer:
        for number in range(18):
            chip = replace(visible_chip(number), height_HW=np.zeros((0, 0), np.float32))
            writer.add(chip, split_of(chip.key, 0.3))
        writer.finish()
    return open_dataset(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "labels"), [("mae", "heights"), ("dino", "classes"), ("mae", "none")])
def test_a_pre_training_shows_its_curves_and_what_it_is_for(method: str, labels: str, tmp_path: Path) -> None:
    """The next command fits the labels of the dataset, and is that of `treeline pretrain`."""
    data, run = tmp_path / "data", tmp_path / "run"
    dataset = without_labels(data) if labels == "none" else write_datasets(data)[labels]
    probe = {"probe": ""} if labels == "none" else {}
    config = pretraining_of(dataset, method, run, epochs=2, **probe)
    pretrain(config, Ranks())
    done = treeline("report", str(run))
    assert done.returncode == 0, done.stderr
    path, verdict, following = done.stdout.splitlines()
    assert "without labels" in verdict
    assert "2 epochs. The best checkpoint is from epoch" in Path(path).read_text()
    assert following == after_pretraining(config).splitlines()[-1]
    expected = {
        "heights": f"train --data {dataset.url} --backbone {run} --out {run}-trained",
        "classes": f"train --data {dataset.url} --task pixel-class --backbone {run} --out {run}-trained",
        "none": f"embed {dataset.url} --checkpoint {run} --out {run}-embeddings",
    }
    assert following == f"next: treeline {expected[labels]}"
    if labels == "none":
        assert treeline(*shlex.split(expected[labels])).returncode == 0
    shutil.move(dataset.url, tmp_path / "elsewhere")
    lines = report(ReportConfig(str(run))).splitlines()
    assert lines[-1] == f"next: treeline train --data DATASET --backbone {run} --out {run}-trained"


def test_a_map_is_shown_beside_what_overlaps_it(made: Run, tmp_path: Path) -> None:
    """Scenes and heights that lie elsewhere, in another CRS, are left out: they may be of other maps."""
    with rasterio.open(made.scene) as scene:
        profile = scene.profile | {"crs": "EPSG:32606", "transform": from_origin(500_000, 7_000_000, 2, 2)}
        image_CHW = scene.read()
    with rasterio.open(tmp_path / "elsewhere.tif", "w", **profile) as copy:
        copy.write(image_CHW)
    elsewhere = str(tmp_path / "elsewhere.tif")
    config = ReportConfig(
        str(made.run),
        (str(made.map),),
        image=(elsewhere, str(made.scene)),
        heights=(elsewhere, str(made.heights)),
        out=str(tmp_path / "page.html"),
    )
    said = report(config).splitlines()[-1]
    assert said == f"next: treeline view {made.map} --image {made.scene} --heights {made.heights}"
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r'"kind":"(\w+)"', page) == ["image", "height", "height", "difference"]


def test_a_map_of_another_checkpoint_is_named(made: Run, tmp_path: Path) -> None:
    maps = (str(made.map),)
    assert " with the checkpoint that was scored." in page_of(made.run, tmp_path / "a.html", maps=maps)
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    path = run / "evaluation" / "evaluation.json"
    path.write_text(json.dumps(made.evaluation | {"checkpoint_fingerprint": "0" * 16}))
    assert "which is not the one that was scored" in page_of(run, tmp_path / "a.html", maps=maps)
