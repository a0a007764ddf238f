"""A step keeps the host from waiting for the device, and asks it for few kernels; counted on a CPU.

As on a GPU the host waits once a step, when the next forward pass is queued: the device has work meanwhile.
Self-distillation, whose teacher follows each step, waits once more, for what tells a collapse, and once more
where tiles have holes. Scoring waits when all batches are queued.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatched import Counted
from pretrainings import config_of, write_tiles
from regressors import local_backbone, small_config, write_dataset

from shards.read.dataset import open_dataset
from trainer.commands import pretrain
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


def of_tiles(folder: Path, whole: bool, **options: Any) -> Fit:
    """A tile task, or a pre-training if there is a method, on tiles with or without holes."""
    write_tiles(folder / "tiles", whole)
    dataset = open_dataset(str(folder / "tiles"))
    if "method" in options:
        return pretrain.new_fit(config_of(dataset, options.pop("method"), **options), Ranks())
    target = {"task": "tile-value", "label": "height_mean"}
    config = small_config(dataset, local_backbone(folder / "backbone"), **target, batch_size=4, **options)
    return new_fit(config, Ranks())


STEPS: dict[str, Callable[[Path], Fit]] = {
    "frozen": lambda folder: training(folder, tune="frozen", brightness=0.1),
    "all": lambda folder: training(folder, tune="all", dropout=0.2, average=0.9),
    "muon": lambda folder: training(folder, tune="all", optimiser="muon"),
    "losses": lambda folder: training(folder, loss=("asymmetric", "gradient:0.1")),
    "pieces": lambda folder: training(folder, accumulate=2),
    "tiles": lambda folder: of_tiles(folder, whole=True),
    "tiles with holes": lambda folder: of_tiles(folder, whole=False, head="attention"),
    "mae": lambda folder: of_tiles(folder, whole=True, method="mae"),
    "mae with holes": lambda folder: of_tiles(folder, whole=False, method="mae", accumulate=2),
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

    first, second, third, *_ = batches_of(fit)
    fit._forward = noted
    with Counted() as count:
        fit._step(first)  # makes what is kept, and may wait for it
        at_start = len(count.waits)
        fit._step(second)
        fit._step(third)
    pieces = fit.options.accumulate
    of_first_piece = [counts[pieces::pieces] for counts in (before_forward, after_forward)]
    assert of_first_piece == [[at_start, at_start + 1]] * 2
    assert len(count.waits) == at_start + 2, count.waits
    assert all(wait.startswith("tolist at transfer.py") for wait in count.waits[at_start:])


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("method", ["dino", "ibot"])
def test_self_distillation_waits_for_its_step_and_for_the_signs_of_a_collapse(
    method: str, whole: bool, pieces: int, tmp_path: Path
) -> None:
    """However many crops and pieces there are; where tiles have holes, also for the patches that are left."""
    options = {"koleo": 0.0} if method == "ibot" and pieces > 1 else {}
    count = counted(of_tiles(tmp_path, whole, method=method, accumulate=pieces, **options))
    waits = [wait.split(":")[0] for wait in count.waits if not wait.startswith("numpy")]  # of what was copied
    of_holes = [] if whole else ["cpu at objective_of_dino.py"]
    assert waits == [*of_holes, "tolist at transfer.py", "tolist at distillation.py"]
    assert not count.copies


@pytest.mark.parametrize("options", [{}, {"method": "mae"}, {"method": "dino"}], ids=str)
def test_scoring_waits_when_all_batches_are_queued(options: dict[str, Any], tmp_path: Path) -> None:
    """Scoring waits as often for eight batches as for two."""
    waits = []
    for batch in (1, 4):
        fit = of_tiles(tmp_path / str(batch), whole=True, **options)
        fit.global_batch = batch
        with Counted() as count:
            fit.score(fit.learning.val_chips)
        waits.append(count.waits)
    assert fit.learning.val_chips.size > 6
    assert waits[0] == waits[1]


def test_what_waits_is_seen() -> None:
    import torch

    with Counted() as count:
        numbers = torch.arange(3.0)
        float(numbers.sum()), numbers[numbers > 1], numbers.tolist(), torch.tensor([1.0, 2.0])
        numbers.long().bincount()
    assert [wait.split()[0] for wait in count.waits] == ["_local_scalar_dense", "index", "tolist", "bincount"]
    assert len(count.copies) == 1
    assert count.kernels >= 3
