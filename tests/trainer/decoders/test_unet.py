"""The unet decoder: a U-Net where the tokens tell nothing, and more where they do."""

import pytest
import torch
from regressors import SCHEMA, SMALL_BACKBONE, statistics_of, stored_images
from torch import Tensor

from shards.errors import InputError
from trainer.decoders.features import DecoderConfig, Features
from trainer.decoders.make import new_decoder
from trainer.decoders.unet import UNetDecoder
from trainer.model.backbone import build_backbone
from trainer.model.no_backbone import shape_of_none
from trainer.model.regressor import Regressor

BANDS = ("red", "green", "blue")
WIDTHS = (16, 8, 8, 4)
TOKEN_WIDTH = 32


def unet(outputs: int = 1, depth: int = 4, norm: str = "batch") -> UNetDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(WIDTHS, norm, kind="unet", outputs=outputs)
    decoder = new_decoder(config, depth, TOKEN_WIDTH, 16, 3)
    assert isinstance(decoder, UNetDecoder)
    return decoder


def inputs(seed: int, batch: int = 2) -> tuple[Features, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patches_BDHW = torch.randn((batch, TOKEN_WIDTH, 4, 6), generator=generator)
    pixels_BCHW = torch.randn((batch, 3, 64, 96), generator=generator)
    return Features((patches_BDHW,), (patches_BDHW[:, :, 0, 0],)), pixels_BCHW


def learnt(decoder: UNetDecoder) -> UNetDecoder:
    """The decoder with an output layer that is not 0 any more."""
    torch.nn.init.normal_(decoder.head.weight)
    return decoder.eval()


def test_it_starts_at_the_mean_everywhere_and_its_slopes_are_in_deviations() -> None:
    decoder = unet()
    decoder.start_heights(7.5, 3.0, 20.0)
    height_BHW = decoder(*inputs(0))
    torch.testing.assert_close(height_BHW, torch.full_like(height_BHW, 7.5))
    height_BHW.sum().backward()
    assert decoder.head.bias is not None
    assert decoder.head.bias.grad is not None
    assert decoder.head.bias.grad.item() == pytest.approx(3.0 * height_BHW.numel())


def test_before_it_learns_tokens_change_nothing_and_then_they_can() -> None:
    decoder, (features, pixels_BCHW) = learnt(unet()), inputs(1)
    other = Features(tuple(-patches for patches in features.patches), features.classes)
    assert torch.equal(decoder(features, pixels_BCHW), decoder(other, pixels_BCHW))
    assert decoder.tokens
    decoder(features, pixels_BCHW).square().sum().backward()
    assert decoder.tokens.weight.grad is not None
    assert decoder.tokens.weight.grad.abs().max() > 0
    torch.nn.init.normal_(decoder.tokens.weight)
    assert not torch.equal(decoder(features, pixels_BCHW), decoder(other, pixels_BCHW))


def test_without_a_backbone_it_is_the_same_network_less_the_tokens() -> None:
    with_tokens, without = learnt(unet()), unet(depth=0).eval()
    weights = {name: one for name, one in with_tokens.state_dict().items() if not name.startswith("tokens")}
    without.load_state_dict(weights)
    features, pixels_BCHW = inputs(2)
    assert torch.equal(with_tokens(features, pixels_BCHW), without(Features((), ()), pixels_BCHW))


def test_logits_start_where_they_are_asked_to() -> None:
    decoder = unet(outputs=3)
    decoder.start_at(-1.0, 0.0, 2.0)
    logits_BKHW = decoder(*inputs(3))
    assert logits_BKHW.shape == (2, 3, 64, 96)
    assert logits_BKHW.mean((0, 2, 3)).tolist() == pytest.approx([-1.0, 0.0, 2.0])


def test_a_token_moves_only_what_is_near_it() -> None:
    decoder, (features, pixels_BCHW) = learnt(unet()), inputs(4)
    assert decoder.tokens
    torch.nn.init.normal_(decoder.tokens.weight)
    before_BHW = decoder(features, pixels_BCHW)
    features.patches[0][0, :, 0, 0] += 1
    change_HW = (decoder(features, pixels_BCHW) - before_BHW)[0].abs()
    assert change_HW[:16, :16].max() > 0
    assert change_HW[:, 80:].max() == 0


def test_patches_that_its_sizes_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="goes down to 1/8, and patches of 14 pixels are no multiple"):
        new_decoder(DecoderConfig(WIDTHS, kind="unet"), 2, TOKEN_WIDTH, 14, 3)
    assert new_decoder(DecoderConfig((8, 4), kind="unet"), 2, TOKEN_WIDTH, 14, 3)


def test_others_are_refused_without_a_backbone() -> None:
    with pytest.raises(InputError, match="--backbone none: the residual decoder needs tokens"):
        new_decoder(DecoderConfig(kind="residual"), 0, 4, 16, 3)


@pytest.mark.parametrize("is_there", [True, False], ids=["backbone", "none"])
def test_a_regressor_starts_at_the_mean_of_the_training_heights(is_there: bool) -> None:
    torch.manual_seed(0)
    shape = SMALL_BACKBONE if is_there else shape_of_none(8, 3)
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)), height_m=4.0)
    config = DecoderConfig(WIDTHS, "batch", kind="unet")
    regressor = Regressor(SCHEMA, BANDS, statistics, build_backbone(shape), config).eval()
    height_BHW, _ = regressor.predict(torch.from_numpy(stored_images(2, 64, 96)))
    assert height_BHW.shape == (2, 64, 96)
    assert statistics.height
    torch.testing.assert_close(height_BHW, torch.full_like(height_BHW, statistics.height.mean))
    assert bool(list(regressor.backbone.parameters())) == is_there
