"""`treeline train`: what one rank does, from the dataset's URL to checkpoints. No Ray here."""

from collections.abc import Set
from contextlib import ExitStack

import numpy as np
import torch

from shards.nested import flat
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.roles import as_begun, renewed
from shards.said import say
from shards.storage.objects import exists, join
from shards.write.leakage import leakage
from trainer.commands.length_by_time import is_open, open_ended, run_by_time, with_measured_length
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.commands.train_classes import new_class_fit
from trainer.commands.train_tiles import new_tile_fit
from trainer.config import RECIPES, RECIPES_BEFORE, TrainConfig
from trainer.data.augment import check_crop
from trainer.data.choice import met_in_an_epoch
from trainer.data.token_filling import open_tokens
from trainer.data.token_store import TokenPlan, plan_tokens
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.repeatable import prepare_repeatable
from trainer.devices.sharding import is_sharded
from trainer.fit.failures import refuse_unreadable_validation
from trainer.fit.flops import training_flops
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.fit.notebook_faults import notebook_variant
from trainer.fit.variant import Variant, ordinary
from trainer.model.make import new_regressor
from trainer.model.pretrained import is_pretrained, pretrained_bands
from trainer.model.regressor import Regressor
from trainer.options import ModelOptions
from trainer.run_folder.last_state import naming_last_state
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.run_writer import RunWriter, run_options
from trainer.run_folder.state import as_left
from trainer.run_folder.state_callback import Notice, StateCallback, no_notice
from trainer.run_folder.state_parts import StateWriter
from trainer.run_folder.verdict_writer import write_verdict
from trainer.weights.weights_apart import set_apart


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
    say(f"takes the bands of {model.backbone}: {' '.join(bands)}")
    return config.with_options(bands=bands)


def train(config: TrainConfig, ranks: Ranks, notice: Notice = no_notice) -> None:
    """Train as one of `ranks`, from the run's last state if there is one; the first rank writes."""
    decided: TrainConfig | None = with_measured_length(config)
    while decided:
        decided = _train(decided, ranks, notice)


def _train(config: TrainConfig, ranks: Ranks, notice: Notice) -> TrainConfig | None:
    """Train to the end; or with --minutes until the length is known, and return the options with it."""
    with saying_what_to_set(config, ranks), naming_last_state(config.out):
        with ExitStack() as stack:
            fit = restored_fit(open_ended(config), ranks)
            dataset, train_chips = fit.learning.dataset, fit.learning.train_chips
            states = StateWriter(config.out, Meeting(ranks)) if is_sharded(fit.model) else None
            callback = StateCallback(notice, states, config.keep.checkpoint_steps)
            kind = fit.objective.learns_from
            if ranks.is_first and not is_open(config):
                say(f"{_chosen(config, fit.learning, kind)}")
                if fit.learning.val_chips.size:
                    said = leakage(dataset.url, dataset.manifest)
                    say(said)
            read_first(fit)
            if ranks.is_first:
                total = min(config.fit.epochs * train_chips.size, fit.total_steps * fit.global_batch)
                advance = stack.enter_context(progress("train", total, kind, fit.position.chips))
                callback = RunWriter(run_options(config, dataset, ranks.device), advance, notice, states)
            stack.enter_context(callback)
            decided = run_by_time(config, fit, callback)
            if decided:
                return decided
            callback.finish(fit)
        if ranks.is_first:
            write_verdict(fit, config.out)
    for trouble in dataset.troubles():
        say(f"rank {ranks.rank}: {trouble}")
    return None


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
    return as_left(new_fit(config, ranks), config.out)


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
    crop = config.augment.crop
    check_crop(crop, regressor.patch_size // regressor.decoder_config.upsample)
    # Before it is compiled or sharded.
    flops = training_flops(regressor, learning.tokens is not None, crop) if learning.ranks.is_first else 0.0
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
    return plan_tokens(regressor, dataset, config.tokens, config.chips, config.fit.computed_in)
