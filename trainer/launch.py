"""Starts training: in this process, or on Ray workers. The trainer's only module that imports Ray."""

import torch

from shards.storage import is_local, local_path
from trainer.config import TrainConfig
from trainer.ranks import Ranks
from trainer.train import check, train


def launch(config: TrainConfig) -> None:
    """Train with `config.workers` Ray workers, or in this process if that is 0.

    Raises:
        InputError: a mistake in the options; found before anything is started.
    """
    check(config)
    if config.workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train(config, Ranks(device=device))
    else:
        _train_on_ray(config)


def _train_on_ray(config: TrainConfig) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config},
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=use_gpu),
        # Ray's own short notes: in a place that every node reaches, as the checkpoints are.
        run_config=RunConfig(name="ray", storage_path=_whole_url(config.out)),
    )
    trainer.fit()


def _whole_url(url: str) -> str:
    return str(local_path(url).absolute()) if is_local(url) else url


def _worker(options: dict[str, TrainConfig]) -> None:
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), device)
    train(options["config"], ranks)
