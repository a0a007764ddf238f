"""`treeline train`: what one rank does, from the dataset's URL to checkpoints. No Ray here."""

import sys
from collections.abc import Set
from contextlib import ExitStack

import numpy as np
import torch

from shards.errors import InputError
from shards.nested import flat
from shards.own_parts import note_changes, recorded
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.roles import as_begun, renewed, why_idle
from shards.storage.objects import check_writable, exists, join
from shards.write.leakage import leakage
from trainer.commands.begun import check_resumes
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.commands.train_classes import check_classes, new_class_fit
from trainer.commands.train_tiles import check_tiles, new_tile_fit
from trainer.config import RECIPES, RECIPES_BEFORE, TrainConfig
from trainer.data.choice import met_in_an_epoch, training_chips
from trainer.data.token_filling import open_tokens
from trainer.data.token_store import TokenPlan, check_token_options, plan_tokens
from trainer.devices.choice import Kind
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.repeatable import check_compiler, prepare_repeatable
from trainer.devices.sharding import is_sharded
from trainer.fit.failures import refuse_unreadable_validation
from trainer.fit.flops import training_flops
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.fit.loss import parse_loss
from trainer.fit.notebook_faults import check_faithful, notebook_variant
from trainer.fit.variant import Variant, ordinary
from trainer.model.make import check_own_decoder, new_regressor
from trainer.model.pretrained import check_start, is_pretrained, pretrained_bands
from trainer.model.regressor import Regressor
from trainer.model.weights_apart import set_apart
from trainer.options import ModelOptions, check_counts
from trainer.run_folder.last_state import naming_last_state
from trainer.run_folder.mlflow_log import check_mlflow
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.run_writer import RunWriter, run_options
from trainer.run_folder.state import restore
from trainer.run_folder.state_callback import Notice, StateCallback, no_notice
from trainer.run_folder.state_parts import STATE, StateWriter, StoredState
from trainer.run_folder.verdict_writer import write_verdict


def as_it_began(config: TrainConfig, given: Set[str] | None = None) -> TrainConfig:
    """Take over from the run that is to be resumed what its options meant when it began.

    Args:
        config: the options of now.
        given: names of the options that the user gave; default: all that differ from default and recipe.
    """
    url = join(config.out, CONFIG)
    if config.resume == "no" or not exists(url):
        return config
    stored = renewed(TrainConfig, read_options(url))
    began = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    recipe, before = RECIPES[config.recipe], RECIPES_BEFORE.get(config.recipe, {})
    asked = flat(config)
    as_recipe = [name for name in before if asked[name] == recipe[name] and name not in (given or ())]
    changed = {name: before[name] for name in as_recipe if began.get(name) == before[name]}
    return as_begun(config.with_options(**changed), stored, given)


def with_bands_of_backbone(config: TrainConfig, given: Set[str] | None = None) -> TrainConfig:
    """Take the bands from a pre-trained backbone, unless the user named some.

    Args:
        config: the options.
        given: names of the options that the user gave; default: all that differ from their default.
    """
    model = config.model
    is_named = model.bands != ModelOptions.bands if given is None else "bands" in given
    if is_named or not is_pretrained(model.backbone):
        return config
    bands = pretrained_bands(model.backbone, model.backbone_weights)
    print(f"treeline: takes the bands of {model.backbone}: {' '.join(bands)}", file=sys.stderr, flush=True)
    return config.with_options(bands=bands)


def check(config: TrainConfig, device: Kind | None = None) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written.

    Args:
        config: the options.
        device: kind of device on which this process is to train; None: others train.

    Raises:
        InputError: no dataset, no training chip, bands that it lacks, or an output that cannot be used.
    """
    model, fit, chosen = config.model, config.fit, config.chips
    check_counts(config.global_batch, fit)
    if not model.backbone:
        raise InputError(
            f"--backbone: --recipe {config.recipe} needs a pretrained one; give a folder, a .pth file of "
            "Meta's, or a name on the hub"
        )
    of_tiles = config.target.is_of_tiles
    parse_loss(config.objective.loss)
    if fit.accumulate > 1 and model.norm == "batch" and not why_idle(config, "norm"):
        raise InputError("--accumulate: batch norm would see pieces of a batch; give --norm group")
    # Attention is read beside the block, whose weights are gathered only for what comes out of it.
    reads_attention = config.target.is_of_tiles and config.target.head == "attention"
    for other, is_given in (
        ("--compile", fit.compile),
        ("--token-store", config.tokens.token_store),
        ("--precision fp16", fit.precision == "fp16"),
        ("--head attention", reads_attention and model.tune != "frozen"),
    ):
        if fit.shard_model and is_given:
            raise InputError(f"--shard-model: does not go together with {other}; leave one of them out")
    check_faithful(config)
    check_token_options(config.tokens, model.tune, config.augment)
    if fit.compile and device:
        check_compiler(torch.device(device))
    if config.keep.mlflow:
        check_mlflow(config.keep.mlflow)
    dataset = open_dataset(config.data, config.reading.read_options)
    dataset.schema.check_counted(model.bands)
    check_start(model.backbone)
    if config.target.task == "height" and not dataset.schema.label:
        raise InputError(f"{config.data}: has no heights to learn from; ingest it with --heights")
    if config.target.task == "height" and dataset.schema.class_names:
        raise InputError(
            f"{config.data}: its pixels have classes ({dataset.schema.label}), not heights; give --task "
            "pixel-class"
        )
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
    if of_tiles:
        check_tiles(config, dataset)
    if config.target.task == "pixel-class":
        check_classes(config, dataset)
    if not of_tiles:
        check_own_decoder(model, max(1, len(dataset.schema.class_names)))
    if chosen.balance_heights:
        dataset.height_weights(chips, chosen.balance_heights)
    if exists(join(config.out, CONFIG)):
        check_resumes(config, dataset.manifest.fingerprint)
        note_changes(read_options(join(config.out, CONFIG)), recorded(config), config.out)
    check_writable(config.out)
    if config.tokens.token_store:
        check_writable(config.tokens.token_store)
    return dataset


def train(config: TrainConfig, ranks: Ranks, notice: Notice = no_notice) -> None:
    """Train as one of `ranks`, from the run's last state if there is one; the first rank writes."""
    with saying_what_to_set(config, ranks), naming_last_state(config.out):
        with ExitStack() as stack:
            fit = restored_fit(config, ranks)
            dataset, train_chips = fit.learning.dataset, fit.learning.train_chips
            states = StateWriter(config.out, Meeting(ranks)) if is_sharded(fit.model) else None
            callback = StateCallback(notice, states, config.keep.checkpoint_steps)
            kind = fit.objective.learns_from
            if ranks.is_first:
                print(f"treeline: {_chosen(config, fit.learning, kind)}", file=sys.stderr, flush=True)
                if fit.learning.val_chips.size:
                    said = leakage(dataset.url, dataset.manifest)
                    print(f"treeline: {said}", file=sys.stderr, flush=True)
            read_first(fit)
            if ranks.is_first:
                total = config.fit.epochs * train_chips.size
                advance = stack.enter_context(progress("train", total, kind, fit.position.chips))
                callback = RunWriter(run_options(config, dataset, ranks.device), advance, notice, states)
            stack.enter_context(callback)
            fit.run(callback)
            callback.finish(fit)
        if ranks.is_first:
            write_verdict(fit, config.out)
    for trouble in dataset.troubles():
        print(f"treeline: rank {ranks.rank}: {trouble}", file=sys.stderr, flush=True)


def _chosen(config: TrainConfig, learning: Learning, kind: str) -> str:
    """Say which chips, or tiles (`kind`), a run trains on, and which ones score it."""
    options, target = config.chips, config.target
    given = {
        "--where": options.where,
        "--limit": options.limit,
        "--per": options.per,
        "--label-seed": options.label_seed or None,
    }
    there = f"all with a label {target.label}" if target.is_of_tiles else "all there are"
    train = ", ".join(f"{name} {value}" for name, value in given.items() if value not in ("", None))
    val = f"where {options.validated_where}" if options.validated_where else there
    said = f"trains on {np.unique(learning.train_chips).size:,} {kind} ({train or there}), validates on "
    if learning.val_chips.size:
        return f"{said}{learning.val_chips.size:,} ({val})"
    return (
        f"{said}none: no {kind} are held out in {config.data}, so nothing says how good the regressor is "
        "where it was not trained, and the training loss chooses the best epoch; "
        f"treeline split {config.data} holds some out"
    )


def resumed_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the next step of the run at `config.out`, or for its first."""
    fit = restored_fit(config, ranks)
    read_first(fit)
    return fit


def read_first(fit: Fit) -> None:
    """Read what a fit needs of the chips before its next step.

    Raises:
        DatasetError: shards that are left out leave nothing to score.
    """
    if fit.position.epoch < fit.options.epochs:
        refuse_unreadable_validation(fit.learning)
    if fit.learning.ranks.is_first:
        fit.objective.prepare()


def restored_fit(config: TrainConfig, ranks: Ranks) -> Fit:
    """Make a fit as the run at `config.out` left it, or as it begins; no chip is read."""
    if config.fit.deterministic:
        prepare_repeatable()
    fit = new_fit(config, ranks)
    if exists(join(config.out, STATE)):
        with StoredState(config.out) as state:
            restore(fit, state)
    return fit


def variant_of(config: TrainConfig) -> Variant:
    """Return the variant of training that `config` asks for."""
    return notebook_variant(config) if config.faithful else ordinary(config)


def new_fit(config: TrainConfig, ranks: Ranks, variant: Variant | None = None) -> Fit:
    """Make everything ready for the first step; default: the variant that `config` asks for."""
    if config.target.is_of_tiles:
        return new_tile_fit(config, ranks)
    if config.target.task == "pixel-class":
        return new_class_fit(config, ranks)
    variant = variant or variant_of(config)
    device = ranks.device_before_wrap(config.fit.shard_model)
    dataset, regressor = prepared(config, variant)
    set_apart(regressor, regressor.backbone, writes=ranks.is_first)
    tokens = None
    if config.tokens.token_store:
        tokens = open_tokens(planned_tokens(config, dataset, regressor), regressor, dataset, ranks)
        regressor.drop_backbone()
    regressor.to(device)
    train_chips, val_chips = variant.choose_chips(dataset)
    train_chips = met_in_an_epoch(train_chips, config.chips, config.global_batch)
    edges = config.chips.balance_heights
    weights = dataset.height_weights(train_chips, edges) if edges else None
    return fit_of(
        regressor, Learning(dataset, train_chips, val_chips, ranks, weights, tokens), config, variant
    )


def fit_of(
    regressor: Regressor, learning: Learning, config: TrainConfig, variant: Variant | None = None
) -> Fit:
    """Make a fit of this regressor on these chips; default: the variant that `config` asks for."""
    variant = variant or variant_of(config)
    # Before it is compiled or sharded.
    flops = training_flops(regressor, learning.tokens is not None) if learning.ranks.is_first else 0.0
    return Fit(
        regressor,
        learning,
        variant.new_objective(regressor, learning),
        config.optimiser,
        config.fit,
        config.global_batch,
        flops,
    )


def prepared(config: TrainConfig, variant: Variant | None = None) -> tuple[Dataset, Regressor]:
    """Return the dataset, and the untrained regressor on the CPU: the same weights in every process."""
    variant = variant or variant_of(config)
    dataset = open_dataset(config.data, config.reading.read_options)
    torch.manual_seed(config.fit.seed)
    return dataset, new_regressor(dataset, variant.model, variant.pretrained_bands)


def planned_tokens(config: TrainConfig, dataset: Dataset, regressor: Regressor) -> TokenPlan:
    """Plan the token store that `config` asks for."""
    return plan_tokens(regressor, dataset, config.tokens, config.chips, config.fit.precision)
