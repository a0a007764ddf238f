"""The size of a batch where the user gave none: chosen once, for the device, before a run begins.

A small batch leaves a GPU idle, since launching a step's kernels takes 3 to 23 ms, whatever the batch: 671 to
2,873 of them (docs/benchmarks.md) at 5 to 8 microseconds each. But the batch decides how many steps an epoch
has, so a result depends on it as on the learning rate.
"""

from typing import TypeVar

from shards.read.dataset import Dataset
from shards.said import say
from trainer.commands.train_tiles import labelled_tiles, labels_of
from trainer.config import TrainConfig
from trainer.data.choice import training_chips
from trainer.devices.choice import Kind
from trainer.pretrain_config import PretrainConfig

Config = TypeVar("Config", TrainConfig, PretrainConfig)
ONLY_DECODER, BACKBONE_TOO = 256, 64
"""Chips of 64 x 64 pixels for each GPU, or as many pixels of others: where the decoder alone learns, or a
masked autoencoder, which sees little of a tile; and where the backbone learns from all of a chip, or from
several views of it."""
PIXELS = 64 * 64
LEAST_STEPS = 50
"""Steps of an epoch below which a batch is not enlarged: few chips would be learnt from in too few steps."""


def with_batch_of_device(config: Config, device: Kind, dataset: Dataset) -> Config:
    """Return the options with a size of the batch; where a GPU gets another than a CPU, say so in a line.

    Args:
        config: the options.
        device: device of the workers, or of this process.
        dataset: dataset of the chips.
    """
    if config.fit.batch_size is not None or config.fit.batch_per_worker:
        return config
    size, on_cpu = config.fit.batch_on_cpu, config.fit.batch_on_cpu
    if device == "cuda":
        gpus = max(1, config.worker_range[1])
        size = batch_on_gpus(gpus, _each(config, dataset), _chips(config, dataset), on_cpu)
    if size != on_cpu:
        gpus_in_words = f"{gpus} GPUs" if gpus > 1 else "a GPU"
        say(
            f"a batch has {size:,} chips, which suits {gpus_in_words} (on a CPU {on_cpu}). Results "
            f"depend on it; --batch-size {on_cpu} trains as on a CPU"
        )
    return config.with_options(batch_size=size)


def batch_on_gpus(gpus: int, each: int, chips: int, on_cpu: int) -> int:
    """Return the size of a batch for GPUs, as many chips for each.

    Args:
        gpus: number of GPUs.
        each: chips that suit one GPU.
        chips: chips to learn from; an epoch keeps LEAST_STEPS steps if it can.
        on_cpu: size on a CPU; a GPU gets no less.
    """
    return max(on_cpu, gpus * min(each, chips // LEAST_STEPS // gpus))


def _each(config: TrainConfig | PretrainConfig, dataset: Dataset) -> int:
    """Return the chips that suit one GPU."""
    side = dataset.schema.chip_size
    if isinstance(config, TrainConfig):
        side = config.augment.crop or side
        chips = ONLY_DECODER if config.model.tune == "frozen" else BACKBONE_TOO
        pixels = side**2
        if not config.target.is_of_tiles:
            pixels *= config.model.upsample**2
    else:
        chips, pixels = ONLY_DECODER if config.method == "mae" else BACKBONE_TOO, side**2
    return chips * PIXELS // pixels


def _chips(config: TrainConfig | PretrainConfig, dataset: Dataset) -> int:
    """Count the chips that the options choose to learn from."""
    if isinstance(config, PretrainConfig):
        return dataset.chips("train", config.tiles.limit, config.tiles.where).size
    if config.target.is_of_tiles:
        train, _ = labelled_tiles(config, dataset, labels_of(config, dataset))
        return int(train.size)
    return training_chips(dataset, config.chips).size
