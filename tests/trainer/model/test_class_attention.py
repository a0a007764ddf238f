"""Attention that is computed beside fast layers is what eager layers return."""

import pytest
import torch
from regressors import SMALL_BACKBONE
from transformers import DINOv3ViTModel

from trainer.model.backbone import build_backbone
from trainer.model.class_attention import class_attention
from trainer.model.encoder import embed, encode, patch_pixels, patch_places

GRID = (4, 3)
PREFIX = 1 + SMALL_BACKBONE["num_register_tokens"]


@pytest.fixture(scope="module")
def backbone() -> DINOv3ViTModel:
    """Queries and keys of 20 times the usual size, so that attention is far from even."""
    torch.manual_seed(0)
    made = build_backbone({**SMALL_BACKBONE, "num_hidden_layers": 3, "num_channels": 5}).eval()
    with torch.no_grad():
        for block in made.model.layer:
            for weight in (block.attention.q_proj.weight, block.attention.k_proj.weight):
                weight.mul_(20)
    return made


def pixels() -> torch.Tensor:
    return torch.randn(2, 5, 64, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_every_layer_gives_what_a_whole_eager_pass_gives(backbone: DINOv3ViTModel) -> None:
    with class_attention(backbone, (1, 2, 3)) as found:
        fast = backbone(pixels()).last_hidden_state
    eager = build_backbone(backbone.config.to_diff_dict()).eval()
    eager.load_state_dict(backbone.state_dict())
    eager.set_attn_implementation("eager")
    expected = eager(pixels(), output_attentions=True)
    torch.testing.assert_close(fast, expected.last_hidden_state, rtol=0, atol=1e-5)
    for layer in (1, 2, 3):
        attention_BKN = expected.attentions[layer - 1][:, :, 0, PREFIX:]
        assert attention_BKN.std() > 0.01, "not even"
        torch.testing.assert_close(found[layer], attention_BKN, rtol=0, atol=1e-6)


@torch.no_grad()
def test_layers_stay_fast_and_are_not_watched_afterwards(backbone: DINOv3ViTModel) -> None:
    plain = backbone(pixels()).last_hidden_state
    with class_attention(backbone, (3,)) as found:
        watched = backbone(pixels()).last_hidden_state
        assert backbone.config._attn_implementation == "sdpa"
    assert list(found) == [3]
    assert torch.equal(plain, watched)
    found.clear()
    backbone(pixels())
    assert not found


@torch.no_grad()
def test_a_patch_that_is_not_attended_to_gets_nothing_and_changes_nothing(backbone: DINOv3ViTModel) -> None:
    patches_BND = embed(backbone, patch_pixels(pixels(), 16))
    places_BN2 = patch_places(GRID, torch.device("cpu"))[None]
    shown = torch.tensor([0, 2, 5, 6, 11])
    attended_BN = torch.zeros(2, 12, dtype=torch.bool)
    attended_BN[:, shown] = True
    with class_attention(backbone, (2,)) as among_all:
        encode(backbone, patches_BND, places_BN2, attended_BN)
    with class_attention(backbone, (2,)) as alone:
        encode(backbone, patches_BND[:, shown], places_BN2[:, shown])
    assert (among_all[2][:, :, ~attended_BN[0]] == 0).all()
    torch.testing.assert_close(among_all[2][:, :, shown], alone[2], rtol=0, atol=1e-6)
