"""A real image with real lidar heights: learn from the west half, map the whole, be scored on the east half.

Known on exactly this split, in RMSE over all 80,000 pixels of the east half: training mean 8.59 m, per-pixel
linear regression 8.26 m (R2 0.05), a plain 16-channel U-Net after 100 seconds on two cores 4.46 m (R2 0.72).
"""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy_scores import numpy_sums
from rasterio.windows import Window

from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.work.run import ingest
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig, TrainConfig
from trainer.evaluate.heights import evaluate
from trainer.model.height_checkpoint import load_checkpoint
from trainer.score.metrics import Metrics, Score

HALF = 200
BANDS = ("nir", "red", "green")
RASTERS = ("highrez", "lidar_highesthit", "lidar_bareearth")
U_NET_RMSE, U_NET_R2 = 4.46, 0.72


def write_half(tahoe: Path, folder: Path, half: str) -> dict[str, str]:
    """The west or east 200 columns of each raster, as files of their own."""
    window = Window(0 if half == "west" else HALF, 0, HALF, 400)
    paths = {}
    for name in RASTERS:
        paths[name] = str(folder / f"{half}_{name}.tif")
        with rasterio.open(tahoe / f"tahoe_{name}.tif") as source:
            profile = {
                key: source.profile[key] for key in ("driver", "dtype", "count", "height", "crs", "nodata")
            }
            transform = source.window_transform(window)
            with rasterio.open(paths[name], "w", width=HALF, transform=transform, **profile) as target:
                target.write(source.read(window=window))
    return paths


def ingest_half(tahoe: Path, folder: Path, half: str, stride: int) -> str:
    paths = write_half(tahoe, folder, half)
    config = ScenesConfig(
        images=(paths["highrez"],),
        heights=(paths["lidar_highesthit"],),
        out=str(folder / half),
        ground=(paths["lidar_bareearth"],),
        bands=BANDS,
        stride=stride,
        shares=(1.0, 0.0),
    )
    ingest(ScenesSource(config), config)
    return config.out


def mapped(tahoe: Path, run: str, out: Path) -> np.ndarray:
    """predicted_HW in metres: the whole image, by the best checkpoint of the training run."""
    image = str(tahoe / "tahoe_highrez.tif")
    config = PredictConfig((image,), run, str(out), bands=BANDS, overlap=0.75)
    (path,) = predict(config, InProcess()).maps.values()
    with rasterio.open(path) as height_map:
        predicted_HW: np.ndarray = height_map.read(1) * height_map.scales[0]
    return predicted_HW


def measured(tahoe: Path) -> np.ndarray:
    """measured_HW in metres: the highest hit above the bare earth."""
    highest, ground = (rasterio.open(tahoe / f"tahoe_{name}.tif").read(1) for name in RASTERS[1:])
    heights_HW: np.ndarray = highest - ground
    return heights_HW


def scored(predicted_HW: np.ndarray, measured_HW: np.ndarray) -> Metrics:
    sums_KS, density_PM = numpy_sums(predicted_HW, measured_HW)
    return Score(sums_KS, density_PM).all


@pytest.mark.real
@pytest.mark.slow
def test_a_short_run_maps_the_whole_image_and_is_scored_on_the_other_half(
    tahoe: Path, tmp_path: Path
) -> None:
    """Twelve epochs on 18 chips: all steps of the long test below, and better than the training mean."""
    west, east = ingest_half(tahoe, tmp_path, "west", 64), ingest_half(tahoe, tmp_path, "east", 64)
    launch(TrainConfig.of(west, str(tmp_path / "run"), epochs=12, batch_size=2, output_rate_factor=10.0))
    predicted_HW = mapped(tahoe, str(tmp_path / "run"), tmp_path)
    measured_HW = measured(tahoe)
    east_half = np.s_[:, HALF:]
    mean = load_checkpoint(str(tmp_path / "run")).baselines.mean_height
    ours = scored(predicted_HW[east_half], measured_HW[east_half])
    theirs = scored(np.full((400, HALF), mean), measured_HW[east_half])
    assert predicted_HW.shape == measured_HW.shape
    assert ours.count == theirs.count == 400 * HALF
    assert theirs.rmse == pytest.approx(8.59, abs=0.3)
    assert ours.rmse < theirs.rmse
    chips = evaluate(EvaluateConfig(str(tmp_path / "run"), east, split="all"))
    print(theirs, ours, chips.table())


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_regressor_beats_what_looks_at_single_pixels(
    tahoe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    west, east = ingest_half(tahoe, tmp_path, "west", 8), ingest_half(tahoe, tmp_path, "east", 64)
    launch(TrainConfig.of(west, str(tmp_path / "run"), epochs=12))
    predicted_HW = mapped(tahoe, str(tmp_path / "run"), tmp_path)
    image, measured_HW = rasterio.open(tahoe / "tahoe_highrez.tif").read(), measured(tahoe)
    east_half = np.s_[:, HALF:]
    baselines = load_checkpoint(str(tmp_path / "run")).baselines
    linear_HW = baselines.linear(image[None])[0]
    results = {
        "regressor": scored(predicted_HW[east_half], measured_HW[east_half]),
        "per-pixel linear regression": scored(linear_HW[east_half], measured_HW[east_half]),
        "training mean": scored(np.full((400, HALF), baselines.mean_height), measured_HW[east_half]),
    }
    chips = evaluate(EvaluateConfig(str(tmp_path / "run"), east, split="all"))
    with capsys.disabled():
        print("\nTahoe, east half, all pixels of the map:")
        for name, metrics in results.items():
            print(f"  {name:30} RMSE {metrics.rmse:.2f} m, R2 {metrics.r2:.2f}, MAE {metrics.mae:.2f} m")
        ours = results["regressor"]
        print(
            f"  to the U-Net's {U_NET_RMSE} m: {ours.rmse - U_NET_RMSE:+.2f} m, R2 {ours.r2 - U_NET_R2:+.2f}"
        )
        print(f"Tahoe, east half, 18 chips one by one:\n{chips.table()}")
    # The linear regression and the mean are fitted to overlapping chips, which cover 192 of 200 columns
    # unevenly; the known figures were fitted to each pixel once.
    assert results["training mean"].rmse == pytest.approx(8.59, abs=0.1)
    assert results["per-pixel linear regression"].rmse == pytest.approx(8.26, abs=0.1)
    assert ours.rmse < 5.4, "4.5 to 4.9 m are what this recipe reaches, by the seed"
    assert ours.r2 > 0.55
