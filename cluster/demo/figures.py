"""The figures that the demo's report alone has, as PNG bytes: curves, chips, scenes beside their maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rasterio.enums import Resampling

from inference.maps.quick_look import small_heights
from shards.draw.colours import height_scale
from shards.draw.picture import (
    SERIES,
    composite,
    draw_height_legend,
    new_figure,
    png,
    show,
    tidy,
)
from shards.raster.opening import open_raster, read_window
from shards.read.dataset import Dataset
from trainer.fit.sample_panel import predicted_heights
from trainer.model.regressor import Regressor
from trainer.score.epochs import epoch_of

_MOST_PIXELS = 700


def curves(records: Sequence[dict[str, Any]]) -> bytes:
    """Draw loss and validation RMSE by epoch."""
    figure = new_figure(11, 3.4)
    loss_axes, rmse_axes = figure.subplots(1, 2)
    epochs = [epoch_of(record) for record in records]
    for name, colour in zip(("loss", "val_loss"), SERIES, strict=False):
        if name in records[0]:
            loss_axes.plot(epochs, [record[name] for record in records], label=name, color=colour)
    loss_axes.set(xlabel="epoch", ylabel="loss (m²)", yscale="log")
    loss_axes.legend(frameon=False)
    if "val_rmse" in records[0]:
        rmse_axes.plot(epochs, [record["val_rmse"] for record in records], color=SERIES[1])
        rmse_axes.set(xlabel="epoch", ylabel="validation RMSE (m)")
    for axes in (loss_axes, rmse_axes):
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
    return png(figure)


def sample_panels(dataset: Dataset, regressor: Regressor, count: int) -> bytes:
    """Draw chips spread over the dataset: composite, measured and predicted height."""
    every = dataset.chips("all")
    batch = dataset.gather(every[np.linspace(0, every.size - 1, count).astype(int)])
    predicted_BHW = predicted_heights(regressor, batch.image_BCHW, torch.device("cpu"))
    scale = height_scale(batch.height_BHW)
    figure = new_figure(1.8 * count, 6.6)
    axes = figure.subplots(3, count, squeeze=False)
    for column in range(count):
        measured_HW, predicted_HW = batch.height_BHW[column], predicted_BHW[column]
        rgb_HW3 = composite(batch.image_BCHW[column], dataset.schema.bands, dataset.schema.nodata)
        show(axes[0, column], rgb_HW3, "near infrared, red, green")
        show(axes[1, column], scale.rgb(measured_HW), f"measured, to {np.nanmax(measured_HW):.1f} m")
        highest = f"predicted, to {np.nanmax(predicted_HW):.1f} m"
        show(axes[2, column], scale.rgb(predicted_HW), highest)
    draw_height_legend(figure, axes.ravel().tolist(), scale)
    return png(figure)


def scene_and_map(image: str, heights: str, height_map: str, bands: tuple[str, ...]) -> bytes:
    """Draw a scene, its measured heights, and its map side by side, read at the size that is shown."""
    with open_raster(image) as scene, open_raster(heights) as measured, open_raster(height_map) as predicted:
        metres = [small_heights(raster, _MOST_PIXELS) for raster in (measured, predicted)]
        shape = (scene.count, *metres[0].shape)
        image_CHW = read_window(scene, out_shape=shape, resampling=Resampling.nearest)
        rgb_HW3 = composite(image_CHW, bands, scene.nodata)
    scale = height_scale(metres[0])
    pictures = (rgb_HW3, *map(scale.rgb, metres))
    figure = new_figure(13, 5.7)
    panels = figure.subplots(1, 3)
    titles = ("scene", "measured heights", "predicted heights")
    for axes, picture_HW3, title in zip(panels, pictures, titles, strict=True):
        show(axes, picture_HW3, title)
    draw_height_legend(figure, panels.tolist(), scale)
    return png(figure)
