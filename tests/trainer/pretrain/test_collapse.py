"""Runs that are made to collapse are named within 100 steps; healthy ones are not."""

from pathlib import Path
from typing import Any

import pytest

from cluster.cli import run
from trainer.commands.pretrain import new_fit
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.pretrain_config import RECIPES, PretrainConfig
from trainer.run_folder.state_callback import StateCallback

STEPS = 100
SMALL: dict[str, Any] = {
    **RECIPES["dino-tiny"],
    "width": 48,
    "depth": 2,
    "patch_size": 8,
    "batch_size": 16,
    "prototypes": 64,
    "local_crops": 2,
    "freeze_last_layer": 0.0,
}


class Enough(Exception):
    """What ends a run after the last step."""


class Counter(StateCallback):
    """Ends the run after this many steps."""

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        if fit.position.step == STEPS:
            raise Enough


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("sar") / "tiles")
    assert run(f"ingest synthetic --sar seasonal --chips 480 --chip-size 32 --out {out}".split()) == 0
    return out


def trained(tiles: str, out: Path, **options: Any) -> None:
    config = PretrainConfig.of(tiles, str(out), **{**SMALL, "epochs": 5, **options})
    with pytest.raises(Enough):
        new_fit(config, Ranks()).run(Counter())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 5))])
def test_a_healthy_run_is_not_named(
    tiles: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tiles, tmp_path, seed=seed)
    assert "collapse" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"centring": "none"}, "all tiles have shared one or two targets"),
        (
            {"student_temperature": 1.0, "teacher_temperature": 0.9, "warm_up_temperature": 0.9},
            "the teacher's targets have been nearly uniform (entropy 100% of ln K)",
        ),
    ],
    ids=["no centring", "too hot"],
)
def test_a_collapse_is_named_within_a_hundred_steps(
    tiles: str, options: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tiles, tmp_path, **options)
    err = capsys.readouterr().err
    assert err.count(said) == err.count("the tokens collapse") == 1
    with pytest.raises(FloatingPointError, match="the tokens collapse"):
        trained(tiles, tmp_path, stop_on_collapse=True, **options)
