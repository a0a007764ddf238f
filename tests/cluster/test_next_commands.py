"""The last lines of commands: each next command is one that the command line takes, and leads on."""

import shlex
from pathlib import Path

import pytest
from in_process import treeline

from cluster import cli
from cluster.last_lines import (
    after_attention,
    after_convert,
    after_export,
    after_import,
    after_ingest,
    after_labels,
    after_matrix,
    after_mosaic,
    after_prediction,
    after_scores,
    after_verify,
    readiness,
)
from inference.config import AttentionConfig, PredictConfig
from ingest.synthetic.landscape import write_scene
from shards.next_step import ANY_SCENE
from shards.read.dataset import open_dataset
from trainer.config import EvaluateConfig, ImportConfig
from trainer.matrix_config import MatrixConfig
from trainer.pretrain_config import ExportConfig

S3, LOCAL = "s3://my-bucket/first year/chips", "it's here/chips"


def words_of(line: str) -> list[str]:
    """The words of the command that a line names, as a shell reads them."""
    assert line.startswith("next: treeline ")
    return shlex.split(line.removeprefix("next: treeline "))


@pytest.mark.parametrize("place", [S3, LOCAL])
def test_every_next_command_is_one_that_the_command_line_takes(place: str) -> None:
    predicted = PredictConfig(("scenes/*.tif",), place, f"{place}-maps")
    lines = [
        *after_ingest(place),
        *after_labels(place, "tree_percent", is_number=True),
        *after_labels(place, "land_cover", is_number=False),
        *after_verify(place, []),
        *after_convert(place),
        *after_mosaic(f"{place}.tif"),
        *after_scores(EvaluateConfig(place, place, out=f"{place}/evaluation")),
        *after_scores(EvaluateConfig(place, place, out="my scores")),
        *after_prediction(predicted, [f"{place}-maps/a.chm.tif"]),
        *after_attention(AttentionConfig(place, "out", ("a.tif", "b c.tif"))),
        *after_attention(AttentionConfig(place, "out", data=place)),
        *after_matrix(MatrixConfig((place,), "out", (f"ours={place}",), "region")),
        *after_export(ExportConfig(place, f"{place}-copy"), is_backbone=True),
        *after_export(ExportConfig(place, f"{place}-copy"), is_backbone=False),
        *after_import(ImportConfig("weights.pth", place, f"{place}-imported")),
    ]
    for line in lines:
        words = words_of(line)
        assert any(place in word for word in words), line
        cli.parse(*cli.split_command(words))
    assert len(lines) >= 13


def test_what_leads_nowhere_names_no_command() -> None:
    assert after_matrix(MatrixConfig(("a", "b"), "out")) == []
    assert after_export(ExportConfig("run", "out", to="transformers"), is_backbone=True) == []
    assert after_prediction(PredictConfig(("a.tif",), "run", "maps"), []) == []
    (line,) = after_verify("chips", ["one", "two"])
    assert line.startswith("chips: 2 problems: copy these files again"), "the exit code is 1"


@pytest.mark.slow
def test_the_next_commands_lead_from_scenes_to_a_mosaic(tmp_path: Path) -> None:
    scenes = tmp_path / "my scenes"
    scenes.mkdir()
    write_scene(scenes, 0, 7, (256, 256))
    (image,), (heights,) = scenes.glob("WV02*.tif"), scenes.glob("lidar*.tif")
    # The same ground twice, so that maps overlap.
    other = scenes / "WV02_20210701_M1BS_1030010000000000-sr-02m.tif"
    other.write_bytes(image.read_bytes())
    words = ["ingest", "scenes", "--images", str(image), "--heights", str(heights)]
    words += ["--out", "my chips", "--split-by", "key", "--shares", "0.5", "0.5"]
    # What nobody can know, and what makes the training short.
    known = {ANY_SCENE: str(image), "HEIGHTS...": str(heights)}
    done = list[str]()
    ahead = list[list[str]]()
    while True:
        if words[0] == "train":
            words += ["--epochs", "1"]
        if words[0] == "predict":
            words.insert(1, str(other))
        ended = treeline(*[known.get(word, word) for word in words], folder=tmp_path)
        assert ended.returncode == 0, ended.stderr
        done.append(words[0])
        assert len(done) < 10, done
        if words[:2] == ["evaluate", "--maps"]:
            break
        said = [words_of(line) for line in ended.stdout.splitlines() if line.startswith("next: ")]
        ahead += [one for one in said if one[0] != "view"]  # it waits for somebody to look
        words = ahead.pop()
        while ahead and words[0] in done and words[0] != "evaluate":
            words = ahead.pop()
    assert done == ["ingest", "inspect", "train", "evaluate", "report", "predict", "mosaic", "evaluate"]
    assert (tmp_path / "maps-mosaic.tif").exists()


def test_a_dataset_whose_splits_are_mixed_is_split_first(tmp_path: Path) -> None:
    words = ("ingest", "synthetic", "--chips", "400", "--shard-chips", "100", "--out", "chips")
    assert treeline(*words, folder=tmp_path).stdout.splitlines()[-1] == "next: treeline inspect chips"
    verdict, line = readiness(open_dataset(str(tmp_path / "chips")))
    assert verdict.startswith("not ready: held-out chips lie beside trained ones")
    assert words_of(line)[:2] == ["split", str(tmp_path / "chips")]
    verdict, line = treeline(*words_of(line), folder=tmp_path).stdout.splitlines()[-2:]
    assert verdict.startswith("ready to train: "), "what is advised helps"
    chips = tmp_path / "chips"
    assert words_of(line) == ["train", "--data", str(chips), "--out", f"{chips}-run"]
    # Whoever then asks for neighbours is told what that means, but not sent in a circle.
    ended = treeline("split", "chips", "--split-by", "strips", folder=tmp_path).stdout.splitlines()
    assert words_of(ended[-1]) == ["train", "--data", "chips", "--out", "chips-run"]
    assert ended[-2].startswith("ready to train, but held-out chips lie beside trained ones")


def test_a_dataset_without_held_out_chips_or_labels_says_so(tmp_path: Path) -> None:
    treeline("ingest", "synthetic", "--chips", "40", "--shares", "1", "--out", "all", folder=tmp_path)
    verdict, line = readiness(open_dataset(str(tmp_path / "all")))
    assert verdict == "not ready: no chip is held out to score a training with"
    assert words_of(line)[:2] == ["split", str(tmp_path / "all")]
    words = ("ingest", "synthetic", "--chips", "40", "--sar", "seasonal", "--out", "tiles")
    treeline(*words, folder=tmp_path)
    verdict, line = readiness(open_dataset(str(tmp_path / "tiles")))
    assert verdict == "no labels: ready to pre-train a backbone"
    tiles = str(tmp_path / "tiles")
    assert words_of(line) == ["pretrain", "--data", tiles, "--out", f"{tiles}-backbone"]
    cli.parse(*cli.split_command(words_of(line)))
