"""Starts training: in this process, or on Ray workers. The trainer's only module that imports Ray."""

from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.ranks import Ranks
from trainer.train import check, train


def launch(config: TrainConfig) -> dict[str, Any]:
    """Train with `config.workers` Ray workers, or here if that is 0; returns the record of the best epoch.

    Raises:
        InputError: a mistake in the options; found before anything is started.
    """
    check(config)
    if config.workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(config, Ranks(device=device))
    return _train_on_ray(config)


def _train_on_ray(config: TrainConfig) -> dict[str, Any]:
    import tempfile

    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    with tempfile.TemporaryDirectory(prefix="treeline-ray-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=use_gpu),
            # Checkpoints go to config.out; Ray keeps only its own short notes, here.
            run_config=RunConfig(storage_path=scratch),
        )
        result = trainer.fit()
    return dict(result.metrics or {})


def _worker(options: dict[str, TrainConfig]) -> None:
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), device)
    ray.train.report(train(options["config"], ranks))
