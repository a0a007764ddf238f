"""Predicts blocks on Ray workers with Ray Data. Inference's only module that imports Ray."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from inference.config import PredictConfig
from inference.predict import BlockPredictor, Predicted, Task
from inference.windows import Block, Span


def predict_on_ray(config: PredictConfig, tasks: list[Task]) -> Iterator[Predicted]:
    """Do the tasks on `config.workers` Ray workers, each with the regressor in memory."""
    import ray
    import ray.data

    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    rows = [
        {"scene": task.scene, **{k: list(v.values()) for k, v in asdict(task.block).items()}}
        for task in tasks
    ]
    blocks = ray.data.from_items(rows, override_num_blocks=max(1, min(len(rows), 4 * config.workers))).map(
        _Worker,  # type: ignore[arg-type]
        fn_constructor_args=(config,),
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_gpus=1 if use_gpu else 0,
    )
    for row in blocks.iter_rows():
        task = _task(row)
        shape = len(task.block.rows), len(task.block.columns)
        yield task, np.frombuffer(row["decimetres"], np.int16).reshape(shape)


class _Worker:
    """A `BlockPredictor` that reads and returns Ray Data's rows."""

    def __init__(self, config: PredictConfig) -> None:
        self._predictor = BlockPredictor(config)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "decimetres": self._predictor(_task(row)).tobytes()}


def _task(row: dict[str, Any]) -> Task:
    spans = (Span(*(int(edge) for edge in row[axis])) for axis in ("rows", "columns"))
    return Task(str(row["scene"]), Block(*spans))
