"""`treeline pretrain`: what one rank does, from the dataset's URL to checkpoints. No Ray here."""

import os
from collections.abc import Set
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from shards.errors import InputError
from shards.progress import progress
from shards.read.dataset import Dataset, open_dataset
from shards.roles import as_begun
from shards.said import say
from shards.storage.objects import check_writable, exists, join
from shards.version import made_by_code
from trainer.commands.begun import check_resumes
from trainer.commands.length_by_time import is_open, open_ended, run_by_time, with_measured_length
from trainer.commands.too_little_memory import saying_what_to_set
from trainer.devices.cards import computes
from trainer.devices.choice import Kind
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.repeatable import check_compiler, prepare_repeatable
from trainer.devices.sharding import is_sharded
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.backbone import TINY, build_backbone, new_backbone
from trainer.model.encoder import Encoder
from trainer.model.pretrained import check_start, is_pretrained, load_pretrained
from trainer.model.trainable import recompute_activations
from trainer.options import check_counts
from trainer.pretrain.dino import Dino, Head
from trainer.pretrain.ibot import check_hiding
from trainer.pretrain.masked import Masked, half_width
from trainer.pretrain.masking import groups_of, shown_count
from trainer.pretrain.objective_of_dino import DinoObjective
from trainer.pretrain.objective_of_masked import MaskedObjective
from trainer.pretrain.probe import probe_tiles
from trainer.pretrain.views import crop_sizes
from trainer.pretrain_config import DinoOptions, EncoderOptions, PretrainConfig
from trainer.run_folder.last_state import naming_last_state
from trainer.run_folder.mlflow_log import check_mlflow
from trainer.run_folder.options_file import CONFIG, read_options
from trainer.run_folder.run_writer import RunOptions, RunWriter, plain
from trainer.run_folder.state import as_left
from trainer.run_folder.state_callback import Notice, StateCallback, no_notice
from trainer.run_folder.state_parts import StateWriter


def as_it_began(config: PretrainConfig, given: Set[str] | None = None) -> PretrainConfig:
    """Take over from the run that is to be resumed what its options meant when it began."""
    url = join(config.out, CONFIG)
    if config.resume == "no" or not exists(url):
        return config
    return as_begun(config, read_options(url), given)


def check(config: PretrainConfig, device: Kind | None = None) -> Dataset:
    """Find the user's mistakes before any process is started or anything is written.

    Args:
        config: the options.
        device: kind of device on which this process is to train; None: others train.

    Raises:
        InputError: no dataset, no tile to learn from, bands that it lacks, or views that do not fit.
    """
    fit = config.fit
    check_counts(config.global_batch, fit)
    for other, is_given in (("--compile", fit.compile), ("--precision fp16", fit.precision == "fp16")):
        if fit.shard_model and is_given:
            raise InputError(f"--shard-model: does not go together with {other}; leave one of them out")
    if fit.average:
        raise InputError("--average: pre-training has its own (the teacher's weights); leave it out")
    if fit.compile and device:
        check_compiler(torch.device(device))
    if config.keep.mlflow:
        check_mlflow(config.keep.mlflow)
    dataset = open_dataset(config.data, config.reading.read_options)
    bands = bands_of(config.encoder, dataset)
    check_start(config.encoder.backbone)
    if not dataset.manifest.samples("train"):
        raise InputError(
            f"{config.data}: no tile is in the training split; give it a share with treeline split"
        )
    tiles = dataset.chips("train", config.tiles.limit, config.tiles.where)
    if not tiles.size:
        where = config.tiles.where
        choice = f"--where {where!r}" if where else f"--limit {config.tiles.limit}"
        raise InputError(f"{config.data}: {choice} leaves no tile to learn from; choose more")
    _check_koleo(config, tiles.size)
    groups_of(bands, config.views.band_groups)
    if config.views.band_groups and not (config.views.group_dropout or config.mask.mask_groups):
        raise InputError("--band-groups: does nothing without --group-dropout or --mask-groups; give one")
    _check_sizes(config, dataset)
    if config.probing.probe:
        probe_tiles(dataset, config.probing.probe, config.probing.probe_tiles)
    if exists(join(config.out, CONFIG)):
        check_resumes(config, dataset.manifest.fingerprint)
    check_writable(config.out)
    return dataset


def _check_koleo(config: PretrainConfig, tiles: int) -> None:
    """Refuse to compare the tiles of a batch where there is one, or where they do not come all at once."""
    if not config.dino.koleo:
        return
    if config.fit.accumulate > 1:
        raise InputError(
            f"--koleo: compares all tiles of a batch, and --accumulate {config.fit.accumulate} cuts it into "
            "pieces; leave one of them out"
        )
    if min(config.global_batch, tiles) < 2:
        raise InputError("--koleo: a batch of 1 tile has no neighbours; give 2 or more")


def _check_sizes(config: PretrainConfig, dataset: Dataset) -> None:
    """Refuse tiles that patches and crops do not fit, where the backbone's patches are known without it."""
    options, size = config.encoder, dataset.schema.chip_size
    if options.backbone != "tiny":
        return
    if size % options.patch_size:
        raise InputError(
            f"{config.data}: tiles of {size} pixels are no multiple of --patch-size {options.patch_size}"
        )
    if config.method == "mae":
        shown_count((size // options.patch_size) ** 2, config.mask.mask_ratio)
    else:
        views, patch = config.views, options.patch_size
        global_size, _ = crop_sizes(views.global_size, views.local_size, patch, size)
        check_hiding(config.dino, (global_size // patch) ** 2)


def bands_of(options: EncoderOptions, dataset: Dataset) -> tuple[str, ...]:
    """Return the bands that the backbone is to see: those named, or all.

    Raises:
        InputError: the dataset lacks one, or one is named twice.
    """
    bands = options.bands or dataset.schema.all_bands
    dataset.schema.check_counted(bands)
    if twice := [band for place, band in enumerate(bands) if band in bands[:place]]:
        raise InputError(f"--bands: names {twice[0]} twice; leave one out")
    return bands


def pretrain(config: PretrainConfig, ranks: Ranks, notice: Notice = no_notice) -> None:
    """Pre-train as one of `ranks`, from the run's last state if there is one; the first rank writes."""
    decided: PretrainConfig | None = with_measured_length(config)
    while decided:
        decided = _pretrain(decided, ranks, notice)


def _pretrain(config: PretrainConfig, ranks: Ranks, notice: Notice) -> PretrainConfig | None:
    """Pre-train to the end; or with --minutes until the length is known, and return the options with it."""
    with saying_what_to_set(config, ranks), naming_last_state(config.out), ExitStack() as stack:
        fit = resumed_fit(open_ended(config), ranks)
        dataset, tiles = fit.learning.dataset, fit.learning.train_chips
        states = StateWriter(config.out, Meeting(ranks)) if is_sharded(fit.model) else None
        callback = StateCallback(notice, states, config.keep.checkpoint_steps)
        if ranks.is_first:
            if not is_open(config):
                say(f"{_chosen(config, tiles.size)}")
            total = min(config.fit.epochs * tiles.size, fit.total_steps * fit.global_batch)
            advance = stack.enter_context(
                progress("pretrain", total, fit.objective.learns_from, fit.position.chips)
            )
            callback = RunWriter(_run_options(config, dataset, ranks.device), advance, notice, states)
        stack.enter_context(callback)
        decided = run_by_time(config, fit, callback)
    for trouble in dataset.troubles():
        say(f"rank {ranks.rank}: {trouble}")
    return decided


def _chosen(config: PretrainConfig, tiles: int) -> str:
    """Say how many tiles a run learns from, and which part of the head never learns."""
    frozen, epochs = config.dino.freeze_last_layer, config.fit.epochs
    if config.method == "dino" and frozen >= epochs:
        return (
            f"learns from {tiles:,} tiles; the head's last layer does not learn at all, because "
            f"--freeze-last-layer {frozen:g} is not below --epochs {epochs}"
        )
    return f"learns from {tiles:,} tiles"


def _run_options(config: PretrainConfig, dataset: Dataset, device: torch.device) -> RunOptions:
    trained_on = {
        "data": dataset.url,
        "fingerprint": dataset.manifest.fingerprint,
        "where": config.tiles.where,
        "limit": config.tiles.limit,
        "precision": computes(config.fit.computed_in, device).precision,
        **made_by_code(),
    }
    return RunOptions(config.out, config.data, plain(config), trained_on, config.keep)


def resumed_fit(config: PretrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the next step of the run at `config.out`, or for its first."""
    if config.fit.deterministic:
        prepare_repeatable()
    return as_left(new_fit(config, ranks), config.out)


def new_fit(config: PretrainConfig, ranks: Ranks) -> Fit:
    """Make everything ready for the first step: the same weights in every process."""
    dataset = open_dataset(config.data, config.reading.read_options)
    torch.manual_seed(config.fit.seed)
    encoder = new_encoder(config, dataset)
    size, patch = dataset.schema.chip_size, encoder.patch_size
    if size % patch:
        raise InputError(f"{config.data}: tiles of {size} pixels are no multiple of a patch, {patch} pixels")
    tiles = dataset.chips("train", config.tiles.limit, config.tiles.where)
    probed, label = np.arange(0), config.probing.probe
    if label:
        probed = probe_tiles(dataset, label, config.probing.probe_tiles)
    learning = Learning(dataset, tiles, probed, ranks)
    device = ranks.device_before_wrap(config.fit.shard_model)
    model: Any
    objective: Any
    if config.method == "mae":
        width = config.mask.decoder_width or half_width(encoder.width)
        model = Masked(encoder, width, config.mask.decoder_depth).to(device)
        objective = MaskedObjective(model, learning, config)
    else:
        options = config.dino
        _check_heads(1 + bool(options.ibot), options, ranks.device)
        shape = encoder.width, options.head_width, options.bottleneck, options.prototypes
        head = Head(*shape)
        # Hidden patches have a head of their own: what tells tiles apart need not tell patches apart.
        patch_head = Head(*shape) if options.ibot else None
        model = Dino(encoder, head, patch_head).to(device)
        objective = DinoObjective(model, learning, config)
    return Fit(model, learning, objective, config.rates.optimiser, config.fit, config.global_batch)


COPIES = 5
"""Copies of the prototypes in training: the student's, its gradient, two moments of AdamW, the teacher's."""


def _check_heads(heads: int, options: DinoOptions, device: torch.device) -> None:
    """Refuse prototypes of this many heads that the device has no memory for.

    Raises:
        InputError: says how much they would need.
    """
    needed = heads * COPIES * 4 * options.prototypes * options.bottleneck
    if device.type == "cuda":
        _, there = torch.cuda.mem_get_info(device)
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"--prototypes {options.prototypes}: training them needs {needed / 1e9:,.0f} GB, and "
            f"{device.type} has {there / 1e9:,.0f} GB; choose fewer, or a smaller --bottleneck"
        )


def new_encoder(config: PretrainConfig, dataset: Dataset) -> Encoder:
    """Return normalisation and backbone, random or continued.

    Raises:
        InputError: there is no such backbone, or it has other bands.
    """
    options, bands, statistics = config.encoder, bands_of(config.encoder, dataset), dataset.statistics
    if options.backbone == "tiny":
        shape = {
            "hidden_size": options.width,
            "intermediate_size": 2 * options.width,
            "num_hidden_layers": options.depth,
            "patch_size": options.patch_size,
            "num_register_tokens": options.registers,
            "num_channels": len(bands),
        }
        backbone = build_backbone({**TINY, **shape})
    elif is_pretrained(options.backbone):
        before = load_pretrained(options.backbone)
        before.check_images(options.backbone, bands, dataset.schema)
        statistics = before.statistics
        (backbone,) = before.backbones.values()
    else:
        backbone = new_backbone(options.backbone, bands, options.new_band_from)
    backbone.requires_grad_(True)
    if options.recompute_activations:
        recompute_activations(backbone)
    return Encoder(dataset.schema, bands, statistics, backbone)
