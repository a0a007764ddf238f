"""`treeline train --task pixel-class`: what differs from training on heights."""

import torch

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from trainer.config import TrainConfig
from trainer.data.augment import check_crop
from trainer.data.choice import met_in_an_epoch, training_chips
from trainer.devices.ranks import Ranks
from trainer.fit.classes import ClassObjective
from trainer.fit.flops import training_flops
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.make import class_decoder, new_class_model
from trainer.weights.weights_apart import set_apart


def check_classes(config: TrainConfig, dataset: Dataset) -> None:
    """Find mistakes about classes of pixels before anything is started.

    Raises:
        InputError: the dataset has no classes or another label, or only one class occurs, or the decoder
            computes none.
    """
    schema, label = dataset.schema, config.target.label
    if label and label != schema.label:
        raise InputError(
            f"--label {label}: the pixels of {config.data} are labelled with {schema.label or 'nothing'}; "
            "leave it out, or choose another --data"
        )
    if len(schema.class_names) < 2:
        raise InputError(
            f"{config.data}: has {len(schema.class_names)} classes of pixels; ingest it with two or more "
            "(--label land_cover --class-names 1=trees 2=crops ...)"
        )
    summary = dataset.statistics.height
    shares = summary.classes if summary else {}
    if sum(share > 0 for share in shares.values()) < 2:
        raise InputError(
            f"{config.data}: only one class occurs in the training split ({_only(shares)}); choose "
            "other chips"
        )
    class_decoder(config.model, len(schema.class_names))


def _only(shares: dict[str, float]) -> str:
    return next((name for name, share in shares.items() if share > 0), "none")


def new_class_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the first step: the same weights in every process."""
    device = ranks.device_before_wrap(config.fit.shard_model)
    dataset = open_dataset(config.data, config.reading.read_options)
    torch.manual_seed(config.fit.seed)
    model = new_class_model(dataset, config.model)
    set_apart(model, model.backbone, writes=ranks.is_first)
    model.to(device)
    val_chips = dataset.chips("val", where=config.chips.validated_where)
    met = met_in_an_epoch(training_chips(dataset, config.chips), config.chips, config.global_batch)
    learning = Learning(dataset, met, val_chips, ranks)
    objective = ClassObjective(model, learning, config.augment, config.objective.baseline_chips)
    crop = config.augment.crop
    check_crop(crop, model.patch_size // model.decoder_config.upsample)
    flops = training_flops(model, crop=crop) if ranks.is_first else 0.0  # before it is compiled or sharded
    return Fit(model, learning, objective, config.optimiser, config.fit, config.global_batch, flops)
