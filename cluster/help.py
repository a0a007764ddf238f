"""What --help shows: the usual options of a command in groups, and with --help-all all of them.

The words are the options' own docstrings; tyro draws them. Nothing is read or run.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, NoReturn

from shards.nested import Option, options_of

REQUIRED, OTHER = "Required", "Other options"
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": (
        *(
            "data",
            "scenes",
            "images",
            "image",
            "heights",
            "ground",
            "background",
            "mask",
            "mask_drop",
            "max_days",
            "months",
            "table",
        ),
        *("file_column", "table_crs", "image_name", "height_name", "array", "image_column"),
        *(
            "height_column",
            "key_column",
            "key_pattern",
            "scaled_by",
            "bands",
            "use",
            "nodata",
            "dtype",
            "asset",
            "split",
            "height_unit",
            "height_band",
            "on_mismatch",
        ),
        *("where", "val_where", "limit", "per", "label_seed", "keys", "min_valid", "min_height", "chips"),
        *("sar", "regions", "pixel_classes", "maps", "tiles", "registration", "derive", "scale", "offset"),
    ),
    "Chips and labels": (
        *("chip_size", "tile_size", "stride", "pixel_size", "crs", "height_resampling", "label"),
        *("label_unit", "class_names"),
    ),
    "Split": (
        *("split_by", "shares", "block_size", "split_axis", "split_bands", "split_angle", "region_column"),
        *("buffer", "split_crs", "rewrite"),
    ),
    "Task": ("task", "head", "method"),
    "Model": (
        *(
            "checkpoint",
            "recipe",
            "faithful",
            "backbone",
            "backbone_weights",
            "new_band_from",
            "tune",
            "tune_blocks",
        ),
        *("lora_rank", "decoder", "decoder_widths", "norm", "dropout", "upsample", "patch_size", "registers"),
        *("width", "depth", "weights", "tokens"),
    ),
    "Prediction": (
        *("window", "overlap", "symmetries", "spread", "bounds", "area", "layer", "layers", "beside"),
        *("classes", "above"),
    ),
    "Optimiser": (
        *("epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "warm_up", "stop_patience"),
        *("output_rate_factor", "backbone_rate_factor", "layer_decay", "last_weight_decay", "loss"),
        *("plateau_patience", "lowest_learning_rate", "gradient_norm", "average", "epoch_steps"),
        *("balance_heights", "baseline_chips", "seed", "on_nonfinite", "stop_on_collapse"),
    ),
    "Augmentation": (
        *("flips", "brightness", "band_dropout", "group_dropout", "band_groups", "flip", "vertical_flip"),
        *("quarter_turns", "speckle_looks"),
    ),
    "Memory and speed": (
        *("workers", "device", "gpus_per_worker", "precision", "batch_per_worker", "accumulate", "compile"),
        *("shard_model", "recompute_activations", "token_store", "token_dtype", "token_variants", "cache"),
        *("cache_gigabytes", "on_bad_shard", "block", "deterministic", "tiles_per_part", "shard_bytes"),
        *("shard_chips",),
    ),
    "Output": (
        *("out", "resume", "overwrite", "append", "restart", "strict", "checkpoint_steps", "keep_best"),
        *("mlflow", "stac", "quick_look", "palette", "port", "browser"),
    ),
}
"""Group of an option by its name; a part of options that none of these names has its own title."""
TITLES = {"views": "Views of a tile", "dino": "Self-distillation", "mask": "Masking", "probing": "Probe"}
"""Titles of parts (see shards.nested) whose options no group names."""
USUAL: dict[str, tuple[str, ...]] = {
    "train": (
        *("data", "out", "recipe", "resume", "backbone", "tune", "decoder", "bands", "task", "label"),
        *("where", "limit", "loss", "epochs", "batch_size", "learning_rate", "workers", "device"),
        *("precision", "seed"),
    ),
    "pretrain": (
        *("data", "out", "recipe", "method", "resume", "bands", "patch_size", "width", "depth", "where"),
        *("epochs", "batch_size", "learning_rate", "probe", "workers", "device", "precision", "seed"),
    ),
    "predict": (
        *("scenes", "checkpoint", "out", "bands", "nodata", "window", "overlap", "symmetries", "spread"),
        *("mask", "bounds", "on_mismatch", "precision", "workers", "device", "stac", "quick_look"),
    ),
    "embed": (
        *("data", "scenes", "checkpoint", "out", "weights", "tokens", "split", "where", "limit"),
        *("tile_size", "precision", "workers", "device"),
    ),
    "attention": (
        *("tiles", "checkpoint", "out", "data", "split", "where", "limit", "tile_size", "layer", "beside"),
        *("classes", "precision", "device"),
    ),
    "ingest pairs": (
        *("images", "heights", "out", "bands", "dtype", "nodata", "pixel_size", "table", "min_valid"),
        *("min_height", "split_by", "shares", "workers"),
    ),
    "ingest huggingface": (
        *("data", "out", "image_column", "height_column", "bands", "dtype", "nodata", "scaled_by"),
        *("min_valid", "min_height", "split_by", "shares", "workers"),
    ),
    "ingest scenes": (
        *("images", "heights", "ground", "mask", "out", "bands", "nodata", "chip_size", "stride"),
        *("pixel_size", "crs", "max_days", "months", "min_valid", "min_height", "split_by", "shares"),
        *("workers",),
    ),
    "ingest synthetic": (
        *("chips", "out", "seed", "sar", "regions", "chip_size", "pixel_classes", "split_by", "shares"),
        *("workers",),
    ),
}
"""Options that --help shows, beside those that must be given; the others are for --help-all."""


def show_help(options: type, values: Mapping[str, Any], program: str, everything: bool) -> NoReturn:
    """Print the usual options of a command, or all of them, and exit with code 0.

    Args:
        options: the command's configuration.
        values: defaults by name, those of a recipe or a file among them.
        program: name of the command, with "treeline" before it.
        everything: whether to show all options.
    """
    import tyro

    known = options_of(options)
    usual = set(known if everything else USUAL.get(program.partition(" ")[2], known))
    required = {name for name, value in values.items() if value is tyro.MISSING}
    shown = {name: option for name, option in known.items() if name in usual | required}
    about = f"{inspect.getdoc(options)}\n\n--config FILE: options from a YAML or JSON file; flags count more."
    if hidden := len(known) - len(shown):
        about += f"\n--help-all: shows {hidden} more options."
    words = dict(_words(options))
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for title, name in _placed(shown, required):
        groups.setdefault(title, []).append((name, *_shown(shown[name], values[name], words[name])))
    parts = [
        (re.sub(r"\W", "_", title.lower()), dataclasses.make_dataclass(title, options))
        for title, options in groups.items()
    ]
    tyro.cli(
        dataclasses.make_dataclass("Help", parts),
        args=["--help"],
        prog=program,
        description=about,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    raise SystemExit(0)


def _placed(shown: dict[str, Option], required: set[str]) -> Iterator[tuple[str, str]]:
    """Yield groups and names of options in the order in which they are shown."""
    yield from ((REQUIRED, name) for name in shown if name in required)
    group_of = {name: title for title, names in GROUPS.items() for name in names}
    left = [name for name in shown if name not in required]
    for title, names in GROUPS.items():
        yield from ((title, name) for name in names if name in left and group_of[name] == title)
    for name in left:
        if name not in group_of:
            yield TITLES.get((*shown[name].path[:-1], "")[0], OTHER), name


def _shown(option: Option, value: Any, words: str) -> tuple[Any, Any]:
    """Return type and default of an option for tyro, with its words and its value unless given."""
    import tyro

    marks = [mark for mark in option.marks if type(mark).__module__.startswith("tyro")]
    own = [mark for mark in marks if hasattr(mark, "metavar")]
    is_required = value is tyro.MISSING
    said = tyro.conf.arg(
        name=next((mark.name for mark in own if mark.name), None),
        metavar=next((mark.metavar for mark in own if mark.metavar), _metavar(option.kind)),
        help=words,
        help_behavior_hint="(required)" if is_required else _default(value),
    )
    shown: Any = option.kind
    for mark in (*(mark for mark in marks if mark not in own), said):
        shown = Annotated[shown, mark]
    return shown, dataclasses.field() if is_required else dataclasses.field(default=value)


def _metavar(kind: Any) -> str | None:
    """Return what stands for a value that may be left out; None for what tyro shows by itself."""
    kinds = typing.get_args(kind)
    if type(None) not in kinds or any(typing.get_origin(one) for one in kinds):
        return None
    return "|".join(one.__name__.upper() for one in kinds if one is not type(None))


def _default(value: Any) -> str:
    """Write a default as a person would; "" where there is nothing to say."""
    if isinstance(value, tuple | list):
        value = " ".join(map(str, value))
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, int | float):
        value = f"{value:,}" if value == int(value) else f"{value:g}"
    return f"(default: {value.removesuffix('.0')})"


def _words(options: type) -> Iterator[tuple[str, str]]:
    """Yield the names of options and the docstrings of their fields, parts included."""
    for kind in reversed(options.__mro__[:-1]):
        if not dataclasses.is_dataclass(kind):
            continue
        for field, after in pairwise(_body(kind)):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                yield field.target.id, " ".join(str(after.value.value).split())
    for part in typing.get_type_hints(options).values():
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            yield from _words(part)


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _body(kind: type) -> list[ast.stmt]:
    return _classes(kind.__module__)[kind.__name__]
