"""`treeline run`: what is done is skipped, what changed is made anew, and a kill changes no byte of a map."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from in_process import treeline
from killed_commands import Killer

from cluster.steps.content import Content, content_of_places
from cluster.steps.decision import Decision, Now, decide, options_to_compare
from cluster.steps.records import RECORDS, Record, Records
from cluster.steps.run import Run
from cluster.steps.steps_file import read_steps
from ingest.synthetic.landscape import write_scene
from shards.errors import InputError
from shards.storage.objects import exists
from shards.storage.one_writer import one_writer

STEPS = """\
out: made
steps:
  ingest synthetic:
    chips: 24
    shard_chips: 8
    min_height: null
  split:
    shares: [0.5, 0.5]
    rewrite: true
  train:
    recipe: tiny
    epochs: 1
    limit: 4
    batch_size: 2
    checkpoint_steps: 1
    baseline_chips: 4
  evaluate:
    limit: 2
    out: "" # pictures take longer than all else
  predict:
    scenes: [scene/*.tif]
    on_mismatch: ignore
    overlap: 0
    block: 64
  mosaic:
"""
NAMES = ["ingest synthetic", "split", "train", "evaluate", "predict", "mosaic"]


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene to map."""
    folder = tmp_path_factory.mktemp("landscape")
    (folder / "scene").mkdir()
    write_scene(folder, 0, 0, (128, 128)).image.rename(folder / "scene" / "WV02_20200701_a.tif")
    return folder


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as killer:
        yield killer


def laid_out(landscape: Path, folder: Path, steps: str = STEPS) -> Path:
    """A new folder with the scene and the file of steps."""
    folder.mkdir(exist_ok=True)
    (folder / "scene").symlink_to(landscape / "scene")
    (folder / "steps.yaml").write_text(steps)
    return folder


@pytest.fixture(scope="module")
def done(landscape: Path, killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing interrupted, and its seconds."""
    folder = laid_out(landscape, tmp_path_factory.mktemp("done"))
    code, seconds, said = killer.treeline(["run", "steps.yaml"], folder)
    assert code == 0, said
    return folder, seconds


def actions(said: str) -> dict[str, str]:
    """Each step with what was done: "skipped", "run" or "made anew"."""
    found = re.findall(r"^--- step \d of \d, ([^:]+): ([a-z ]+) \(", said, re.MULTILINE)
    return dict(found)


def maps(folder: Path) -> dict[str, bytes]:
    """The bytes of all maps, and of the mosaic."""
    return {path.name: path.read_bytes() for path in sorted((folder / "made").rglob("m*/*.tif"))} | {
        "mosaic": (folder / "made" / "mosaic.tif").read_bytes()
    }


@pytest.mark.slow
def test_a_run_killed_twice_ends_in_the_same_maps(
    landscape: Path, killer: Killer, done: tuple[Path, float], tmp_path: Path
) -> None:
    folder = laid_out(landscape, tmp_path / "killed")
    for step in ("train", "predict"):
        code, _, said = killer.treeline(["run", "steps.yaml"], folder, 0.2, said=f", {step}: runs")
        assert code == -9, said
    code, _, said = killer.treeline(["run", "steps.yaml"], folder)
    assert code == 0, said
    assert maps(folder) == maps(done[0])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_runs_killed_at_ten_random_moments_end_in_the_same_maps(
    landscape: Path, killer: Killer, done: tuple[Path, float], tmp_path: Path
) -> None:
    moments, killed = random.Random(16), 0
    for number in range(10):
        folder = laid_out(landscape, tmp_path / str(number))
        code, _, said = killer.treeline(["run", "steps.yaml"], folder, moments.random() * done[1])
        assert code in (0, -9), said
        killed += code == -9
        code, _, said = killer.treeline(["run", "steps.yaml"], folder)
        assert code == 0, said
        assert maps(folder) == maps(done[0]), number
    assert killed > 5


def changed(done: tuple[Path, float], folder: Path, *edits: tuple[str, str]) -> Path:
    """A copy of a finished run whose file of steps is edited."""
    shutil.copytree(done[0], folder, symlinks=True)
    steps = STEPS
    for old, new in edits:
        assert old in steps
        steps = steps.replace(old, new)
    (folder / "steps.yaml").write_text(steps)
    return folder


def plan(folder: Path, *more: str) -> dict[str, str]:
    """What a run would do about each step."""
    said = treeline("run", "steps.yaml", "--dry-run", *more, folder=folder)
    assert said.returncode == 0, said.stderr
    return dict(re.findall(r"^# ([^:]+): ([a-z ]+) \(", said.stdout, re.MULTILINE))


def of(**actions: str) -> dict[str, str]:
    """Actions of all steps: these, and the others are skipped."""
    return {name: actions.get(name.split()[0], "skipped") for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], of()),
        ([("  train:\n", "  train: # a comment\n"), ("out: made", "# another\nout: made")], of()),
        ([("    block: 64\n", "    block: 128\n    device: cpu\n")], of()),
        ([("overlap: 0", "overlap: 0.25")], of(predict="made anew", mosaic="made anew")),
        ([("overlap: 0", "overlap: 0\n    stac: true")], of(predict="runs", mosaic="runs")),
        ([("    limit: 2\n", "    limit: 3\n")], of(evaluate="made anew")),
        ([("  mosaic:\n", "  mosaic:\n    method: median\n")], of(mosaic="made anew")),
        ([("  mosaic:\n", "  mosaic:\n    out: other.tif\n")], of(mosaic="runs")),
    ],
    ids=["nothing", "comments", "speed", "maps", "more of them", "scores", "mosaic", "another place"],
)
def test_only_what_an_edit_concerns_is_run(
    edits: list[tuple[str, str]], expected: dict[str, str], done: tuple[Path, float], tmp_path: Path
) -> None:
    """Also where the whole folder was copied to another place."""
    assert plan(changed(done, tmp_path / "copy", *edits)) == expected


@pytest.mark.slow
def test_what_is_gone_is_made_and_what_follows_waits_for_it(done: tuple[Path, float], tmp_path: Path) -> None:
    folder = changed(done, tmp_path / "copy")
    (folder / "made" / "mosaic.tif").unlink()
    assert plan(folder) == of(mosaic="runs")
    next((folder / "made" / "maps").glob("*.chm.tif")).unlink()
    assert plan(folder) == of(predict="runs", mosaic="runs")
    shutil.rmtree(folder / "made" / "run")
    assert plan(folder) == of(train="runs", evaluate="runs", predict="runs", mosaic="runs")


def test_an_input_that_is_left_out_or_written_again_is_noticed(tmp_path: Path) -> None:
    """Also where a name, which is no place, stands beside it."""
    table = tmp_path / "labels.csv"
    table.write_text("filename\na\n")
    (tmp_path / "images").mkdir()
    text = "steps: {ingest pairs: {images: images, table: labels.csv, dtype: int16}}"
    (tmp_path / "steps.yaml").write_text(text)
    (step,) = read_steps(f"{tmp_path}/steps.yaml").steps
    inputs = {"images": {"a.npy": "3 1"}, "table": {"labels.csv": "11 1"}}
    record = Record(step.command, "done", options_to_compare(step.config), inputs)
    assert decide(step, record, Now(inputs)).action == "skip"
    (tmp_path / "steps.yaml").write_text(text.replace("table: labels.csv, ", ""))
    (without,) = read_steps(f"{tmp_path}/steps.yaml").steps
    now = Now({"images": inputs["images"]}, may_replace=True)
    assert decide(without, record, now) == Decision("make anew", "table is left out")
    now = Now({**inputs, "table": {"labels.csv": "11 2"}}, may_replace=True)
    why = "table changed (1 written again, such as labels.csv)"
    assert decide(step, record, now) == Decision("make anew", why)
    more = Now({**inputs, "images": {"a.npy": "3 1", "b.npy": "3 1"}})
    with pytest.raises(InputError, match=r"images changed \(1 added, such as b.npy\); undo that"):
        decide(step, record, more)


@pytest.mark.slow
def test_a_dataset_or_a_training_is_replaced_only_if_asked(done: tuple[Path, float], tmp_path: Path) -> None:
    folder = changed(done, tmp_path / "copy", ("epochs: 1", "epochs: 2"))
    before = {path: path.stat().st_mtime_ns for path in (folder / "made").rglob("*")}
    said = treeline("run", "steps.yaml", folder=folder)
    assert said.returncode == 2
    assert said.stderr == (
        "treeline: train: made/run would be made anew, because epochs changed (1 there, 2 asked for); undo "
        "that, give this step another out, or allow it with --redo train\n"
    )
    assert not said.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "made").rglob("*")} == before
    anew = {"train": "made anew", "evaluate": "made anew", "predict": "made anew", "mosaic": "made anew"}
    assert plan(folder, "--redo", "train") == of(**anew)
    (folder / "steps.yaml").write_text(STEPS.replace("shares: [0.5, 0.5]", "shares: [0.7, 0.3]"))
    said = treeline("run", "steps.yaml", folder=folder)
    assert said.returncode == 2
    assert "train: made/run would be made anew, because split is made anew; " in said.stderr
    assert "--redo split" in said.stderr
    assert plan(folder, "--redo", "split") == of(split="made anew", **anew)
    said = treeline("run", "steps.yaml", "--redo", "splits", folder=folder)
    assert said.stderr.startswith("treeline: --redo splits: steps.yaml has no such step; did you mean split?")


@pytest.mark.slow
def test_a_dataset_that_is_made_anew_as_it_was_changes_nothing_else(
    done: tuple[Path, float], tmp_path: Path
) -> None:
    """What a later step changed in it is gone, and is done again; it is the same, so the training stays."""
    folder = changed(done, tmp_path / "copy")
    assert json.loads((folder / "made" / "chips" / "dataset.json").read_text())["generation"] > 0
    said = treeline("run", "steps.yaml", "--redo", "ingest synthetic", folder=folder)
    assert said.returncode == 0, said.stderr
    assert actions(said.stdout) == of(ingest="made anew", split="runs")
    assert treeline("verify", "made/chips", folder=folder).returncode == 0
    assert plan(folder) == of()


@pytest.mark.slow
def test_new_maps_replace_the_old_ones_and_the_training_stays(
    done: tuple[Path, float], tmp_path: Path
) -> None:
    """A map of a scene that is no longer asked for is removed, so that no mosaic has it; other files stay."""
    folder = changed(done, tmp_path / "copy", ("overlap: 0", "overlap: 0.25"))
    (folder / "scene").unlink()
    (folder / "scene").mkdir()
    write_scene(folder, 1, 0, (128, 128)).image.rename(folder / "scene" / "WV02_20200702_b.tif")
    (folder / "made" / "maps" / "notes.txt").write_text("mine")
    run = {path: path.stat().st_mtime_ns for path in (folder / "made" / "run").rglob("*")}
    said = treeline("run", "steps.yaml", folder=folder)
    assert said.returncode == 0, said.stderr
    assert actions(said.stdout) == of(predict="made anew", mosaic="made anew")
    assert "overlap changed (0 there, 0.25 asked for)" in said.stdout.replace("0.0 ", "0 ")
    assert (
        "scenes changed (1 added, such as WV02_20200702_b.tif, 1 removed, such as WV02_20200701_a.tif)"
        in said.stdout
    )
    assert {path: path.stat().st_mtime_ns for path in (folder / "made" / "run").rglob("*")} == run
    left = {path.name for path in (folder / "made" / "maps").iterdir() if path.is_file()}
    assert left == {"WV02_20200702_b.chm.tif", "WV02_20200702_b.chm.qml", "predict.json", "notes.txt"}
    with rasterio.open(folder / "made" / "mosaic.tif") as mosaic:
        assert "20200701" not in mosaic.tags()["TREELINE_MAPS"]


@pytest.mark.slow
def test_what_is_made_anew_leaves_other_files_and_none_of_its_own(
    done: tuple[Path, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(done, tmp_path / "copy")
    places = [folder / "made" / name for name in ("chips", "run", "run/epoch-0001", "maps", "evaluation")]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / "notes.txt").write_text("mine")
    monkeypatch.chdir(folder)
    file = read_steps("steps.yaml")
    run = Run(file, Records(file.out))
    for step in file.steps:
        record = run.records.get(step.name)
        if record and step.command in ("ingest synthetic", "train", "predict", "mosaic"):
            run._remove(step, record)
    left = {str(path.relative_to(folder)) for path in (folder / "made").rglob("*") if path.is_file()}
    assert left == {"made/steps.json", *(str(place.relative_to(folder) / "notes.txt") for place in places)}


@pytest.mark.slow
def test_more_scenes_are_mapped_beside_those_that_are(done: tuple[Path, float], tmp_path: Path) -> None:
    folder = changed(done, tmp_path / "copy")
    scenes = (folder / "scene").resolve()
    (folder / "scene").unlink()
    shutil.copytree(scenes, folder / "scene")
    write_scene(folder, 1, 0, (128, 128)).image.rename(folder / "scene" / "WV02_20200702_b.tif")
    first = folder / "made" / "maps" / "WV02_20200701_a.chm.tif"
    before = first.stat().st_mtime_ns
    said = treeline("run", "steps.yaml", folder=folder)
    assert said.returncode == 0, said.stderr
    assert actions(said.stdout) == of(predict="runs", mosaic="made anew")
    assert first.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(done: tuple[Path, float], tmp_path: Path) -> None:
    folder = changed(done, tmp_path / "copy", ("overlap: 0", "overlap: 0.25"))
    with one_writer(str(folder / "made"), of=RECORDS):
        said = treeline("run", "steps.yaml", folder=folder)
    assert said.returncode == 2
    assert "made: another command writes here (process " in said.stderr
    assert maps(folder) == maps(done[0])


def test_next_commands_are_those_of_the_last_step_alone(tmp_path: Path) -> None:
    """What an earlier step would advise is another step of the same file."""
    (tmp_path / "steps.yaml").write_text(
        "steps: {ingest synthetic: {chips: 6, min_height: null, shares: [0.5, 0.5]}, verify: , "
        "convert: {to: zarr}}"
    )
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    following = [line for line in said.stdout.splitlines() if line.startswith("next: ")]
    assert following == ["next: treeline verify steps/converted"]
    assert "steps/chips: everything is as it was written" in said.stdout


def test_inputs_are_looked_at_before_anything_starts_and_once_at_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3 each look lists the folder."""
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "0.npy", np.arange(4 * 64 * 64, dtype=np.int16).reshape(4, 64, 64))
    looked = []

    def looks(places: tuple[str, ...]) -> Content:
        looked.append(places)
        return content_of_places(places)

    monkeypatch.setattr("cluster.steps.run.content_of_places", looks)
    (tmp_path / "steps.yaml").write_text("steps: {ingest pairs: {images: a, bands: [b, g, r, n]}}")
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert len(looked) == 2
    record = json.loads((tmp_path / "steps" / "steps.json").read_text())["steps"]["ingest pairs"]
    assert list(record["inputs"]["images"]) == ["0.npy"]


def test_a_failing_step_ends_the_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text(
        "steps: {ingest synthetic: {chips: 6, min_height: null, shares: [1]}, verify: , "
        "mosaic: {maps: [a.tif]}}"
    )
    (tmp_path / "a.tif").write_text("no map")
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert said.returncode == 2
    assert actions(said.stdout) == {"ingest synthetic": "runs", "verify": "runs", "mosaic": "runs"}
    last = said.stderr.splitlines()[-1]
    assert last.startswith("treeline: mosaic: ")
    assert last.endswith("; then go on with treeline run steps.yaml")
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["chips", "steps.json"]
    (tmp_path / "steps" / "chips" / "index.parquet").write_text("damaged")
    (tmp_path / "steps.yaml").write_text(
        "steps: {ingest synthetic: {chips: 6, min_height: null, shares: [1]}, verify: }"
    )
    said = treeline("run", "steps.yaml", "--redo", "verify", folder=tmp_path)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1] == "treeline: verify failed; go on with treeline run steps.yaml"


@pytest.mark.parametrize("says", ["{", "[]", '{"steps": {"split": {}}}', '{"steps": 3}'])
def test_a_damaged_record_is_named(says: str, tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text("steps: {ingest synthetic: {chips: 6}}")
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "steps.json").write_text(says)
    said = treeline("run", "steps.yaml", "--dry-run", folder=tmp_path)
    assert said.returncode == 2
    assert "steps/steps.json: " in said.stderr
    assert "copy it again, or delete it" in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["moto"], indirect=True)
def test_a_run_lives_on_s3_as_on_a_disk(storage: str, tmp_path: Path) -> None:
    """Records, skipping, what is removed, and the second run that is refused."""
    steps = (
        f"out: {storage}/made\n"
        "steps:\n"
        "  ingest synthetic: {chips: 8, min_height: null, shares: [0.5, 0.5]}\n"
        "  split: {shares: [0.6, 0.4]}\n"
        "  convert: {to: zarr}\n"
    )
    (tmp_path / "steps.yaml").write_text(steps)
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert exists(f"{storage}/made/steps.json")
    again = treeline("run", "steps.yaml", folder=tmp_path)
    assert set(actions(again.stdout).values()) == {"skipped"}
    (tmp_path / "steps.yaml").write_text(steps.replace("[0.6, 0.4]", "[0.3, 0.7]"))
    refused = treeline("run", "steps.yaml", folder=tmp_path)
    assert refused.returncode == 2
    assert "converted would be made anew, because split is made anew" in refused.stderr
    with one_writer(f"{storage}/made", of=RECORDS):
        second = treeline("run", "steps.yaml", "--redo", "split", folder=tmp_path)
    assert second.returncode == 2
    assert "another command writes here" in second.stderr
    said = treeline("run", "steps.yaml", "--redo", "split", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    expected = {"ingest synthetic": "skipped", "split": "made anew", "convert": "made anew"}
    assert actions(said.stdout) == expected
