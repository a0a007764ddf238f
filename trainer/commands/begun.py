"""A run that is already at --out: its options, and whether it can be resumed with those of now."""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import yaml

from shards.errors import InputError
from shards.format.manifest import understood
from shards.roles import Place, before_options, differing, flag_of, renewed, roles
from shards.storage.objects import exists, is_local, join, local_path
from trainer.config import TrainConfig
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.options_file import CONFIG, DAMAGED, read_options
from trainer.run_folder.run_writer import config_yaml
from trainer.run_folder.state_parts import START_OVER, STATE, read_about


def check_resumes(config: TrainConfig | PretrainConfig, fingerprint: str = "") -> None:
    """Refuse a run that is there, unless it is to be resumed and has the same options.

    A place may have another name than when the run began.

    Args:
        config: the options of now.
        fingerprint: the dataset's; "" if its name alone says what it is.

    Raises:
        InputError: says which options differ, and what to do.
    """
    if config.resume == "no":
        raise InputError(
            f"{config.out}: already holds a training run; resume it (--resume auto), choose another "
            "--out, or delete it first"
        )
    old = read_options(join(config.out, CONFIG))
    if ("method" in old) != isinstance(config, PretrainConfig):
        command = "pretrain" if "method" in old else "train"
        raise InputError(f"{config.out}: holds a run of treeline {command}; choose another --out")
    asked = yaml.safe_load(config_yaml(config))
    with understood(join(config.out, CONFIG), DAMAGED):
        old = _under_names_of_now(old, asked, roles(type(config), Place), config.out)
        before = replace(config, workers=old.get("workers", 0)).global_batch
    if fingerprint and _learned_from(config.out) == fingerprint:
        old["data"] = asked["data"]
    differ = differing(type(config), old, asked)
    if not differ and before != config.global_batch:
        raise InputError(
            f"{config.out}: holds a run with batches of {before} chips, not {config.global_batch}; choose "
            "--batch-per-worker so that it stays, times the workers"
        )
    if differ:
        there = before_options(type(config)) | renewed(type(config), old)
        what = ", ".join(
            f"{flag_of(name)} ({_shown(there.get(name))} there, {_shown(asked.get(name))} asked for)"
            for name in differ
        )
        raise InputError(
            f"{config.out}: holds a run with other options: {what}; give the same, or choose another --out"
        )


def _shown(value: Any) -> str:
    """Write an option's value as on the command line."""
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "none" if value is None or not words else words


def _learned_from(out: str) -> str:
    """Return the fingerprint of the dataset that the run at `out` has learned from; "" if it has no state."""
    # The reader's own fingerprint begins with the dataset's; see shards.read.chip_reader.
    if not exists(join(out, STATE)):
        return ""
    with understood(join(out, STATE), START_OVER):
        return str(read_about(out)["reader"]["fingerprint"]).partition("-")[0]


def _under_names_of_now(
    old: dict[str, Any], asked: dict[str, Any], places: Iterable[str], out: str
) -> dict[str, Any]:
    """Return the options of a run with the names of now for files and folders that are the same ones."""
    folder = _began_in(str(old.get("out", "")), out)
    same = [name for name in places if _is_same(old.get(name), asked.get(name), folder)]
    return old | {name: asked[name] for name in same}


def _began_in(out_then: str, out: str) -> str:
    """Find the folder in which a run began, from what its own folder was called there; default: this one."""
    then, now = os.path.normpath(out_then), os.path.abspath(local_path(out)) if is_local(out) else ""
    is_below = out_then and is_local(out_then) and not os.path.isabs(then) and not then.startswith("..")
    return now.removesuffix(f"/{then}") if is_below and now.endswith(f"/{then}") else ""


def _is_same(then: Any, now: Any, folder: str) -> bool:
    """Tell whether two names, the first one as in `folder`, are of one file or folder of this machine."""
    if not (isinstance(then, str) and isinstance(now, str) and then and now):
        return False
    if not (is_local(then) and is_local(now)):
        return False
    first, second = os.path.join(folder, local_path(then)), local_path(now)
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)
