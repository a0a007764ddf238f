"""The encoder on single patches computes what the backbone computes on images."""

import pytest
import torch
from regressors import SMALL_BACKBONE

from trainer.model.backbone import build_backbone
from trainer.model.encoder import embed, encode, patch_pixels, patch_places, patches_valid

GRID = (4, 3)


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone({**SMALL_BACKBONE, "num_channels": 5}).eval()


def pixels() -> torch.Tensor:
    return torch.randn(2, 5, 64, 48, generator=torch.Generator().manual_seed(1))


def places() -> torch.Tensor:
    return patch_places(GRID, torch.device("cpu"))[None]


def test_all_patches_at_their_places_give_the_backbones_tokens(backbone: torch.nn.Module) -> None:
    expected = backbone(pixels()).last_hidden_state
    patches_BND = embed(backbone, patch_pixels(pixels(), 16))
    of_convolution = backbone.embeddings.patch_embeddings(pixels()).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches_BND, of_convolution, rtol=0, atol=1e-5)
    assert torch.equal(encode(backbone, of_convolution, places()), expected)


def test_a_patch_that_is_not_attended_to_is_as_one_that_is_not_there(backbone: torch.nn.Module) -> None:
    patches_BND, shown = embed(backbone, patch_pixels(pixels(), 16)), torch.tensor([0, 2, 5, 6])
    attended_BN = torch.zeros(2, 12, dtype=torch.bool)
    attended_BN[:, shown] = True
    among_all = encode(backbone, patches_BND, places(), attended_BN)
    alone = encode(backbone, patches_BND[:, shown], places()[:, shown])
    prefix = 5
    torch.testing.assert_close(among_all[:, :prefix], alone[:, :prefix], rtol=0, atol=2e-6)
    torch.testing.assert_close(among_all[:, prefix + shown], alone[:, prefix:], rtol=0, atol=2e-6)
    assert (encode(backbone, patches_BND, places())[:, 0] - alone[:, 0]).abs().max() > 1e-3


def test_patches_without_half_of_their_pixels_are_not_valid() -> None:
    valid_BHW = torch.ones(1, 8, 8, dtype=torch.bool)
    valid_BHW[0, :4, :2] = False  # half of the first patch
    valid_BHW[0, :4, 4:7] = False  # three quarters of the second
    assert patches_valid(valid_BHW, 4).tolist() == [[True, False, True, True]]


def test_a_factor_scales_what_a_block_changes_for_one_image(backbone: torch.nn.Module) -> None:
    """0 skips the block, as if the backbone had none there; 1 leaves it as it is; the gradient follows."""
    patches_BND, layers = embed(backbone, patch_pixels(pixels(), 16)), backbone.model.layer
    factors_BL = torch.ones(2, len(layers))
    factors_BL[1, 0] = 0.0
    tokens_BND = encode(backbone, patches_BND, places(), factors_BL=factors_BL)
    whole_BND = encode(backbone, patches_BND, places())
    torch.testing.assert_close(tokens_BND[0], whole_BND[0], rtol=0, atol=2e-6)
    shorter = build_backbone({**SMALL_BACKBONE, "num_channels": 5}).eval()
    shorter.load_state_dict(backbone.state_dict())
    del shorter.model.layer[0]
    torch.testing.assert_close(tokens_BND[1], encode(shorter, patches_BND, places())[1], rtol=0, atol=2e-6)
    assert (tokens_BND[1] - whole_BND[1]).abs().max() > 1e-3
    skipped = encode(backbone, patches_BND, places(), factors_BL=factors_BL * 0).sum()
    weight = layers[0].mlp.down_proj.weight
    assert torch.autograd.grad(skipped, weight)[0].abs().max() == 0
