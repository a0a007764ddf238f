"""Pre-training on two Ray workers gives what one process gives: losses and scores, and the same files.

A real cluster, started here, of two machines as Ray sees it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray_machines import PATIENCE_SECONDS, running
from regressors import write_dataset

from trainer.commands.train_on_ray import launch_pretraining
from trainer.model.pretrained import load_pretrained
from trainer.pretrain_config import RECIPES, PretrainConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OPTIONS: dict[str, dict[str, Any]] = {
    "mae": {"recipe": "mae-tiny", "decoder_width": 24, "mask_groups": 0.3, "band_groups": "nir"},
    "dino": {"recipe": "dino-tiny", "prototypes": 24, "head_width": 32, "bottleneck": 16},
}
SMALL: dict[str, Any] = {
    "width": 24,
    "depth": 2,
    "patch_size": 8,
    "batch_size": 4,
    "epochs": 3,
    "probe": "height_mean",
    "probe_tiles": 6,
    "learning_rate": 1e-4,
}
"""Options of both methods; so small a learning rate that the rounding of two ranks does not grow."""


def files_of(run: Path) -> set[str]:
    """Names of what a run leaves; without Ray's own notes, and TensorBoard's log, which names its process."""
    names = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    assert any(name.parts[0] == "tensorboard" for name in names)
    return {str(name) for name in names if name.parts[0] not in ("ray", "tensorboard")}


def records_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["dino", pytest.param("mae", marks=pytest.mark.long)])
def test_two_workers_give_the_losses_and_the_files_of_one_process(
    ray_env: dict[str, str], ray_second: "subprocess.Popen[bytes]", method: str, tmp_path: Path
) -> None:
    """With 21 tiles in batches of four the last batch has one: the second worker then has a stand-in."""
    dataset = write_dataset(tmp_path / "tiles", chips=30, val_share=0.25)
    options = {**OPTIONS[method], **SMALL, "limit": 21}
    assert dataset.chips("train").size > 21
    here, there = tmp_path / "here", tmp_path / "there"
    groups = {"band_groups": (options["band_groups"],)} if "band_groups" in options else {}
    recipe = RECIPES[options["recipe"]]
    launch_pretraining(PretrainConfig.of(dataset.url, str(here), **{**recipe, **options, **groups}))
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    places = ["--data", dataset.url, "--out", str(there)]
    with running(ray_env, "pretrain", *places, *flags, "--workers", "2") as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert files_of(there) == files_of(here)
    alone, shared = records_of(here), records_of(there)
    assert len(alone) == len(shared) == SMALL["epochs"]
    for ours, theirs in zip(shared, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("epoch", "chips", "learning_rate"):
            assert ours[name] == theirs[name]
        for name in ("loss", "val_probe_rmse", "val_bands_rmse", "val_untrained_rmse"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (name, ours["epoch"])
    loaded = [load_pretrained(str(run)) for run in (here, there)]
    assert loaded[0].bands == loaded[1].bands
    assert loaded[0].statistics == loaded[1].statistics
