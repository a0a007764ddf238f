"""Trainings that fail at a step of ours, and two Ray workers with GPUs that are none.

Run as a program in an empty folder: it trains on a cluster of its own, and prints what came of it as JSON.
With --bad-luck-first a training fails once more, elsewhere, and nothing else is tried.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.model.regressor import Regressor


@contextmanager
def failing_at(steps: int, fail: Callable[[], object]) -> Iterator[None]:
    """Call `fail` in the forward pass of this many steps from now, in any training of this process."""
    left = steps

    def before(module: nn.Module, inputs: Any) -> None:
        nonlocal left
        # A step's arithmetic is counted on tensors without data.
        is_step = isinstance(module, Regressor) and module.training and torch.is_grad_enabled()
        if is_step and not inputs[0].is_meta:
            left -= 1
            if left == 0:
                fail()

    handle = nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def take_too_much() -> object:
    """Ask for more memory than any machine addresses: an allocation that really fails."""
    return torch.empty(2**50)


def main() -> None:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from regressors import local_backbone, small_config, write_dataset

    from shards.errors import InputError
    from trainer.commands.train import train
    from trainer.commands.train_on_ray import launch, run_on_workers
    from trainer.devices.choice_on_ray import chosen_on_ray

    dataset = write_dataset(Path("chips").absolute(), chips=24)
    backbone = local_backbone(Path("backbone").absolute())
    told: dict[str, Any] = {}

    def config_of(name: str, **options: Any) -> TrainConfig:
        out = str(Path(name).absolute())
        return small_config(dataset, backbone, out, workers=1, checkpoint_steps=2, resume="auto", **options)

    def attempts_of(name: str) -> list[str]:
        return sorted(path.name for path in Path(name).glob("attempt-*"))

    def outcome(name: str, call: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            call()
        except Exception as caught:  # noqa: BLE001  it is what is looked at
            error = caught
        files = sorted(path.name for path in Path(name).glob("fail*.json"))
        told[name] = {
            "kind": type(error).__name__,
            "text": str(error),
            "notes": getattr(error, "__notes__", []),
            "attempts": len(attempts_of(name)),
            "left": files,
        }

    def failing(name: str, steps: list[int], memory: bool = False) -> None:
        """A run of six steps that fails in the given step of each attempt, and not in a later attempt."""

        def attempt(config: TrainConfig, ranks: Any, notice: Any) -> None:
            from failing_trainings import failing_at, take_too_much

            here = Path(config.out)
            here.mkdir(exist_ok=True)
            number = len(list(here.glob("attempt-*")))
            (here / f"attempt-{number}").touch()

            def fail() -> object:
                if memory:
                    return take_too_much()
                raise ValueError("the cat sat on the keyboard")

            with failing_at(steps[number] if number < len(steps) else 10**9, fail):
                train(config, ranks, notice)

        outcome(name, lambda: run_on_workers(config_of(name), attempt, "cpu"))

    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    # Six steps in two epochs, and states are saved after steps 2, 3 and 4.
    if "--bad-luck-first" in sys.argv:
        failing("again", [3, 2, 1, 1])  # at steps 3, 4 and 4
        print(json.dumps(told))
        return
    failing("memory", [3], memory=True)
    failing("again", [3, 1, 1])  # at steps 3 and 3
    for name, arguments in {
        "too few": ("auto", 3),
        "shares": ("auto", 3, 0.6),
        "unusable": ("auto", 2),
        "cpu": ("cpu", 2),
        "no share": ("auto", 9, 0.0),
    }.items():
        try:
            choice = chosen_on_ray(*arguments)  # type: ignore[arg-type]
            told[name] = [choice.device, choice.share, choice.remark]
        except InputError as error:
            told[name] = str(error)
    outcome("too-few-run", lambda: launch(config_of("too-few-run").with_options(workers=3)))
    print(json.dumps(told))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
