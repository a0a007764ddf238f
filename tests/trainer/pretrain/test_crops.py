"""Crops pass in turn: two of one size at a time, forward and backward, with the gradient of the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrainings import config_of, write_tiles
from regressors import CHIP_SCHEMA

from shards.read.dataset import Dataset, open_dataset
from trainer.commands.pretrain import new_fit
from trainer.data.feed import Fed, feed
from trainer.data.step_inputs import StepKey
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit

TILES = 6


def fit_of(dataset: Dataset, **options: Any) -> tuple[Fit, Fed]:
    """A fit and a batch; one of its tiles has no pixels, and others have holes."""
    fit = new_fit(config_of(dataset, batch_size=TILES, freeze_last_layer=0.0, **options), Ranks())
    fit.model.train()
    (fed,) = feed(dataset.batches(dataset.chips("train")[:TILES], TILES), dataset.schema, torch.device("cpu"))
    fed.image_BCHW[2] = CHIP_SCHEMA.nodata
    fed.image_BCHW[4, :, :20] = CHIP_SCHEMA.nodata
    return fit, fed


CASES: dict[str, dict[str, Any]] = {
    "dino": {"method": "dino"},
    "ibot": {"method": "ibot"},
    "without local crops": {"method": "ibot", "local_crops": 0},
    "balanced": {"method": "ibot", "centring": "sinkhorn"},
}


@pytest.mark.parametrize("whole", [True, False])
def test_the_host_knows_which_patches_are_valid_and_which_are_hidden(whole: bool, tmp_path: Path) -> None:
    """So it does in each piece. Of whole tiles every patch of a crop is valid, which it need not ask."""
    write_tiles(tmp_path, whole)
    dataset = open_dataset(str(tmp_path))
    fit = new_fit(config_of(dataset, "ibot", batch_size=TILES, global_scale=(0.05, 1.0)), Ranks())
    hidden = 0
    for fed in feed(dataset.batches(dataset.chips("train"), TILES), dataset.schema, torch.device("cpu")):
        inputs = fit.objective.inputs(fed, StepKey(0, 0, fed.batch.start))
        for some in (inputs, *inputs.pieces(2)):
            for crops in some.sizes:
                assert np.array_equal(crops.is_valid_NP, crops.valid_NP.numpy())
                assert (crops.attended_NP is None) == crops.is_valid_NP.all()
                assert np.array_equal(crops.hidden.is_hidden_NP, crops.hidden.mask_NP.numpy())
                assert len(crops.hidden.weights_M) == crops.hidden.is_hidden_NP.sum()
        hidden += len(inputs.patch_targets_MK)
        crops = inputs.sizes[0]
        taken = crops.hidden.tokens(torch.arange(crops.valid_NP.numel()).view(crops.valid_NP.shape))
        assert torch.equal(taken, crops.hidden.mask_NP.flatten().nonzero()[:, 0])
        if whole:
            assert crops.is_valid_NP.all()
    assert hidden > 0


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_of_terms_are_known_before_any_pass(dataset: Dataset, case: str) -> None:
    """A number that the slope needs is the one that the sums have in the end; so is the loss's slope."""
    fit, fed = fit_of(dataset, **CASES[case])
    objective: Any = fit.objective
    inputs = objective.inputs(fed, StepKey(0, 0, 0))
    known_K, sums_K = objective.known_sums(inputs)(), objective.sums(fit.model, inputs).detach()
    known, found = objective.layout.parts(known_K), objective.layout.parts(sums_K)
    for name in ("classes", "koleo", "ibot"):
        assert torch.equal(getattr(known, name)[1:2], getattr(found, name)[1:2]), name
    slopes = []
    for at_K in (known_K, sums_K):
        total_K = at_K.clone().requires_grad_()
        (slope_K,) = torch.autograd.grad(objective.value(total_K, 0.0), total_K)
        parts = objective.layout.parts(slope_K)
        slopes.append([part[:1] for part in parts[:3]])
    for known_1, found_1 in zip(*slopes, strict=True):
        assert torch.equal(known_1, found_1)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_pieces_in_turn_have_the_gradient_of_the_whole(dataset: Dataset, case: str, count: int) -> None:
    options = {**CASES[case]} | ({"koleo": 0.0} if count > 1 else {})
    fit, fed = fit_of(dataset, **options)
    objective: Any = fit.objective
    inputs = objective.inputs(fed, StepKey(0, 0, 0))
    parameters = {name: value for name, value in fit.model.named_parameters() if value.requires_grad}
    whole_K = objective.sums(fit.model, inputs)
    gradients = torch.autograd.grad(objective.value(whole_K, 0.0), list(parameters.values()))
    pieces = inputs.pieces(count)
    sums = fit._backward(pieces, objective.known_sums(inputs))
    torch.testing.assert_close(torch.stack(sums).sum(0), whole_K.detach(), rtol=1e-5, atol=1e-5)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        away = float((parameter.grad - gradient).norm())  # type: ignore[operator]
        assert away <= 1e-5 * max(1.0, float(gradient.norm())), name


@pytest.mark.parametrize(("count", "local", "passes"), [(1, 0, 1), (1, 3, 3), (1, 8, 5), (2, 4, 6)])
def test_a_step_passes_each_crop_once_and_two_at_a_time(
    dataset: Dataset, count: int, local: int, passes: int
) -> None:
    fit, fed = fit_of(dataset, method="dino", local_crops=local, accumulate=count)
    seen: list[int] = []
    norm = fit.model.get_submodule("student.backbone.norm")
    norm.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    fit._step(fed)
    assert len(seen) == passes
    assert sum(seen) == (2 + local) * TILES
    assert max(seen) == 2 * TILES // count


def test_a_loss_that_is_not_a_number_leaves_no_gradient(dataset: Dataset) -> None:
    """Its pieces have gone backward when that is found."""
    fit, fed = fit_of(dataset, method="ibot", on_nonfinite="skip")
    with torch.no_grad():
        fit.model.get_submodule("student_head").layers[0].bias[0] = np.nan
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    fit._step(fed)
    outcome = fit._settle()
    assert outcome
    assert np.isnan(outcome[1])
    assert fit.position.skipped == 1
    assert all(parameter.grad is None for parameter in fit.model.parameters())
    for name, value in fit.model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name
