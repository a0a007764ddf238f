"""A step keeps the host from waiting for the device, and asks it for few kernels; counted on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dispatched import Counted
from regressors import local_backbone, small_config, write_dataset

from trainer.commands.train import new_fit
from trainer.data.feed import feed
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit


def counted(fit: Fit) -> Counted:
    """The second step; the first makes what is kept."""
    dataset, device = fit.learning.dataset, fit.learning.ranks.device
    batches = dataset.batches(fit.learning.train_chips, fit.global_batch)
    first, second, *_ = feed(batches, dataset.schema, device)
    fit._wrapped.train()
    fit._step(first)
    with Counted() as count:
        fit._step(second)
    return count


def training(folder: Path, **options: Any) -> Fit:
    dataset = write_dataset(folder / "data", 24)
    config = small_config(dataset, local_backbone(folder / "backbone"), **options)
    return new_fit(config, Ranks())


STEPS: dict[str, Callable[[Path], Fit]] = {
    "frozen": lambda folder: training(folder, tune="frozen", brightness=0.1),
    "all": lambda folder: training(folder, tune="all", dropout=0.2, average=0.9),
    "losses": lambda folder: training(folder, loss=("asymmetric", "gradient:0.1")),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_once_and_copies_no_numbers(name: str, tmp_path: Path) -> None:
    count = counted(STEPS[name](tmp_path))
    assert len(count.waits) <= 1, count.waits
    assert not count.copies


def test_what_waits_is_seen() -> None:
    import torch

    with Counted() as count:
        numbers = torch.arange(3.0)
        float(numbers.sum()), numbers[numbers > 1], numbers.tolist(), torch.tensor([1.0, 2.0])
    assert [wait.split()[0] for wait in count.waits] == ["_local_scalar_dense", "index", "tolist"]
    assert len(count.copies) == 1
    assert count.kernels >= 3
