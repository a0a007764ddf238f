"""Only what a step itself made is removed when it is made anew: whatever else lies there stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import treeline

from cluster.steps.chain import RESULTS
from cluster.steps.own_files import own_files
from cluster.steps.records import Record, Records
from cluster.steps.run import Run
from cluster.steps.steps_file import StepsFile, read_steps
from shards.errors import InputError

OWN = {
    "ingest": [
        *("dataset.json", "index.parquet", "index.2.parquet", "rejected.parquet", "statistics.json"),
        *("counts.1.npz", ".ingest/plan.json", ".ingest/parts/0", ".unfinished", "train/000000.tar"),
        *("mixed/from-val/000001.tar", "test.zarr/zarr.json", "train.zarr/image/c/3/0/0/0"),
        ".treeline-0123456789abcdef-index.parquet",
    ],
    "run": [
        *("epoch-0003/model.safetensors", "epoch-0003/config.json", "epoch-0003/metrics.json", "config.yaml"),
        *("epoch-0003/statistics.json", "epoch-0003/backbone.json", "epoch-0003/rest.safetensors"),
        *("state.json", "state/step-00000490-epoch-0014-chip-000000000/00000-0000.safetensors"),
        *("checkpoints.json", "metrics.jsonl", "validation.json", "mlflow.json", "failed.json"),
        *(
            "failing-3.json",
            "backbone-0123456789abcdef.safetensors",
            "tensorboard/events.out.tfevents.1.vm.2.0",
        ),
    ],
    "import": ["config.json", "model.safetensors", "statistics.json", "metrics.json"],
    "export": ["config.json", "model.safetensors", "treeline.json", "model-00001-of-00002.safetensors"],
    "sweep": ["sweep.json", "best.yaml", "trial-0001/config.yaml", "trial-0001/epoch-1/config.json"],
    "matrix": [
        *("matrix.yaml", "matrix.json", "predictions.parquet", "index.html"),
        *("cells/0001-a-random-full-8-0.parquet", "runs/0001-a-random-full-8-0/state.json"),
    ],
    "predict": ["a.chm.tif", "a.classes.png", "a.tiles.json", "a.chm.qml", "predict.json", ".predict/a/0-1"],
    "mosaic": [""],
    "embed": ["plan.json", "embeddings.json", "part-000000.parquet"],
    "attention": ["attention.json", "index.html", "a.attention.tif", "a.components.tif"],
}
"""Files that steps make, by command or kind."""
KIND = {"convert": "ingest", "train": "run", "pretrain": "run"}
STRAYS = [
    *(
        "notes.txt",
        "img/a.npy",
        "hgt/a.npy",
        "data.json",
        "a.tif",
        "a.png",
        "train/notes.txt",
        "extra/best.pt",
    ),
    *("train.zarr/notes.txt", "mixed/mine.tar", "other/dataset.json", "other/train/000000.tar"),
    *("state/notes.txt", "tensorboard/notes.txt", "epoch-0003/notes.txt", "evaluation/evaluation.json"),
    *("trial-0001/notes.txt", "runs/notes.txt", "cells/notes.txt", "my.parquet", "maps/a.chm.tif"),
]
"""Files that a user may put there."""
REMOVED = [name for name, result in RESULTS.items() if result.again != "replaces" and not result.is_in_place]
"""Commands whose results are removed when their step is made anew."""


def own_of(command: str) -> list[str]:
    """Names of files that a command makes."""
    kind = KIND.get(command, command)
    return OWN["ingest" if kind.startswith("ingest ") else kind]


def laid_out(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Files of these names, and what is in them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return {name: (folder / name).read_bytes() for name in names}


def there(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", REMOVED)
def test_a_command_knows_its_own_names_alone(command: str) -> None:
    own = own_of(command)
    assert own_files(command, own) == own
    assert own_files(command, STRAYS) == []


def one_step(folder: Path, command: str) -> StepsFile:
    """A file whose only step is this, with its result in `made`."""
    more = {
        "ingest synthetic": {"chips": 6},
        "convert": {"data": "d", "to": "zarr"},
        "train": {"data": "d"},
        "pretrain": {"data": "d"},
        "export": {"run": "r"},
        "predict": {"checkpoint": "c", "scenes": ["s.tif"]},
        "embed": {"checkpoint": "c", "data": "d"},
    }[command]
    (folder / "steps.yaml").write_text(
        json.dumps({"out": str(folder / "run"), "steps": {command: {**more, "out": str(folder / "made")}}})
    )
    return read_steps(str(folder / "steps.yaml"))


@pytest.mark.parametrize("command", ["ingest synthetic", "convert", "train", "pretrain", "predict", "embed"])
@pytest.mark.parametrize("state", ["begun", "done"])
def test_what_others_put_there_stays(command: str, state: str, tmp_path: Path) -> None:
    """Before the step began, while it ran and afterwards; also where its files have come to other names."""
    file, made = one_step(tmp_path, command), tmp_path / "made"
    before = laid_out(made, STRAYS[:8])
    own = own_of(command)
    laid_out(made, own[1:])
    during = laid_out(made, STRAYS[8:14])
    (step,) = file.steps
    records = Records(file.out)
    record = Record(command, "begun", {}, {}, place=step.place, before=tuple(before))
    run = Run(file, records)
    laid_out(made, own)
    if state == "done":
        is_costly = RESULTS[command].is_costly
        record = replace(record, state="done") if is_costly else run._done(step, record)
    after = laid_out(made, STRAYS[14:])
    run._remove(step, record)
    assert there(made) == {**before, **during, **after}
    kept = records.get(command)
    assert kept is not None
    assert kept.state == "being removed"
    run._remove(step, kept)
    assert there(made) == {**before, **during, **after}


@pytest.mark.parametrize("is_changed", [False, True])
def test_the_style_of_a_mosaic_goes_with_it_unless_somebody_changed_it(
    is_changed: bool, tmp_path: Path
) -> None:
    (tmp_path / "steps.yaml").write_text(
        f"{{out: {tmp_path}/run, steps: {{mosaic: {{maps: [a.tif], out: {tmp_path}/made.tif}}}}}}"
    )
    file = read_steps(str(tmp_path / "steps.yaml"))
    (step,) = file.steps
    laid_out(tmp_path, ["made.tif", "made.qml", "made.png"])
    run = Run(file, Records(file.out))
    record = run._done(step, Record("mosaic", "begun", {}, {}, place=step.place))
    if is_changed:
        (tmp_path / "made.qml").write_text("my own colours")
    run._remove(step, record)
    left = {path.name for path in tmp_path.glob("made*")}
    assert left == {"made.png", *(["made.qml"] if is_changed else [])}


def test_a_folder_that_must_be_empty_is_not_emptied_of_what_others_put_there(tmp_path: Path) -> None:
    """The command would advise to delete it."""
    file, made = one_step(tmp_path, "export"), tmp_path / "made"
    (step,) = file.steps
    laid_out(made, own_of("export"))
    run = Run(file, Records(file.out))
    record = run._done(step, Record("export", "begun", {}, {}, place=step.place))
    mine = laid_out(made, ["notes.txt"])
    with pytest.raises(InputError, match=r"made holds notes\.txt, which this step did not make; move that"):
        run._remove(step, record)
    assert there(made).keys() == {*own_of("export"), *mine}
    (made / "notes.txt").unlink()
    run._remove(step, record)
    assert not made.exists()


def test_redo_of_a_dataset_leaves_the_images_and_notes_that_lie_in_its_folder(tmp_path: Path) -> None:
    """Also those that came after it was made, and the same dataset comes out."""
    (tmp_path / "steps.yaml").write_text(
        "steps: {ingest synthetic: {chips: 6, min_height: null, shares: [0.5, 0.5], out: data}}"
    )
    before = laid_out(tmp_path / "data", ["img/a.npy"])
    assert treeline("run", "steps.yaml", folder=tmp_path).returncode == 0
    dataset = there(tmp_path / "data")
    after = laid_out(tmp_path / "data", ["img/b.npy", "notes.txt", "train/notes.txt", "other/dataset.json"])
    said = treeline("run", "steps.yaml", "--redo", "ingest synthetic", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "made anew" in said.stdout
    assert there(tmp_path / "data") == {**dataset, **before, **after}
