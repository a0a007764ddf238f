"""A run that is already at --out: its options, and whether it can be resumed with those of now."""

from dataclasses import replace
from typing import Any

import yaml

from shards.errors import InputError, one_line
from shards.format.manifest import understood
from shards.roles import differing, flag_of
from shards.storage.objects import join, read_bytes
from trainer.config import TrainConfig
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.run_writer import CONFIG, config_yaml

DAMAGED = "copy it again, or choose another --out"
"""What to do about a file of options that cannot be understood."""


def read_options(url: str) -> dict[str, Any]:
    """Read the options that a command left in the YAML file at `url`.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        values = yaml.safe_load(read_bytes(url))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{url}: not a YAML file ({one_line(error)[:200]}); {DAMAGED}") from error
    if not isinstance(values, dict) or not values or not all(isinstance(name, str) for name in values):
        raise InputError(f"{url}: holds no options; {DAMAGED}")
    return values


def check_resumes(config: TrainConfig | PretrainConfig) -> None:
    """Refuse a run that is there, unless it is to be resumed and has the same options.

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
    differ = differing(type(config), old, yaml.safe_load(config_yaml(config)))
    with understood(join(config.out, CONFIG), DAMAGED):
        before = replace(config, workers=old.get("workers", 0)).global_batch
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
