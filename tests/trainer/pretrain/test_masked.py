"""The masked autoencoder: its loss is that of ViTMAE; what is hidden or missing has no influence."""

import numpy as np
import pytest
import torch
from regressors import SCHEMA, SMALL_BACKBONE, exact_statistics, stored_images
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from trainer.model.backbone import build_backbone
from trainer.model.encoder import Encoder, embed, patch_pixels
from trainer.pretrain.masked import Masked, normalised_patches, restoring_sums, take
from trainer.pretrain.masking import groups_of, hidden_patches, shown_count, shown_patches


def model() -> Masked:
    torch.manual_seed(0)
    image_BCHW = stored_images(3)
    statistics = exact_statistics(image_BCHW, np.ones((3, 64, 64), np.float32))
    backbone = build_backbone({**SMALL_BACKBONE, "num_channels": 4})
    return Masked(Encoder(SCHEMA, SCHEMA.bands, statistics, backbone), 24, 1).eval()


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_that_of_vitmae(normalised: bool) -> None:
    """On the same predictions, tiles and mask."""
    torch.manual_seed(1)
    config = ViTMAEConfig(
        image_size=64,
        patch_size=16,
        num_channels=5,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=24,
        norm_pix_loss=normalised,
    )
    theirs = ViTMAEForPreTraining(config)
    pixels = torch.randn(3, 5, 64, 64) * 2 + 1
    with torch.no_grad():
        found = theirs(pixels, noise=torch.rand(3, 16))
    predicted, hidden, expected = found.logits, found.mask > 0, found.loss
    assert 0 < hidden.sum() < 48
    target = patch_pixels(pixels, 16).unflatten(-1, (-1, 5))
    if normalised:
        target = normalised_patches(target, torch.ones(3, 16, 256, dtype=torch.bool))
    counts = hidden[..., None, None].expand(-1, -1, 256, -1)
    total, count = restoring_sums(predicted.unflatten(-1, (-1, 5)), target, counts)
    assert float(total / count) == pytest.approx(float(expected), rel=1e-5)


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    masked, pixels = model(), torch.randn(2, 4, 64, 64)
    valid = torch.ones(2, 16, dtype=torch.bool)
    shown = shown_patches(torch.rand(2, 16), valid, 4)
    before = masked(patch_pixels(pixels, 16), (4, 4), valid, shown)
    other = pixels.clone()
    for tile in range(2):
        for patch in set(range(16)) - set(shown[tile].tolist()):
            row, column = divmod(patch, 4)
            other[tile, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 9.0
    assert torch.equal(masked(patch_pixels(other, 16), (4, 4), valid, shown), before)
    other[0, :, 16 * int(shown[0, 0]) // 64 * 16 :, :] += 1.0
    assert not torch.equal(masked(patch_pixels(other, 16), (4, 4), valid, shown)[0], before[0])


def test_patches_alone_are_what_the_whole_tile_makes_of_them() -> None:
    masked, pixels = model(), torch.randn(2, 4, 64, 64)
    patches, valid = patch_pixels(pixels, 16), torch.ones(2, 16, dtype=torch.bool)
    shown = shown_patches(torch.rand(2, 16), valid, 5)
    backbone = masked.encoder.backbone
    of_tile = backbone.embeddings.patch_embeddings(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(backbone, take(patches, shown)), take(of_tile, shown), rtol=0, atol=1e-5)
    hidden = hidden_patches(shown, 16)
    both = torch.cat([shown, hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(16).expand(2, -1))
    restored = masked(patches, (4, 4), valid, shown)
    wanted = masked(patches, (4, 4), valid, shown, hidden)
    torch.testing.assert_close(wanted, take(restored, hidden), rtol=0, atol=1e-6)


def test_patches_with_missing_pixels_are_shown_last_and_not_attended_to() -> None:
    noise = torch.rand(1, 16)
    valid = torch.ones(1, 16, dtype=torch.bool)
    valid[0, :10] = False
    assert (shown_patches(noise, valid, 6)[0] >= 10).all()
    masked, pixels = model(), torch.randn(1, 4, 64, 64)
    shown = shown_patches(noise, valid, 8)
    missing = [patch for patch in shown[0].tolist() if patch < 10]
    assert len(missing) == 2
    before = masked(patch_pixels(pixels, 16), (4, 4), valid, shown)
    for patch in missing:
        row, column = divmod(patch, 4)
        pixels[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 5.0
    known = valid[0]
    after = masked(patch_pixels(pixels, 16), (4, 4), valid, shown)
    torch.testing.assert_close(after[0, known], before[0, known], rtol=0, atol=1e-6)


def test_missing_values_are_no_targets() -> None:
    target, predicted = torch.randn(1, 4, 12, 3), torch.randn(1, 4, 12, 3)
    present = torch.rand(1, 4, 12) < 0.6
    normal = normalised_patches(target, present)
    spoilt = torch.where(present[..., None], target, torch.tensor(1e5))
    torch.testing.assert_close(normalised_patches(spoilt, present), normal, rtol=0, atol=1e-5)
    sums = restoring_sums(predicted, normal, present[..., None])
    assert int(sums[1]) == 3 * int(present.sum())
    values = normal[0, 0][present[0, 0]]
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-3)


def test_a_share_of_the_patches_is_shown() -> None:
    assert shown_count(784, 0.75) == 196
    assert shown_count(16, 0.75) == 4
    assert groups_of(("vv_spring", "vh_spring", "vv_summer"), ("*_spring", "vv_*")) == ((0, 1), (0, 2))
