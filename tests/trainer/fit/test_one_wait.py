"""A step keeps the host from waiting for the device, and asks it for few kernels; counted on a CPU.

As on a GPU the host waits once a step, when the next forward pass is queued: the device has work meanwhile.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatched import Counted
from regressors import local_backbone, small_config, write_dataset

from trainer.commands.train import new_fit
from trainer.data.feed import Fed, feed
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit


def counted(fit: Fit) -> Counted:
    """The second step, and what follows it; the first makes what is kept."""
    first, second, *_ = batches_of(fit)
    fit._step(first)
    fit._settle()
    with Counted() as count:
        fit._step(second)
        fit._settle()
    return count


def batches_of(fit: Fit) -> Iterator[Fed]:
    dataset, device = fit.learning.dataset, fit.learning.ranks.device
    fit._wrapped.train()
    return feed(dataset.batches(fit.learning.train_chips, fit.global_batch), dataset.schema, device)


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


@pytest.mark.parametrize("name", STEPS)
def test_no_wait_is_in_the_way_of_the_device(name: str, tmp_path: Path) -> None:
    """Where steps settle late; the last thing that the host waits for was queued a whole step ago."""
    fit = STEPS[name](tmp_path)
    fit.late = True
    before_forward, after_forward = list[int](), list[int]()
    forward = fit._forward

    def noted(*arguments: Any) -> Any:
        before_forward.append(len(count.waits))
        result = forward(*arguments)
        after_forward.append(len(count.waits))
        return result

    first, second, third = batches_of(fit)
    fit._forward = noted
    with Counted() as count:
        fit._step(first)  # makes what is kept, and may wait for it
        at_start = len(count.waits)
        fit._step(second)
        fit._step(third)
    assert before_forward[1:] == after_forward[1:] == [at_start, at_start + 1]
    assert len(count.waits) == at_start + 2, count.waits
    assert all(wait.startswith("tolist at transfer.py") for wait in count.waits[at_start:])


def test_what_waits_is_seen() -> None:
    import torch

    with Counted() as count:
        numbers = torch.arange(3.0)
        float(numbers.sum()), numbers[numbers > 1], numbers.tolist(), torch.tensor([1.0, 2.0])
    assert [wait.split()[0] for wait in count.waits] == ["_local_scalar_dense", "index", "tolist"]
    assert len(count.copies) == 1
    assert count.kernels >= 3
