"""A damaged checkpoint is refused with one line that names the file and says what to do.

Every value of every JSON file of every kind of checkpoint is taken out, or replaced by one of another kind:
the file is refused by its name, or the value makes no difference to reading. No other error leaves the
readers.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import small_class_model, write_class_checkpoint
from in_process import treeline
from older_checkpoints import without_sums
from regressors import BANDS, SCHEMA, SMALL_BACKBONE, small_regressor, write_checkpoint, write_dataset
from tile_models import small_tile_model, write_tile_checkpoint

from shards.errors import InputError
from trainer.model.backbone import build_backbone
from trainer.model.checkpoint import checkpoint_url
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint, read_checkpoint_header
from trainer.model.pretrained import Pretrained, load_pretrained
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.tile_model import TileHead

FILES = ("config.json", "statistics.json", "metrics.json")
Load = Callable[[str], object]
LOAD: dict[str, Load] = {
    "heights": load_checkpoint,
    "classes": load_class_checkpoint,
    "tiles": load_tile_checkpoint,
    "pretrained": load_pretrained,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, without the checksums that would find any damage first."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint(folder / "heights", small_regressor())
    write_class_checkpoint(folder / "classes", small_class_model())
    write_tile_checkpoint(folder / "tiles", small_tile_model(TileHead("brightness", "linear")))
    statistics, shape = small_regressor().statistics, {**SMALL_BACKBONE, "num_channels": len(BANDS)}
    torch.manual_seed(0)
    pretrained = Pretrained(
        "mae", SCHEMA, BANDS, statistics, {"student": build_backbone(shape)}, {}, {"epoch": 0}
    )
    (folder / "pretrained").mkdir()
    for name, data in pretrained.files().items():
        (folder / "pretrained" / name).write_bytes(data)
    return {kind: without_sums(folder / kind) for kind in LOAD}


def places(values: Any, depth: int = 3) -> Iterator[tuple[str, ...]]:
    """Every key, and every key below it."""
    if isinstance(values, dict) and depth:
        for name, value in values.items():
            yield (name,)
            yield from ((name, *below) for below in places(value, depth - 1))


def changed(values: dict[str, Any], place: tuple[str, ...], *value: Any) -> dict[str, Any]:
    """The same values, but one is another, or is missing."""
    values = json.loads(json.dumps(values))
    at = values
    for name in place[:-1]:
        at = at[name]
    del at[place[-1]]
    if value:
        at[place[-1]] = value[0]
    return values


def refusal(load: Load, folder: Path) -> str:
    """What the reader says; "" if it finds nothing wrong."""
    try:
        load(str(folder))
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", LOAD)
def test_no_value_of_another_kind_is_an_error_without_the_files_name(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, refused = Path(shutil.copytree(checkpoints[kind], tmp_path / "damaged")), 0
    for file in FILES:
        whole = (folder / file).read_text()
        values = json.loads(whole)
        for place in places(values):
            for other in ((), ("x",), ([{}],)):
                (folder / file).write_text(json.dumps(changed(values, place, *other)))
                said = refusal(LOAD[kind], folder)
                refused += bool(said)
                assert not said or (str(folder) in said and "; " in said and "\n" not in said), (place, said)
        (folder / file).write_text(whole)
    assert refused > 20
    assert not refusal(LOAD[kind], folder)


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"a"', "[" * 100_000, "\udcff"])
def test_a_file_of_other_content_is_refused(
    kind: str, file: str, text: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints[kind], tmp_path / "damaged"))
    (folder / file).write_text(text, errors="surrogateescape")
    said = refusal(LOAD[kind], folder)
    if text == "{}" and (kind, file) == ("pretrained", "metrics.json"):
        assert not said, "a pre-training needs none of them"
    else:
        assert said.startswith(f"{folder / file}: ")
        assert "; copy " in said


@pytest.mark.parametrize("kind", LOAD)
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "(is empty)"),
        (b"abc", "(is cut off after 3 bytes)"),
        (b"\0" * 7 + b"\x80" + b"x" * 100, "(does not begin as a .safetensors file: "),
        (
            (4 * 10**6).to_bytes(8, "little") + b"{}",
            "(is cut off within its list of tensors, which takes 4,000,",
        ),
        ((2).to_bytes(8, "little") + b"\xff\xff", "(its list of tensors cannot be understood)"),
        ((2).to_bytes(8, "little") + b"[]", "(its list of tensors cannot be understood)"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "(its list of tensors cannot be understood)"),
    ],
)
def test_weights_that_are_none_are_refused(
    kind: str, data: bytes, said: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints[kind], tmp_path / "damaged"))
    (folder / "model.safetensors").write_bytes(data)
    loads = [LOAD[kind], read_checkpoint_header] if kind == "heights" else [LOAD[kind]]
    for load in loads:
        text = refusal(load, folder)
        assert text.startswith(f"{folder}/model.safetensors: not this ")
        assert said in text
        assert text.endswith("; copy the checkpoint again, or take another")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [],
        *({**ENTRY, "dtype": dtype} for dtype in ("F33", None, [], 7)),
        *({**ENTRY, "shape": shape} for shape in (None, 2, ["x"], [float("inf")], [-2], [2**70], "ab")),
        *(
            {**ENTRY, "data_offsets": at}
            for at in (None, [], [0], [0, 2**70], [-8, 0], [8, 0], ["x", 8], [0, 8, 9])
        ),
    ],
)
def test_a_list_of_tensors_with_another_value_is_refused(
    entry: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints["heights"], tmp_path / "damaged"))
    header = json.dumps({"weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    for load in (load_checkpoint, read_checkpoint_header):
        text = refusal(load, folder)
        assert text.startswith(f"{folder}/model.safetensors: not this model's weights (")
        assert "list of tensors" in text


# --- the run's list of checkpoints ---


@pytest.fixture
def run(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A run whose best checkpoints are those of epochs 2, 3 and 1, of 4."""
    for number in (1, 2, 3, 4):
        shutil.copytree(checkpoints["heights"], tmp_path / "run" / f"epoch-000{number}")
    names = {"last": "epoch-0004", "best": ["epoch-0002", "epoch-0003", "epoch-0001"]}
    (tmp_path / "run" / "checkpoints.json").write_text(json.dumps(names))
    return tmp_path / "run"


def test_the_best_falls_to_the_next_that_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = ["epoch-0002", "epoch-0003", "epoch-0001", "epoch-0004"]
    for gone, name in enumerate(order):
        assert [checkpoint_url(url) for url in (str(run), f"{run}/best")] == [f"{run}/{name}"] * 2
        said = f"treeline: {run}: its best checkpoint, epoch-0002, is missing; takes the next that is there, "
        said += f"{name}\n"
        assert capsys.readouterr().err == (said if gone else ""), "it is said once"
        shutil.rmtree(run / name)
    with pytest.raises(
        InputError, match=r"run: none of its checkpoints is there \(epoch-0002, epoch-0003, epo"
    ):
        checkpoint_url(str(run))


def test_a_last_checkpoint_that_is_gone_is_named_with_the_best_that_is_there(run: Path) -> None:
    shutil.rmtree(run / "epoch-0004")
    with pytest.raises(
        InputError, match=r"its last checkpoint, epoch-0004, is missing; give .*/run/epoch-0002$"
    ):
        checkpoint_url(f"{run}/last")
    assert checkpoint_url(str(run)) == f"{run}/epoch-0002"


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"last": 7, "best": [8]}', '{"last": "epoch-0004", "best": []}', '{"last": "a"}'],
)
def test_a_damaged_list_of_checkpoints_is_refused(run: Path, text: str) -> None:
    (run / "checkpoints.json").write_text(text)
    for url in (str(run), f"{run}/best", f"{run}/last"):
        with pytest.raises(InputError, match=r"run/checkpoints\.json: .*; copy it again"):
            checkpoint_url(url)
    assert load_checkpoint(f"{run}/epoch-0002")


def test_commands_end_with_one_line_and_code_2(run: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "chips", 6)
    shutil.rmtree(run / "epoch-0002")
    (run / "epoch-0003" / "metrics.json").write_text("{}")
    done = treeline("evaluate", "--checkpoint", str(run), "--data", dataset.url, "--split", "train")
    assert done.returncode == 2
    fallen, unchecked, refused = done.stderr.splitlines()
    assert "epoch-0003: an earlier version wrote it without checksums" in unchecked
    assert "is missing; takes the next that is there, epoch-0003" in fallen
    assert refused == (
        f"treeline: {run}/epoch-0003/metrics.json: cannot be understood (baselines is missing, or unknown); "
        "copy the checkpoint again, or take another"
    )
