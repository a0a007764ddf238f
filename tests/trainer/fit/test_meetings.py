"""When ranks meet in a step, and how often a piece of a batch passes forward.

- Where numbers of pixels, tiles or patches tell the slope of a loss, ranks add these up while they pass
  forward, and do not meet again before the backward pass. Another loss has them meet in between.
- Weights, losses and states are those of ranks that meet in between, bit for bit.
- So they are for pieces of a batch, which then pass forward once instead of twice.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import write_class_dataset
from gloo_ranks import in_group, run_ranks
from pretrainings import config_of, write_tiles
from regressors import local_backbone, small_config, write_dataset
from stopped_runs import Stopper, assert_equal_states

from shards.read.dataset import open_dataset
from trainer.commands import pretrain
from trainer.commands.train import new_fit
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.run_folder.state import state_of
from trainer.run_folder.state_parts import TrainingState

PIXELS = ("asymmetric", "gradient:0.1", "patch_gradient:0.1")
TILES = {"task": "tile-value", "label": "height_mean"}
COVER = {"task": "pixel-class", "dropout": 0.1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "heights": ("chips", {"loss": PIXELS, "dropout": 0.2}),
    "pixel classes": ("classes", COVER),
    "tile values": ("chips", TILES),
    "mae": ("tiles", {"method": "mae"}),
    "mae, all bands": ("tiles", {"method": "mae", "mask_groups": 0.0, "band_groups": ()}),
}
"""Trainings whose slope follows from numbers of terms."""
ON_RANKS = ("heights", "tile values", "mae")
"""Trainings that two ranks share."""
NEEDS_MORE = ("chips", {"loss": ("silog:1:0@0..0.9", "squared:0:1@0..0.9")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meetings")
    write_dataset(folder / "chips", 16)
    write_class_dataset(folder / "classes", 16)
    write_tiles(folder / "tiles")
    local_backbone(folder / "backbone")
    return folder


def fit_of(folder: Path, case: tuple[str, dict[str, Any]], ranks: Ranks, **options: Any) -> Fit:
    dataset, options = open_dataset(str(folder / case[0])), {"batch_size": 6, "epochs": 1} | case[1] | options
    if "method" in options:
        return pretrain.new_fit(config_of(dataset, options.pop("method"), probe="", **options), ranks)
    return new_fit(small_config(dataset, folder / "backbone", **options), ranks)


def in_between(fit: Fit) -> None:
    """Let nothing be known before the forward pass, so that sums decide, as always before."""
    fit.objective.known_sums = lambda inputs: None  # type: ignore[method-assign]


def trained(fit: Fit) -> tuple[list[float], TrainingState]:
    """Losses of the steps, and the state at the end."""
    noted = Stopper()
    fit.run(noted)
    return noted.losses, state_of(fit)


def passes(fit: Fit) -> list[int]:
    """Passes forward in training from now on, in a list of one number."""
    count, forward = [0], fit._forward

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        return forward(*arguments)

    fit._forward = counted
    return count


@pytest.mark.parametrize("case", CASES)
def test_pieces_pass_once_with_the_same_bits(folder: Path, case: str) -> None:
    once, twice = (fit_of(folder, CASES[case], Ranks(), accumulate=2) for _ in range(2))
    in_between(twice)
    count, count_twice = passes(once), passes(twice)
    (losses, state), (losses_twice, state_twice) = trained(once), trained(twice)
    assert 2 * count[0] == count_twice[0] > 0
    assert losses == losses_twice
    assert_equal_states(state, state_twice)


def test_pieces_pass_twice_where_the_slope_needs_all_predictions(folder: Path) -> None:
    fit = fit_of(folder, NEEDS_MORE, Ranks(), accumulate=2)
    count = passes(fit)
    losses, _ = trained(fit)
    assert count[0] == 2 * 2 * len(losses)


def test_alone_and_in_one_piece_nothing_is_asked_before(folder: Path) -> None:
    fit = fit_of(folder, CASES["heights"], Ranks())
    fit.objective.known_sums = lambda inputs: pytest.fail("asked")  # type: ignore[method-assign]
    trained(fit)


def noting(work: Callable[[list[str]], None]) -> list[str]:
    """Note when each meeting, forward and backward pass in `work` begins; gradients meet in the latter."""
    events, all_reduce, backward = list[str](), torch.distributed.all_reduce, torch.Tensor.backward
    in_backward = list[str]()

    def noted_sum(tensor: torch.Tensor, *arguments: Any, async_op: bool = False, **options: Any) -> Any:
        of_gradients = bool(in_backward)
        if not of_gradients:
            events.append("begins to meet" if async_op else "meets")
        return all_reduce(tensor, *arguments, async_op=async_op, **options)

    def noted_backward(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
        events.append("backward")
        in_backward.append("backward")
        backward(tensor, *arguments, **options)
        in_backward.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", noted_sum)
        patch.setattr(torch.Tensor, "backward", noted_backward)
        work(events)
    return events


def run_as_rank(rank: int, folder: Path, out: Path) -> None:
    def check(ranks: Ranks) -> None:
        for name, case in {**{name: CASES[name] for name in ON_RANKS}, "silog": NEEDS_MORE}.items():
            for pieces in (1, 2):
                fits = [fit_of(folder, case, ranks, accumulate=pieces) for _ in range(2)]
                in_between(fits[1])
                (events, losses, state), (events_between, losses_between, state_between) = map(meetings, fits)
                both = ["forward", "backward"] * pieces
                known = ["begins to meet", *both, "meets"]
                between = (
                    ["forward", "meets", "backward"]
                    if pieces == 1
                    else ["forward"] * pieces + ["meets", *both]
                )
                steps = len(losses)
                assert steps > 1
                assert events == (between if name == "silog" else known) * steps, (name, pieces)
                assert events_between == between * steps, (name, pieces)
                assert losses == losses_between, (name, pieces)
                assert_equal_states(state, state_between)

    in_group(rank, 2, out / "rendezvous", check)


def meetings(fit: Fit) -> tuple[list[str], list[float], TrainingState]:
    """What `noting` notes of a training, and its losses and state."""
    outcome = list[tuple[list[float], TrainingState]]()

    def work(events: list[str]) -> None:
        forward = fit._forward

        def noted(*arguments: Any) -> Any:
            events.append("forward")
            return forward(*arguments)

        fit._forward = noted
        outcome.append(trained(fit))

    return noting(work), *outcome[0]


@pytest.mark.slow
def test_two_ranks_meet_while_they_pass_forward_and_learn_the_same(folder: Path, tmp_path: Path) -> None:
    run_ranks(run_as_rank, 2, (folder, tmp_path))
