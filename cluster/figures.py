"""The figures of the report, as PNG bytes: histograms, curves, chips, maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shards.height_classes import EDGES
from shards.manifest import COUNTS
from shards.picture import coloured_heights, composite, draw_classes, new_figure, png, show
from shards.raster import open_raster
from shards.reader import Dataset
from shards.statistics import Counts
from trainer.model import Regressor

_BAND_COLOURS = {"blue": "#3366cc", "green": "#339944", "red": "#cc3333", "nir": "#884488"}
_QUICK_LOOK_PIXELS = 700


def histograms(dataset: Dataset) -> bytes:
    """How often each pixel value and each height occurs in the training split."""
    tally = Counts.from_bytes(dataset.manifest.read(dataset.url, COUNTS)).total()
    assert tally is not None, "it was trained on"
    figure = new_figure(11, 3.4)
    pixel_axes, height_axes = figure.subplots(1, 2)
    schema = dataset.schema
    for band, histogram in zip(schema.bands, tally.bands, strict=True):
        values, counts = histogram.pixels(schema.dtype, schema.nodata)
        top = dataset.statistics.bands[band].percentiles["99"]
        bins = np.linspace(0, max(top, 1), 80)
        share, edges = np.histogram(values, bins, weights=counts / counts.sum())
        pixel_axes.plot(edges[:-1], share, drawstyle="steps-post", label=band, color=_BAND_COLOURS.get(band))
    pixel_axes.set(xlabel="stored pixel value", ylabel="share of pixels", title="bands")
    pixel_axes.legend(frameon=False)
    bins = np.linspace(0, EDGES[-1], 71)
    heights, counts = tally.height.labels(schema.label)
    height_axes.hist(heights, bins, weights=counts, color="#1a9850", log=True)
    height_axes.set(xlabel="height (m)", ylabel="pixels", title="heights")
    return png(figure)


def curves(records: Sequence[dict[str, Any]]) -> bytes:
    """Loss and validation RMSE by epoch."""
    figure = new_figure(11, 3.4)
    loss_axes, rmse_axes = figure.subplots(1, 2)
    epochs = [record["epoch"] + 1 for record in records]
    for name in ("loss", "val_loss"):
        if name in records[0]:
            loss_axes.plot(epochs, [record[name] for record in records], label=name)
    loss_axes.set(xlabel="epoch", ylabel="loss (m²)", yscale="log")
    loss_axes.legend(frameon=False)
    if "val_rmse" in records[0]:
        rmse_axes.plot(epochs, [record["val_rmse"] for record in records], color="#1a9850")
        rmse_axes.set(xlabel="epoch", ylabel="validation RMSE (m)")
    return png(figure)


def sample_panels(dataset: Dataset, regressor: Regressor, count: int) -> bytes:
    """Chips spread over the dataset: composite, measured and predicted height."""
    every = dataset.chips("all")
    batch = dataset.gather(every[np.linspace(0, every.size - 1, count).astype(int)])
    predicted_BHW = regressor.predict(torch.from_numpy(batch.image_BCHW))[0].numpy()
    figure = new_figure(1.8 * count, 5.8)
    axes = figure.subplots(3, count, squeeze=False)
    for column in range(count):
        measured_HW = batch.height_BHW[column]
        rgb = composite(batch.image_BCHW[column], dataset.schema.bands, dataset.schema.nodata)
        show(axes[0, column], rgb, "near infrared, red, green")
        show(axes[1, column], coloured_heights(measured_HW), f"measured, to {np.nanmax(measured_HW):.1f} m")
        predicted_HW = predicted_BHW[column]
        show(axes[2, column], coloured_heights(predicted_HW), f"predicted, to {predicted_HW.max():.1f} m")
    draw_classes(figure)
    return png(figure)


def quick_look(image: str, heights: str, height_map: str, bands: tuple[str, ...]) -> bytes:
    """A scene, its measured heights, and its map, side by side; read at the size that is shown."""
    panels = []
    with open_raster(image) as scene, open_raster(heights) as measured, open_raster(height_map) as predicted:
        scale = max(1, max(scene.shape) // _QUICK_LOOK_PIXELS)
        shape = tuple(side // scale for side in scene.shape)
        panels.append((composite(scene.read(out_shape=(scene.count, *shape)), bands, scene.nodata), "scene"))
        for raster, title in ((measured, "measured heights"), (predicted, "predicted heights")):
            metres_HW = raster.read(1, out_shape=shape).astype(np.float32) * raster.scales[0]
            metres_HW[raster.read(1, out_shape=shape) == raster.nodata] = np.nan
            panels.append((coloured_heights(metres_HW), title))
    figure = new_figure(13, 4.9)
    for axes, (rgb, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        show(axes, rgb, title)
    draw_classes(figure)
    return png(figure)
