"""`--on-mismatch` of predict, embed and attention: what is refused, what is said, and what the files hold.

- A scene divided by 10 is refused with exit code 2; the others of its run get their maps.
- Where it is only noted or ignored, its map has the pixels that it always had, and a tag says what was found.
- The map's bytes are the same whatever was asked for, and after an interruption; an honest scene has no tag.
- A map that is there stays there.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rasterio
from honest_scenes import plain_scene, statistics, stored
from in_process import treeline
from regressors import BANDS, small_regressor, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from shards.errors import InputError
from shards.raster.finding import FINDINGS_TAG, Finding, OnMismatch, noted
from trainer.model.height_checkpoint import load_checkpoint

LINE = "all bands as if divided by 10"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), small_regressor(statistics=statistics()))
    assert load_checkpoint(str(folder)).regressor.bands == BANDS
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an honest scene, and the same scene divided by 10."""
    folder = tmp_path_factory.mktemp("scenes")
    image_CHW = plain_scene(3001)[:, :128, :128]
    write_scene(folder / "honest.tif", stored(image_CHW))
    write_scene(folder / "tenth.tif", stored(image_CHW / 10))
    return folder


def options(checkpoint: Path, out: Path, on_mismatch: str) -> list[str]:
    return [
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(out),
        "--batch-size",
        "4",
        "--on-mismatch",
        on_mismatch,
    ]


def tags_of(path: Path) -> dict[str, str]:
    with rasterio.open(path) as raster:
        return dict(raster.tags())


def test_a_scene_divided_by_ten_is_refused(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    done = treeline("predict", str(scenes / "tenth.tif"), *options(checkpoint, tmp_path / "maps", "refuse"))
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert LINE in line
    assert "--on-mismatch note" in line
    assert "multiply the scene by 10" in line
    assert not list((tmp_path / "maps").glob("**/*.tif"))
    done = treeline("predict", str(scenes), *options(checkpoint, tmp_path / "maps", "refuse"))
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "maps").glob("*.tif")] == ["honest.chm.tif"]
    assert FINDINGS_TAG not in tags_of(tmp_path / "maps" / "honest.chm.tif")


@pytest.mark.parametrize("on_mismatch", ["note", "ignore"])
def test_a_map_of_a_noted_scene_says_so(
    checkpoint: Path, scenes: Path, tmp_path: Path, on_mismatch: str
) -> None:
    out = tmp_path / on_mismatch
    done = treeline("predict", str(scenes), *options(checkpoint, out, on_mismatch), "--stac")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if LINE in line]
    assert len(said) == (on_mismatch == "note")
    assert ("1 scene differs from the training" in done.stdout) == (on_mismatch == "note")
    found = json.loads(tags_of(out / "tenth.chm.tif")[FINDINGS_TAG])
    assert list(found) == ["factor"]
    assert LINE in found["factor"]
    item = json.loads((out / "tenth.chm.json").read_text())
    assert json.loads(item["properties"]["treeline:findings"]) == found
    assert "treeline:findings" not in (out / "honest.chm.json").read_text()


def test_mosaics_and_scores_repeat_what_is_found_in_their_maps(
    checkpoint: Path, scenes: Path, tmp_path: Path
) -> None:
    """Also a mosaic of mosaics; maps of honest scenes leave no word."""
    maps = tmp_path / "maps"
    assert treeline("predict", str(scenes), *options(checkpoint, maps, "note")).returncode == 0
    found = json.loads(tags_of(maps / "tenth.chm.tif")[FINDINGS_TAG])["factor"]
    done = treeline("mosaic", str(maps), "--out", str(tmp_path / "all.tif"))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines()[1:] if not line.startswith("next: ")]
    assert said == [f"note: {maps}/tenth.chm.tif: {found}"]
    assert json.loads(tags_of(tmp_path / "all.tif")[FINDINGS_TAG]) == {"factor": f"tenth.chm.tif: {found}"}
    treeline("mosaic", str(tmp_path / "all.tif"), "--out", str(tmp_path / "again.tif"))
    again = json.loads(tags_of(tmp_path / "again.tif")[FINDINGS_TAG])["factor"]
    assert again == f"all.tif: tenth.chm.tif: {found}"
    treeline("mosaic", str(maps / "honest.chm.tif"), "--out", str(tmp_path / "honest.tif"))
    assert FINDINGS_TAG not in tags_of(tmp_path / "honest.tif")

    with rasterio.open(maps / "honest.chm.tif") as raster:
        profile, height_HW = raster.profile, raster.read(1) * 0.1
    written = {"driver": "GTiff", "dtype": "float32", "count": 1, "nodata": -999.9}
    placed = {name: profile[name] for name in ("crs", "transform", "height", "width")}
    with rasterio.open(tmp_path / "lidar.tif", "w", **written, **placed) as raster:
        raster.write(height_HW[None].astype("float32"))
    scored = "--maps", str(maps / "*.tif"), "--heights", str(tmp_path / "lidar.tif"), "--on-mismatch"
    for answer in ("note", "ignore"):
        done = treeline("evaluate", *scored, answer, "--out", str(tmp_path / "scores"))
        assert done.returncode == 0, done.stderr
        is_said = f"note: {maps}/tenth.chm.tif: {found}" in done.stdout.splitlines()
        assert is_said == (answer == "note")
        assert ("taken as metres; feet would" in done.stderr) == (answer == "note")
        record = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["findings"]
        assert record["factor"] == [f"{maps}/tenth.chm.tif: {found}"]
        assert "taken as metres" in record["no unit"][0]


class StoppingAfterOne(InProcess):
    """Is interrupted when it has done one block."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """The first one."""
        yield from super().blocks(list(tasks)[:1], job)
        raise KeyboardInterrupt


def test_a_map_has_the_same_bytes_however_it_is_made(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    def config(out: str, on_mismatch: OnMismatch, block: int = 64) -> PredictConfig:
        return PredictConfig(
            (str(scenes / "tenth.tif"),),
            str(checkpoint),
            str(tmp_path / out),
            batch_size=4,
            block=block,
            on_mismatch=on_mismatch,
        )

    made = [config("noted", "note"), config("ignored", "ignore", 512), config("resumed", "ignore")]
    with pytest.raises(KeyboardInterrupt):
        predict(config("resumed", "note"), StoppingAfterOne())
    first, *others = [Path(*predict(one, InProcess()).maps.values()).read_bytes() for one in made]
    assert all(other == first for other in others)
    kept = predict(config("noted", "refuse"), InProcess())
    assert kept.before == 1, "a map that is there is not refused"
    assert (tmp_path / "noted" / "tenth.chm.tif").read_bytes() == first


def test_many_scenes_with_one_finding_are_one_line() -> None:
    def scenes(count: int, code: str) -> list[tuple[str, Finding]]:
        return [(f"{code}-{number}", Finding(code, f"line of {number}", "cure")) for number in range(count)]

    lines = noted([*scenes(10_000, "factor"), *scenes(2, "filled")], "note")
    assert lines == [
        "10,000 rasters, such as factor-0: line of 0; cure",
        "filled-0: line of 0; cure",
        "filled-1: line of 1; cure",
    ]
    assert noted(scenes(3, "factor"), "ignore") == []


@pytest.mark.parametrize("command", ["embed", "attention"])
def test_vectors_and_attention_ask_the_same(
    command: str, checkpoint: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(scene: str, on_mismatch: OnMismatch) -> dict[str, Any]:
        out = str(tmp_path / f"{scene}-{on_mismatch}")
        given = (str(scenes / scene),)
        if command == "embed":
            from inference.config import EmbedConfig
            from inference.embed.embeddings import EMBEDDINGS
            from inference.embed.in_process import InProcess as Here
            from inference.embed.run import embed

            embed(
                EmbedConfig(scenes=given, checkpoint=str(checkpoint), out=out, on_mismatch=on_mismatch),
                Here(),
            )
            found: dict[str, Any] = json.loads((Path(out) / EMBEDDINGS).read_text())
        else:
            from inference.attention.run import NUMBERS, attention
            from inference.config import AttentionConfig

            attention(AttentionConfig(str(checkpoint), out, given, on_mismatch=on_mismatch))
            found = json.loads((Path(out) / NUMBERS).read_text())
        return found

    with pytest.raises(InputError, match=LINE):
        run("tenth.tif", "refuse")
    assert not (tmp_path / "tenth.tif-refuse").exists() or not any((tmp_path / "tenth.tif-refuse").iterdir())
    capsys.readouterr()
    for on_mismatch in ("note", "ignore"):
        assert LINE in json.dumps(run("tenth.tif", on_mismatch)["findings"])  # type: ignore[arg-type]
        assert (LINE in capsys.readouterr().err) == (on_mismatch == "note")
    assert "findings" not in run("honest.tif", "refuse")
