"""A run that is already at --out: whether it can be resumed with the options of now."""

from dataclasses import replace

import yaml

from shards.errors import InputError
from shards.roles import differing, flag_of
from shards.storage.objects import join, read_bytes
from trainer.config import TrainConfig
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.run_writer import CONFIG, config_yaml


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
    old = yaml.safe_load(read_bytes(join(config.out, CONFIG)))
    if ("method" in old) != isinstance(config, PretrainConfig):
        command = "pretrain" if "method" in old else "train"
        raise InputError(f"{config.out}: holds a run of treeline {command}; choose another --out")
    differ = differing(type(config), old, yaml.safe_load(config_yaml(config)))
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
