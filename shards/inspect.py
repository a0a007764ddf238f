"""`treeline inspect`: what a dataset holds, in words and as a picture of sampled chips."""

import numpy as np

from shards.config import InspectConfig
from shards.manifest import SPLITS
from shards.picture import coloured_heights, composite, draw_classes, new_figure, png, show
from shards.reader import Dataset, open_dataset
from shards.storage import is_local, name_of, publish

_PAIRS_PER_ROW = 4


def inspect(config: InspectConfig) -> str:
    """Write the picture; returns what there is to say."""
    dataset = open_dataset(config.data)
    url = config.out or default_picture(config.data)
    publish(url, sample_picture(dataset, config.chips, config.seed))
    return f"{describe(dataset)}\npicture     {url}"


def default_picture(data: str) -> str:
    """Beside the dataset, never in it."""
    return f"{data.rstrip('/')}.png" if is_local(data) else f"{name_of(data)}.png"


def describe(dataset: Dataset) -> str:
    """Counts, rejections, and statistics of the training split."""
    manifest, schema = dataset.manifest, dataset.schema
    counts = ", ".join(f"{manifest.samples(split):,} {split}" for split in SPLITS)
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in manifest.rejected.items())
    bands, rows, columns = schema.image_shape
    lines = [
        f"dataset     {dataset.url} (fingerprint {manifest.fingerprint})",
        f"chips       {counts}; {bands} bands of {rows} x {columns} pixels",
        f"pixels      {schema.dtype}, {schema.pixel_size:g} units of the CRS wide, nodata {schema.nodata}",
        f"rejected    {rejected or 'none'}",
        f"shards      {len(manifest.shards)}, {sum(shard.nbytes for shard in manifest.shards):,} bytes",
    ]
    if not manifest.samples("train"):
        return "\n".join([*lines, "statistics  none: no chip is in the training split"])
    lines.append(
        f"{'train':12}{'mean':>10}{'std':>10}{'min':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}{'clamp':>10}"
    )
    rows_of = [(name, band, f"{band.clamp_max:10.1f}") for name, band in dataset.statistics.bands.items()]
    for name, summary, clamp in [
        *rows_of,
        (f"{schema.label} {schema.label_unit}", dataset.statistics.height, ""),
    ]:
        p = summary.percentiles
        numbers = "".join(f"{v:9.2f}" for v in (summary.minimum, p["50"], p["90"], p["99"], summary.maximum))
        lines.append(f"{name:12}{summary.mean:10.2f}{summary.std:10.2f}{numbers}{clamp}")
    return "\n".join(lines)


def sample_picture(dataset: Dataset, count: int, seed: int) -> bytes:
    """PNG of `count` chips: composite beside height, in the classes' colours."""
    every = dataset.chips("all")
    chosen = np.sort(np.random.default_rng(seed).permutation(every)[:count])
    batch, schema = dataset.gather(chosen), dataset.schema
    rows = -(-chosen.size // _PAIRS_PER_ROW)
    figure = new_figure(3.2 * _PAIRS_PER_ROW, 1.9 * rows + 0.4)
    axes = figure.subplots(rows, 2 * _PAIRS_PER_ROW, squeeze=False).ravel()
    for empty in axes:
        empty.set_axis_off()
    keys = dataset.index["key"]
    for place, chip in enumerate(chosen):
        rgb = composite(batch.image_BCHW[place], schema.bands, schema.nodata)
        height_HW = batch.height_BHW[place]
        show(axes[2 * place], rgb, str(keys[int(chip)].as_py())[-28:])
        show(axes[2 * place + 1], coloured_heights(height_HW), f"to {np.nanmax(height_HW):.1f} m")
    draw_classes(figure)
    return png(figure)
