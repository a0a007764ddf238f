"""`treeline demo --sar` from radar tiles to report: one page that says what pre-training gained."""

import json
import re
from pathlib import Path

import pytest
from policies import assert_forbidding

from cluster.config import DemoConfig
from cluster.demo.run import run_demo
from cluster.demo.sar import pretrain_config, run_sar_demo, tiles_config
from shards.errors import InputError
from shards.roles import refuse_idle
from trainer.pretrain_config import PretrainConfig

SMALL = DemoConfig("", sar=True, tiles=160, pretrain_epochs=1, limit=("100%",))


@pytest.mark.long
def test_the_report_says_what_the_matrix_says_and_shows_all_parts(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = run_sar_demo(DemoConfig(**{**vars(SMALL), "out": str(out)}))
    matrix = json.loads((out / "matrix" / "matrix.json").read_text())
    page = (out / "report.html").read_text()
    assert said.startswith(matrix["verdict"])
    assert matrix["verdict"] in page
    apart = json.loads((out / "distances" / "distances.json").read_text())
    assert [Path(one["embeddings"]).name for one in apart["embeddings"]] == ["before", "after"]
    seen = json.loads((out / "attention" / "attention.json").read_text())
    pictures = re.findall(r'src="data:image/png;base64,', page)
    # Errors, differences, curves, the probe, two of each embedding, and the tiles.
    assert len(pictures) == 4 + 2 * 2 + len(seen["tiles"])
    assert (out / "matrix" / "index.html").exists()
    assert (out / "distances" / "index.html").exists()
    for path in out.rglob("*.html"):
        assert_forbidding(path.read_text())


def test_pre_training_does_not_see_the_last_region(tmp_path: Path) -> None:
    assert tiles_config(SMALL, tmp_path).split_angle == ("15",)
    config = pretrain_config(SMALL, tmp_path)
    assert isinstance(config, PretrainConfig)
    assert config.tiles.where == "region != 'southamerica'"
    assert config.fit.epochs == 1


@pytest.mark.parametrize("run", [run_demo, run_sar_demo])
def test_a_folder_that_holds_something_is_refused(run: object, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").touch()
    assert callable(run)
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        run(DemoConfig(**{**vars(SMALL), "out": str(tmp_path)}))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_options_of_the_other_demo_are_refused() -> None:
    with pytest.raises(InputError, match="--tiles: does nothing without --sar"):
        refuse_idle(DemoConfig("", tiles=9), {"tiles"})
    with pytest.raises(InputError, match="--train-scenes: does nothing"):
        refuse_idle(DemoConfig("", sar=True, train_scenes=9), {"train_scenes"})
