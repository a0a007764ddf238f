"""Hidden patches: who they are, their loss from its formula, and that what learns from them learns."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pretrainings import config_of
from regressors import CHIP_SCHEMA
from stopped_runs import Stopper

from shards.read.dataset import Dataset
from trainer.commands.pretrain import new_encoder, new_fit
from trainer.data.feed import feed
from trainer.data.step_inputs import StepKey
from trainer.devices.ranks import Ranks
from trainer.pretrain.distillation import next_centre
from trainer.pretrain.ibot import Hidden, draw_hiding, hidden_of, hidden_patches, patch_sums
from trainer.pretrain_config import DinoOptions

TILES, PATCHES, K = 9, 16, 6
OPTIONS = DinoOptions(ibot=1.0, ibot_tiles=0.4, ibot_mask=(0.1, 0.5))
GENERATOR = np.random.default_rng(1)


def hidden(key: StepKey, view: int, valid_BP: NDArray[np.bool_]) -> NDArray[np.bool_]:
    noise_BP, share_B = draw_hiding(len(valid_BP), PATCHES, OPTIONS, key, view)
    return hidden_patches(noise_BP, share_B, valid_BP)


def test_some_tiles_hide_some_of_their_valid_patches() -> None:
    valid_BP = GENERATOR.random((TILES, PATCHES)) < 0.7
    valid_BP[2] = False
    shares, chosen_of_step = [], set()
    for step in range(60):
        views = [hidden(StepKey(0, 0, step), view, valid_BP) for view in range(2)]
        _, share_B = draw_hiding(TILES, PATCHES, OPTIONS, StepKey(0, 0, step), 0)
        chosen = np.flatnonzero(share_B)
        assert len(chosen) == 4  # 0.4 x 9, rounded up
        chosen_of_step.add(tuple(chosen))
        for hidden_BP in views:
            assert not (hidden_BP & ~valid_BP).any()
            assert set(np.flatnonzero(hidden_BP.any(1))) <= {*chosen}
            assert (hidden_BP.sum(1) <= 0.5 * valid_BP.sum(1)).all()
            shares += (hidden_BP.sum(1) / valid_BP.sum(1).clip(min=1))[chosen].tolist()
        assert not np.array_equal(*views)
    assert len(chosen_of_step) > 20
    assert (
        0.15 < float(np.mean(shares)) < 0.3
    )  # 0.1 to 0.5, rounded down to whole patches, and a tile without


def test_the_host_hides_the_patches_that_a_device_hid_before() -> None:
    """A run that began when patches were chosen by torch goes on with the same ones."""
    for step in range(40):
        is_valid_BP = GENERATOR.random((TILES, PATCHES)) < 0.7
        noise_BP, share_B = draw_hiding(TILES, PATCHES, OPTIONS, StepKey(0, 0, step), 0)
        noise, share, valid = map(torch.from_numpy, (noise_BP, share_B, is_valid_BP))
        place_BP = torch.where(valid, noise, noise + 1).argsort(dim=1, stable=True).argsort(dim=1)
        count_B = torch.minimum((share * valid.sum(1)).floor(), valid.sum(1) - 1)
        expected = place_BP < count_B[:, None]
        assert np.array_equal(hidden_patches(noise_BP, share_B, is_valid_BP), expected.numpy())


def test_one_valid_patch_at_least_is_seen() -> None:
    noise, valid = GENERATOR.random((3, 16), np.float32), np.ones((3, 16), np.bool_)
    valid[1, 1:], valid[2] = False, False
    hidden = hidden_patches(noise, np.ones(3, np.float32), valid)  # as float32, a share just below 1 is 1
    assert hidden.sum(1).tolist() == [15, 0, 0]


def test_the_loss_is_the_mean_over_crops_of_the_mean_over_their_hidden_patches() -> None:
    """Worked out patch by patch; pieces of tiles add up to the whole."""
    hidden_VBP, here = GENERATOR.random((2, TILES, PATCHES)) < 0.3, torch.device("cpu")
    hidden_VBP[:, 3], hidden_VBP[1, 4] = False, False
    targets_VBPK = GENERATOR.dirichlet(np.ones(K), (2, TILES, PATCHES))
    scores_VBPK = GENERATOR.uniform(-1, 1, (2, TILES, PATCHES, K))
    total, crops = 0.0, 0
    for crop in np.ndindex(2, TILES):
        places = np.flatnonzero(hidden_VBP[crop])
        powers_MK = np.exp(scores_VBPK[crop][places] / 0.1)
        logs_MK = np.log(powers_MK / powers_MK.sum(1, keepdims=True))
        if len(places):
            total -= (targets_VBPK[crop][places] * logs_MK).sum(1).mean()
            crops += 1
    targets_MK, scores_MK = (torch.tensor(values)[hidden_VBP] for values in (targets_VBPK, scores_VBPK))
    whole = patch_sums(targets_MK, scores_MK, Hidden.of(hidden_VBP.reshape(-1, PATCHES), here), 0.1)
    assert whole.tolist() == pytest.approx([total, crops], rel=1e-5)
    added = torch.zeros(2, dtype=torch.float64)
    for tiles in (slice(0, 4), slice(4, 5), slice(5, 9)):
        rows_M = hidden_of(hidden_VBP, tiles)
        hidden = Hidden.of(hidden_VBP[:, tiles].reshape(-1, PATCHES), here)
        added += patch_sums(targets_MK[rows_M], scores_MK[rows_M], hidden, 0.1)
    torch.testing.assert_close(added, whole)


def test_the_student_does_not_see_what_is_hidden(dataset: Dataset) -> None:
    """Pixels of hidden patches change nothing, those of others do."""
    encoder = new_encoder(config_of(dataset, "ibot"), dataset)
    torch.nn.init.normal_(encoder.backbone.embeddings.mask_token)
    pixels_BCHW = torch.randn(2, len(encoder.bands), 32, 32, generator=torch.Generator().manual_seed(0))
    hidden_BN = torch.zeros(2, 16, dtype=torch.bool)
    hidden_BN[0, 5] = True
    changed = pixels_BCHW.clone()
    changed[:, :, 8:16, 8:16] += 1  # patch 5 of a 4 x 4 grid
    seen, also = encoder(pixels_BCHW, hidden_BN=hidden_BN), encoder(changed, hidden_BN=hidden_BN)
    assert torch.equal(seen[0], also[0])
    assert not torch.equal(seen[1], also[1])
    assert not torch.equal(seen[0], encoder(pixels_BCHW)[0])
    torch.testing.assert_close(seen[1], encoder(pixels_BCHW)[1])


def test_what_hidden_patches_teach_is_learnt(dataset: Dataset) -> None:
    """Mask token and patch head learn, the teacher's follow, the centre moves; the losses are told."""
    config = config_of(dataset, "ibot", epochs=2, freeze_last_layer=0.0)
    fit = new_fit(config, Ranks())
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    fit.run(Stopper())
    moved = {name for name, value in fit.model.state_dict().items() if not torch.equal(value, before[name])}
    for name in ("backbone.embeddings.mask_token", "patch_head.prototypes_KD", "patch_head.layers.0.weight"):
        parts = (
            (f"student.{name}", f"teacher.{name}")
            if "mask" in name
            else (f"student_{name}", f"teacher_{name}")
        )
        assert moved.issuperset(parts), name
    assert "patch_centre_K" in moved
    assert moved >= {name for name in fit.model.changing() if "normalise" not in name}
    record, options = fit.records[-1], config.dino
    assert record["loss"] == pytest.approx(
        record["loss_dino"] + options.koleo * record["loss_koleo"] + options.ibot * record["loss_ibot"]
    )
    assert record["loss_ibot"] > 0
    assert 0 < record["patch_teacher_entropy"] < 1
    assert record["patch_prototypes_in_effect"] >= 1


def test_the_patches_centre_follows_the_teachers_scores_for_them(dataset: Dataset) -> None:
    config = config_of(dataset, "ibot", drop_path=0.0)
    fit = new_fit(config, Ranks())
    objective, model = fit.objective, fit.model
    chips = dataset.chips("train")[:4]
    (fed,) = feed(dataset.batches(chips, 4), dataset.schema, torch.device("cpu"))
    inputs = objective.inputs(fed, StepKey(0, 0, 0))
    hidden_NP = inputs.sizes[0].hidden.mask_NP
    assert len(inputs.patch_targets_MK) == int(hidden_NP.sum()) > 0
    with torch.no_grad():
        tokens_NTD = model.teacher(inputs.sizes[0].pixels_NCSS, None, inputs.sizes[0].valid_NP)
        scores_MK = model.teacher_patch_head(tokens_NTD[:, -16:][hidden_NP])
        targets_MK = torch.softmax((scores_MK - model.patch_centre_K) / 0.04, -1)
        sums_K = objective.sums(model, inputs)
    torch.testing.assert_close(inputs.patch_targets_MK, targets_MK)
    expected = next_centre(model.patch_centre_K, scores_MK.mean(0), config.dino.centre_momentum)
    objective.after_step(sums_K, 0.0)
    torch.testing.assert_close(model.patch_centre_K, expected)


def test_a_tile_without_pixels_counts_nowhere(dataset: Dataset) -> None:
    """The sums, and their gradients, are the same whatever the crops of such a tile hold."""
    fit = new_fit(config_of(dataset, "ibot", drop_path=0.0), Ranks())
    objective, chips = fit.objective, dataset.chips("train")[:4]
    (fed,) = feed(dataset.batches(chips, 4), dataset.schema, torch.device("cpu"))
    fed.image_BCHW[1] = CHIP_SCHEMA.nodata
    inputs, found = objective.inputs(fed, StepKey(0, 0, 0)), []
    for changed in (False, True):
        for crops in inputs.sizes:
            assert not crops.valid_NP.unflatten(0, (crops.views, -1))[:, 1].any()
            assert not crops.hidden.mask_NP.unflatten(0, (crops.views, -1))[:, 1].any()
            if changed:
                crops.pixels_NCSS.unflatten(0, (crops.views, -1))[:, 1] += 3.0
        sums_K = objective.sums(fit.model, inputs)
        parameters = [value for value in fit.model.parameters() if value.requires_grad]
        gradients = torch.autograd.grad(objective.value(sums_K, 0.0), parameters)
        found.append([sums_K.detach(), *gradients])
    parts = objective.layout.parts(found[0][0])
    local = inputs.sizes[1].views
    assert int(parts.classes[1]) <= (2 + 2 * local) * 3
    assert int(parts.koleo[1]) == 2 * 3
    assert 0 < int(parts.ibot[1]) <= 2 * 3
    torch.testing.assert_close(*found)


def test_without_the_loss_of_hidden_patches_nothing_is_made_for_it(dataset: Dataset) -> None:
    changing = new_fit(config_of(dataset, "dino"), Ranks()).model.changing()
    assert not {name for name in changing if "patch_head" in name or "patch_centre" in name}
    assert "student.backbone.embeddings.mask_token" not in changing
