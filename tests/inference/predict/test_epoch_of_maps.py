"""A map says the epoch of its checkpoint as the checkpoint's metrics say it."""

import json
from pathlib import Path

import rasterio
from older_checkpoints import without_sums
from regressors import small_regressor, stored_images, write_checkpoint, write_scene

from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict


def predicted(scene: Path, checkpoint: Path, out: Path) -> dict[str, str]:
    """Tags of the scene's map."""
    summary = predict(PredictConfig((str(scene),), str(checkpoint), str(out), batch_size=4), InProcess())
    with rasterio.open(summary.maps[str(scene)]) as raster:
        tags: dict[str, str] = raster.tags()
    return tags


def made_with(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "predict.json").read_text())
    return {name: value for name, value in found.items() if name.startswith("epoch")}


def test_maps_name_epochs_as_the_checkpoint_does(tmp_path: Path) -> None:
    """The first metrics are as earlier versions wrote them: their epoch 3 is in the folder epoch-0004."""
    checkpoint = without_sums(write_checkpoint(tmp_path / "epoch-0004", small_regressor()))
    scenes = [write_scene(tmp_path / f"{name}.tif", stored_images(1, 40, 40)[0]) for name in "ab"]
    older = predicted(scenes[0], checkpoint, tmp_path / "older")
    assert older["TREELINE_EPOCH"] == "3"
    assert "TREELINE_EPOCHS_FROM" not in older
    assert made_with(tmp_path / "older") == {"epoch": 3}
    assert predicted(scenes[1], checkpoint, tmp_path / "older") == older | {"TREELINE_SCENE": "b.tif"}
    metrics = checkpoint / "metrics.json"
    of_now = json.loads(metrics.read_text()) | {"epoch": 4, "epochs_from": 1}
    metrics.write_text(json.dumps(of_now))
    ours = predicted(scenes[0], checkpoint, tmp_path / "now")
    assert (ours["TREELINE_EPOCH"], ours["TREELINE_EPOCHS_FROM"]) == ("4", "1")
    assert made_with(tmp_path / "now") == {"epoch": 4, "epochs_from": 1}
