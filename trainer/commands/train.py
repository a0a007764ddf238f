"""`treeline train`: what one rank does, from the dataset's URL to checkpoints. No Ray here."""

import sys
from contextlib import ExitStack
from dataclasses import replace

import torch
import yaml

from shards.errors import InputError
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.roles import as_begun, differing, flag_of, why_idle
from shards.storage.objects import check_writable, exists, join, read_bytes
from trainer.config import RECIPES, RECIPES_BEFORE, TrainConfig, read_options
from trainer.data.token_filling import open_tokens
from trainer.data.token_store import check_token_options
from trainer.decoders.features import DecoderConfig
from trainer.devices.ranks import Meeting, Ranks, device_here
from trainer.devices.repeatable import check_compiler, prepare_repeatable
from trainer.devices.sharding import is_sharded
from trainer.fit.flops import training_flops
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit, steps_per_epoch
from trainer.fit.loss import parse_loss
from trainer.fit.notebook_faults import check_faithful, notebook_variant
from trainer.fit.variant import Variant, ordinary
from trainer.model.backbone import new_backbone
from trainer.model.regressor import Regressor
from trainer.model.trainable import recompute_activations, tune
from trainer.run_folder.mlflow_log import check_mlflow
from trainer.run_folder.run_writer import CONFIG, RunWriter, config_yaml, run_options
from trainer.run_folder.state import restore
from trainer.run_folder.state_callback import Notice, StateCallback, no_notice
from trainer.run_folder.state_parts import STATE, StateWriter, StoredState


def as_it_began(config: TrainConfig) -> TrainConfig:
    """Take over from the run that is to be resumed what its options meant when it began."""
    url = join(config.out, CONFIG)
    if config.resume == "no" or not exists(url):
        return config
    stored = yaml.safe_load(read_bytes(url))
    began = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    recipe, before = RECIPES[config.recipe], RECIPES_BEFORE.get(config.recipe, {})
    as_recipe = [name for name in before if getattr(config, name) == recipe[name]]
    changed = {name: before[name] for name in as_recipe if began.get(name) == before[name]}
    return as_begun(replace(config, **changed), stored)


def check(config: TrainConfig) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written.

    Raises:
        InputError: no dataset, no training chip, bands that it lacks, or an output that cannot be used.
    """
    for name, least in (("global_batch", 1), ("epochs", 1), ("accumulate", 1), ("seed", 0)):
        if getattr(config, name) < least:
            option = "--batch-size" if name == "global_batch" else f"--{name}"
            raise InputError(f"{option} {getattr(config, name)}: give {least} or more")
    if not config.backbone:
        raise InputError(
            f"--backbone: --recipe {config.recipe} needs a pretrained one; give a folder, a .pth file of "
            "Meta's, or a name on the hub"
        )
    parse_loss(config.loss)
    if config.accumulate > 1 and config.norm == "batch" and not why_idle(config, "norm"):
        raise InputError("--accumulate: batch norm would see pieces of a batch; give --norm group")
    for name in ("compile", "token_store"):
        if config.shard_model and getattr(config, name):
            raise InputError(
                f"--shard-model: does not go together with --{name.replace('_', '-')}; leave one of them out"
            )
    check_faithful(config)
    check_token_options(config)
    if config.compile and not config.worker_range[1]:
        check_compiler(device_here())
    if config.mlflow:
        check_mlflow(config.mlflow)
    dataset = open_dataset(config.data, read_options(config))
    dataset.schema.band_positions(config.bands)
    if not dataset.schema.label:
        raise InputError(f"{config.data}: has no heights to learn from; ingest it with --heights")
    if not dataset.manifest.samples("train"):
        raise InputError(
            f"{config.data}: no chip is in the training split; give it a share with treeline split"
        )
    chips = dataset.chips("train", config.limit, config.where)
    if not chips.size:
        chosen = f"--where {config.where!r}" if config.where else f"--limit {config.limit}"
        raise InputError(f"{config.data}: {chosen} leaves no training chip; choose more")
    where = config.validated_where
    is_dealt = config.faithful  # validation chips then come from the training split as well
    if dataset.manifest.samples("val") and not is_dealt and not dataset.chips("val", where=where).size:
        option = "--where" if config.val_where is None else "--val-where"
        raise InputError(
            f"{config.data}: {option} {where!r} leaves no validation chip; choose others with --val-where "
            '("" for all)'
        )
    if config.balance_heights:
        dataset.height_weights(chips, config.balance_heights)
    if exists(join(config.out, CONFIG)):
        _check_goes_on(config)
    check_writable(config.out)
    if config.token_store:
        check_writable(config.token_store)
    return dataset


def _check_goes_on(config: TrainConfig) -> None:
    """Refuse a run that is there, unless it is to go on and is of the same options."""
    if config.resume == "no":
        raise InputError(
            f"{config.out}: already holds a training run; go on with it (--resume auto), choose another "
            "--out, or delete it first"
        )
    old = yaml.safe_load(read_bytes(join(config.out, CONFIG)))
    differ = differing(TrainConfig, old, yaml.safe_load(config_yaml(config)))
    before = replace(config, workers=old["workers"]).global_batch
    if not differ and before != config.global_batch:
        raise InputError(
            f"{config.out}: holds a run with batches of {before} chips, not {config.global_batch}; choose "
            "--batch-per-worker so that it stays, times the workers"
        )
    if differ:
        flags = ", ".join(map(flag_of, differ))
        raise InputError(
            f"{config.out}: holds a run with other options ({flags}); give the same, or choose another --out"
        )


def train(config: TrainConfig, ranks: Ranks, notice: Notice = no_notice) -> None:
    """Train as one of `ranks`, from the run's last state if there is one; the first rank writes."""
    fit = resumed_fit(config, ranks)
    dataset, train_chips = fit.learning.dataset, fit.learning.train_chips
    with ExitStack() as stack:
        states = StateWriter(config.out, Meeting(ranks)) if is_sharded(fit.regressor) else None
        callback = StateCallback(notice, states, config.checkpoint_steps)
        if ranks.is_first:
            print(f"treeline: {_chosen(config, fit.learning)}", file=sys.stderr, flush=True)
            total = config.epochs * train_chips.size
            advance = stack.enter_context(progress("train", total, "chips", fit.position.chips))
            callback = RunWriter(run_options(config, dataset), advance, notice, states)
        stack.enter_context(callback)
        fit.run(callback)
    for trouble in dataset.troubles():
        print(f"treeline: rank {ranks.rank}: {trouble}", file=sys.stderr, flush=True)


def _chosen(config: TrainConfig, learning: Learning) -> str:
    """Say which chips a run trains on, and which ones score it."""
    options = {"--where": config.where, "--limit": config.limit}
    train = ", ".join(f"{name} {value}" for name, value in options.items() if value not in ("", None))
    val = f"where {config.validated_where}" if config.validated_where else "all there are"
    return (
        f"trains on {learning.train_chips.size:,} chips ({train or 'all there are'}), validates on "
        f"{learning.val_chips.size:,} ({val})"
    )


def resumed_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the next step of the run at `config.out`, or for its first."""
    if config.deterministic:
        prepare_repeatable()
    fit = new_fit(config, ranks)
    if exists(join(config.out, STATE)):
        with StoredState(config.out) as state:
            restore(fit, state)
    if ranks.is_first:
        fit.objective.prepare()
    return fit


def variant_of(config: TrainConfig) -> Variant:
    """Return the variant of training that `config` asks for."""
    return notebook_variant(config) if config.faithful else ordinary(config)


def new_fit(config: TrainConfig, ranks: Ranks, variant: Variant | None = None) -> Fit:
    """Make everything ready for the first step; default: the variant that `config` asks for."""
    variant = variant or variant_of(config)
    # What is to be sharded goes from the CPU to its ranks in parts: no GPU need have room for the whole.
    device = torch.device("cpu") if config.shard_model and ranks.world_size > 1 else ranks.device
    dataset, regressor = prepared(config, device, variant)
    tokens = open_tokens(regressor, dataset, config, ranks) if config.token_store else None
    train_chips, val_chips = variant.choose_chips(dataset)
    edges = config.balance_heights
    weights = dataset.height_weights(train_chips, edges) if edges else None
    return fit_of(
        regressor, Learning(dataset, train_chips, val_chips, ranks, weights, tokens), config, variant
    )


def fit_of(
    regressor: Regressor, learning: Learning, config: TrainConfig, variant: Variant | None = None
) -> Fit:
    """Make a fit of this regressor on these chips; default: the variant that `config` asks for."""
    variant, options = variant or variant_of(config), config.fit
    # Before it is compiled or sharded.
    flops = training_flops(regressor, learning.tokens is not None) if learning.ranks.is_first else 0.0
    return Fit(
        regressor,
        learning,
        variant.new_objective(regressor, learning),
        config.optimiser_options(steps_per_epoch(learning, options)),
        options,
        flops,
    )


def prepared(
    config: TrainConfig, device: torch.device, variant: Variant | None = None
) -> tuple[Dataset, Regressor]:
    """Return the dataset, and the untrained regressor on `device`: the same weights in every process."""
    dataset = open_dataset(config.data, read_options(config))
    torch.manual_seed(config.seed)
    return dataset, new_regressor(dataset, config, variant).to(device)


def new_regressor(dataset: Dataset, config: TrainConfig, variant: Variant | None = None) -> Regressor:
    """Return the untrained regressor that `config` asks for, ready for the dataset's images."""
    variant = variant or variant_of(config)
    backbone = new_backbone(config.backbone, variant.pretrained_bands, config.new_band_from)
    tune(backbone, config.tune, config.tune_blocks, config.lora_rank)
    if config.recompute_activations:
        recompute_activations(backbone)
    decoder = DecoderConfig(
        config.decoder_widths, config.norm, variant.dropout, config.decoder, config.upsample
    )
    return Regressor(dataset.schema, config.bands, dataset.statistics, backbone, decoder)
