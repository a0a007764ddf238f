"""What `treeline train` refuses before a process is started or anything is written."""

import torch

from shards.errors import InputError
from shards.own_parts import note_changes, recorded
from shards.read.dataset import Dataset, open_dataset
from shards.read.order import Chips
from shards.storage.objects import check_writable, exists, join
from trainer.commands.begun import check_resumes
from trainer.commands.train_classes import check_classes
from trainer.commands.train_tiles import check_tiles
from trainer.config import TrainConfig
from trainer.data.choice import training_chips
from trainer.data.token_store import check_token_options
from trainer.devices.choice import Kind
from trainer.devices.repeatable import check_compiler
from trainer.fit.notebook_faults import check_faithful
from trainer.losses.loss import parse_loss
from trainer.model.make import check_own_decoder
from trainer.model.no_backbone import NONE
from trainer.model.pretrained import check_start
from trainer.options import check_counts
from trainer.run_folder.mlflow_log import check_mlflow
from trainer.run_folder.options_file import CONFIG, read_options


def check(config: TrainConfig, device: Kind | None = None) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written.

    Args:
        config: the options.
        device: kind of device on which this process is to train; None: others train.

    Raises:
        InputError: no dataset, no training chip, bands that it lacks, or an output that cannot be used.
    """
    _check_options(config)
    if config.fit.compile and device:
        check_compiler(torch.device(device))
    if config.keep.mlflow:
        check_mlflow(config.keep.mlflow)
    dataset = open_dataset(config.data, config.reading.read_options)
    dataset.schema.check_counted(config.model.bands)
    if config.augment.crop > dataset.schema.chip_size:
        raise InputError(
            f"--crop {config.augment.crop}: {config.data} has chips of {dataset.schema.chip_size} pixels; "
            "give fewer, or ingest larger chips (--chip-size)"
        )
    check_start(config.model.backbone)
    _check_heights(config, dataset)
    chips = _chosen_chips(config, dataset)
    if config.target.is_of_tiles:
        check_tiles(config, dataset)
    if config.target.task == "pixel-class":
        check_classes(config, dataset)
    if not config.target.is_of_tiles:
        check_own_decoder(config.model, max(1, len(dataset.schema.class_names)))
    if config.chips.balance_heights:
        dataset.height_weights(chips, config.chips.balance_heights)
    _check_places(config, dataset)
    return dataset


def _check_options(config: TrainConfig) -> None:
    """Check options against each other; nothing is read."""
    model, fit = config.model, config.fit
    check_counts(config.global_batch, fit)
    if not model.backbone:
        raise InputError(
            f"--backbone: --recipe {config.recipe} needs a pretrained one; give a folder, a .pth file of "
            "Meta's, or a name on the hub"
        )
    if model.backbone == NONE and config.target.is_of_tiles:
        raise InputError(f"--task {config.target.task}: needs tokens; give another --backbone than none")
    parse_loss(config.objective.loss)
    if fit.shard_model:
        _check_shards_alone(config)
    check_faithful(config)
    check_token_options(config.tokens, model.tune, config.augment)


def _check_shards_alone(config: TrainConfig) -> None:
    """Refuse --shard-model together with what cannot work on parts of the weights."""
    # Attention is read beside the block, whose weights are gathered only for what comes out of it.
    reads_attention = config.target.is_of_tiles and config.target.head == "attention"
    for other, is_given in (
        ("--compile", config.fit.compile),
        ("--token-store", config.tokens.token_store),
        ("--precision fp16", config.fit.precision == "fp16"),
        ("--head attention", reads_attention and config.model.tune != "frozen"),
    ):
        if is_given:
            raise InputError(f"--shard-model: does not go together with {other}; leave one of them out")


def _check_heights(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse a dataset without heights where heights are to be learnt."""
    if config.target.task != "height":
        return
    if not dataset.schema.label:
        raise InputError(f"{config.data}: has no heights to learn from; ingest it with --heights")
    if dataset.schema.class_names:
        raise InputError(
            f"{config.data}: its pixels have classes ({dataset.schema.label}), not heights; give --task "
            "pixel-class"
        )


def _chosen_chips(config: TrainConfig, dataset: Dataset) -> Chips:
    """Return the training chips; refuse a choice that leaves none of them, or none of those held out."""
    chosen = config.chips
    if not dataset.manifest.samples("train"):
        raise InputError(
            f"{config.data}: no chip is in the training split; give it a share with treeline split"
        )
    chips = training_chips(dataset, chosen)
    if not chips.size:
        choice = f"--where {chosen.where!r}" if chosen.where else f"--limit {chosen.limit}"
        raise InputError(f"{config.data}: {choice} leaves no training chip; choose more")
    where = chosen.validated_where
    is_dealt = config.faithful  # validation chips then come from the training split as well
    if dataset.manifest.samples("val") and not is_dealt and not dataset.chips("val", where=where).size:
        option = "--where" if chosen.val_where is None else "--val-where"
        raise InputError(
            f"{config.data}: {option} {where!r} leaves no validation chip; choose others with --val-where "
            '("" for all)'
        )
    return chips


def _check_places(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse places that cannot be written to, or that hold another run."""
    if exists(join(config.out, CONFIG)):
        check_resumes(config, dataset.manifest.fingerprint)
        note_changes(read_options(join(config.out, CONFIG)), recorded(config), config.out)
    check_writable(config.out)
    if config.tokens.token_store:
        check_writable(config.tokens.token_store)
