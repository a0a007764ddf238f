"""Every decoder: a height for each pixel, a known start, learning in all parts, and a way back from disk."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dispatched import Counted
from regressors import SCHEMA, SMALL_BACKBONE, statistics_of, stored_images, write_checkpoint, write_dataset
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode
from transformers import CHMv2Config, CHMv2ForDepthEstimation
from transformers.models.chmv2.modeling_chmv2 import CHMv2FeaturesToDepth

from shards.errors import InputError
from trainer.commands.import_weights import import_checkpoint
from trainer.config import EvaluateConfig, ImportConfig
from trainer.decoders.dpt import DptDecoder, head_config, resampled
from trainer.decoders.features import Decoder, DecoderConfig, Features
from trainer.decoders.make import new_decoder
from trainer.evaluate.heights import evaluate
from trainer.model.backbone import build_backbone, patch_weights_for
from trainer.model.chmv2 import chmv2_regressor
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.regressor import Regressor

BANDS = ("red", "green", "blue")
SMALL = {
    "residual": DecoderConfig((16, 8, 8, 8), kind="residual"),
    "detail": DecoderConfig((16, 8, 8, 8), kind="detail"),
    "dpt": DecoderConfig((32, 16, 16, 8), kind="dpt"),
    "linear": DecoderConfig(kind="linear"),
}
KINDS = tuple(SMALL)
ENLARGING = tuple(kind for kind in KINDS if kind != "residual")
"""The residual decoder always doubles four times, so it takes patches of 16 alone."""
WIDTH = 32


def decoder_of(kind: str, patch: int = 16, bands: int = 3, norm: str = "group") -> Decoder:
    """A small decoder with random weights, in eval mode."""
    torch.manual_seed(0)
    return new_decoder(replace(SMALL[kind], norm=norm), 4, WIDTH, patch, bands).eval()


def features_for(decoder: Decoder, pixels_BCHW: Tensor, patch: int = 16, width: int = WIDTH) -> Features:
    """Numbers like those after a backbone's final norm."""
    batch, _, rows, columns = pixels_BCHW.shape
    generator = torch.Generator().manual_seed(batch)
    of_layers = range(len(decoder.layers))
    shape = (batch, width, rows // patch, columns // patch)
    patches = tuple(torch.randn(shape, generator=generator) for _ in of_layers)
    return Features(patches, tuple(torch.randn(shape[:2], generator=generator) for _ in of_layers))


def pixels(batch: int, bands: int, rows: int, columns: int) -> Tensor:
    return torch.randn((batch, bands, rows, columns), generator=torch.Generator().manual_seed(7))


def regressor_of(config: DecoderConfig, layers: int = 2) -> Regressor:
    torch.manual_seed(0)
    backbone = build_backbone({**SMALL_BACKBONE, "num_hidden_layers": layers})
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)), height_m=4.0)
    return Regressor(SCHEMA, BANDS, statistics, backbone, config).eval()


# --- shapes ---


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (16, 48)])
@pytest.mark.parametrize("kind", KINDS)
def test_there_is_one_height_for_each_pixel(kind: str, size: tuple[int, int]) -> None:
    image_BCHW = torch.from_numpy(stored_images(2, *size))
    height_BHW, valid_BHW = regressor_of(SMALL[kind]).predict(image_BCHW)
    assert height_BHW.shape == valid_BHW.shape == (2, *size)
    assert height_BHW.isfinite().all()


@pytest.mark.parametrize("upsample", [2, 4])
@pytest.mark.parametrize("kind", ENLARGING)
def test_an_enlarged_image_has_heights_of_the_stored_size(kind: str, upsample: int) -> None:
    regressor = regressor_of(replace(SMALL[kind], upsample=upsample))
    height_BHW, _ = regressor.predict(torch.from_numpy(stored_images(1, 64, 48)))
    assert height_BHW.shape == (1, 64, 48)


@pytest.mark.parametrize("bands", [1, 4])
def test_detail_takes_any_number_of_bands(bands: int) -> None:
    decoder, pixels_BCHW = decoder_of("detail", bands=bands), pixels(2, bands, 32, 32)
    assert decoder(features_for(decoder, pixels_BCHW), pixels_BCHW).shape == (2, 32, 32)


def test_linear_puts_a_patch_where_its_token_is() -> None:
    decoder, pixels_BCHW = decoder_of("linear"), pixels(1, 3, 64, 96)
    features = features_for(decoder, pixels_BCHW)
    before_BHW = decoder(features, pixels_BCHW)
    features.patches[-1][0, :, 2, 3] += 1
    changed_HW = (decoder(features, pixels_BCHW) != before_BHW)[0]
    assert changed_HW[32:48, 48:64].all()
    assert changed_HW.sum() == 16 * 16


# --- what they depend on ---


@pytest.mark.parametrize("kind", ["residual", "detail", "dpt"])
def test_a_height_does_not_depend_on_the_batch(kind: str) -> None:
    decoder, pixels_BCHW = decoder_of(kind).train(), pixels(3, 3, 64, 64)
    features = features_for(decoder, pixels_BCHW)
    alone = Features(tuple(x[1:2] for x in features.patches), tuple(x[1:2] for x in features.classes))
    together_BHW, alone_BHW = decoder(features, pixels_BCHW), decoder(alone, pixels_BCHW[1:2])
    torch.testing.assert_close(together_BHW[1:2], alone_BHW, rtol=1e-5, atol=1e-5)


def test_with_batch_norm_it_does_while_training_and_not_afterwards() -> None:
    decoder, pixels_BCHW = decoder_of("detail", norm="batch"), pixels(3, 3, 64, 64)
    features = features_for(decoder, pixels_BCHW)
    alone = Features(tuple(x[1:2] for x in features.patches), ())
    for training in (True, False):
        decoder.train(training)
        difference_BHW = decoder(features, pixels_BCHW)[1:2] - decoder(alone, pixels_BCHW[1:2])
        assert (difference_BHW.abs().max().item() > 1e-3) == training


def test_detail_needs_the_tokens_and_the_pixels() -> None:
    decoder, pixels_BCHW = decoder_of("detail"), pixels(1, 3, 64, 64)
    features, other = features_for(decoder, pixels_BCHW), pixels_BCHW.flip(-1)
    other_tokens = Features(tuple(x.flip(-1) for x in features.patches), features.classes)
    height_BHW = decoder(features, pixels_BCHW)
    assert (decoder(other_tokens, pixels_BCHW) - height_BHW).abs().max() > 0.01 * height_BHW.std()
    assert (decoder(features, other) - height_BHW).abs().max() > 0.01 * height_BHW.std()


def test_one_changed_pixel_of_detail_changes_its_own_height_most() -> None:
    """The finest branch sees a pixel where it lies: what a token of 16 pixels cannot say."""
    decoder, pixels_BCHW = decoder_of("detail", norm="batch"), pixels(1, 3, 64, 64)
    features, changed_BCHW = features_for(decoder, pixels_BCHW), pixels_BCHW.clone()
    changed_BCHW[:, :, 21, 37] += 5
    difference_HW = (decoder(features, changed_BCHW) - decoder(features, pixels_BCHW))[0].abs()
    row, column = divmod(int(difference_HW.argmax()), 64)
    assert abs(row - 21) <= 2
    assert abs(column - 37) <= 2


# --- before and while learning ---


@pytest.mark.parametrize("height_m", [0.5, 4.0, 25.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_height_asked_for(kind: str, height_m: float) -> None:
    decoder, pixels_BCHW = decoder_of(kind), pixels(2, 3, 64, 64)
    decoder.start_at(height_m)
    height_BHW = decoder(features_for(decoder, pixels_BCHW), pixels_BCHW)
    assert height_BHW.mean().item() == pytest.approx(height_m, rel=0.2)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("kind", ["detail", "dpt", "linear"])
def test_every_parameter_learns(kind: str, norm: str) -> None:
    """Data-parallel training waits for the gradient of each of them."""
    decoder, pixels_BCHW = decoder_of(kind, norm=norm).train(), pixels(2, 3, 64, 64)
    decoder.start_at(4.0)
    height_BHW = decoder(features_for(decoder, pixels_BCHW), pixels_BCHW)
    (height_BHW * torch.randn(height_BHW.shape)).sum().backward()
    idle = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    assert {p.requires_grad for p in decoder.output.parameters()} == {True}


def test_detail_is_cheap_beside_a_large_backbone() -> None:
    with torch.device("meta"):
        decoder = new_decoder(DecoderConfig(kind="detail"), 24, 1024, 16, bands=4)
        pixels_BCHW = torch.randn(1, 4, 64, 64)
        features = Features((torch.randn(1, 1024, 4, 4),), (torch.randn(1, 1024),))
        with FlopCounterMode(display=False) as counter:
            decoder(features, pixels_BCHW)
    assert 0 < counter.get_total_flops() < 1e9


# --- dpt is CHMv2's ---


@pytest.mark.parametrize(("before", "after"), [((96, 64), (80, 80)), ((5, 7), (9, 4)), ((16, 16), (40, 23))])
def test_resampling_by_matrices_is_that_of_torch(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Forward and backward; on a GPU only the matrices have a deterministic backward pass."""
    torch.manual_seed(0)
    image_BCHW = 20 * torch.rand(3, 1, *before)
    slope_BCHW = torch.rand(3, 1, *after)
    found = []
    for resample in (
        lambda image: interpolate(image, after, mode="bilinear", antialias=True),
        lambda image: resampled(image, *after),
    ):
        leaf_BCHW = image_BCHW.clone().requires_grad_()
        made_BCHW = resample(leaf_BCHW)
        made_BCHW.backward(slope_BCHW)
        found.append((made_BCHW, leaf_BCHW.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-5)


def test_bins_are_computed_once_and_have_the_bits_of_transformers() -> None:
    decoder = decoder_of("dpt")
    assert isinstance(decoder, DptDecoder)
    scores_BKHW = torch.randn(2, 256, 5, 5, generator=torch.Generator().manual_seed(0))
    shape = head_config((32, 16, 16, 8), WIDTH)
    assert torch.equal(decoder.features_to_depth(scores_BKHW), CHMv2FeaturesToDepth(shape)(scores_BKHW))
    kernels = []
    for of_bins in (decoder.features_to_depth, CHMv2FeaturesToDepth(shape)):
        with Counted() as count:
            of_bins(scores_BKHW)
        kernels.append(count.kernels)
    assert kernels[0] < kernels[1] - 8  # no linspace, log, exp, ...
    assert not any("features_to_depth" in name for name in decoder.state_dict())


def test_dpt_has_the_sizes_of_chmv2_for_its_backbone() -> None:
    with torch.device("meta"):
        decoder = new_decoder(DecoderConfig(kind="dpt"), 24, 1024, 16)
        theirs = CHMv2ForDepthEstimation(CHMv2Config())
    ours = {name: value.shape for name, value in decoder.state_dict().items()}
    head = {f"head.{name}": value.shape for name, value in theirs.head.state_dict().items()}
    assert ours == head
    assert decoder.layers == tuple(theirs.backbone.config.out_indices)


@pytest.fixture(scope="module")
def chmv2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CHMv2ForDepthEstimation]:
    """A small random CHMv2 whose heights vary, and the folder that it is saved in."""
    folder = tmp_path_factory.mktemp("chmv2")
    model = small_chmv2()
    model.save_pretrained(folder)
    return folder, model


def small_chmv2(fusion: int = 16) -> CHMv2ForDepthEstimation:
    torch.manual_seed(0)
    of_backbone = {
        **SMALL_BACKBONE,
        "model_type": "dinov3_vit",
        "num_hidden_layers": 4,
        "out_indices": [1, 2, 3, 4],
        "apply_layernorm": True,
        "reshape_hidden_states": True,
        "return_class_token": True,
    }
    config = CHMv2Config(
        backbone_config=of_backbone,
        post_process_channels=[8, 16, 32, 64],
        fusion_hidden_size=fusion,
        head_hidden_size=8,
    )
    model = CHMv2ForDepthEstimation(config).eval()
    for module in model.head.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(module.weight, 0.0, 0.2)
    return model


def test_chmv2_gives_the_same_heights_as_in_transformers(
    chmv2: tuple[Path, CHMv2ForDepthEstimation],
) -> None:
    folder, model = chmv2
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)))
    regressor = chmv2_regressor(str(folder), SCHEMA, BANDS, statistics, "red")
    pixels_BCHW = pixels(2, 3, 64, 96)
    with torch.inference_mode():
        theirs_BHW, ours_BHW = model(pixels_BCHW).predicted_depth, regressor.heights(pixels_BCHW)
    assert theirs_BHW.std() > 0.1, "heights that do not vary would prove nothing"
    torch.testing.assert_close(ours_BHW, theirs_BHW, rtol=1e-5, atol=1e-5)


def test_chmv2_sees_a_band_where_it_stands(chmv2: tuple[Path, CHMv2ForDepthEstimation]) -> None:
    folder, model = chmv2
    bands = ("nir", "blue", "green", "red")
    statistics = statistics_of(dict.fromkeys(bands, (3000.0, 0.5, 0.2)))
    regressor = chmv2_regressor(str(folder), SCHEMA, bands, statistics, "red")
    pixels_BCHW = pixels(1, 4, 64, 64)
    pixels_BCHW[:, 0] = 0
    with torch.inference_mode():
        theirs_BHW = model(pixels_BCHW[:, [3, 2, 1]]).predicted_depth
        torch.testing.assert_close(regressor.heights(pixels_BCHW), theirs_BHW, rtol=1e-5, atol=1e-5)


def test_chmv2_is_imported_and_scored(tmp_path: Path) -> None:
    folder, model = tmp_path / "chmv2", small_chmv2()
    model.save_pretrained(folder)
    dataset, out = write_dataset(tmp_path / "chips", chips=8, val_share=0.5), str(tmp_path / "imported")
    assert "million weights" in import_checkpoint(ImportConfig(str(folder), dataset.url, out))
    regressor = load_checkpoint(out).regressor
    pixels_BCHW = pixels(1, 3, 64, 64)
    weights = model.backbone.embeddings.patch_embeddings.weight
    with torch.inference_mode():
        # Near infrared, which Meta's never saw, starts from red.
        weights.copy_(patch_weights_for(weights, ("red", "red", "green"), "red"))
        theirs_BHW = model(pixels_BCHW).predicted_depth
        torch.testing.assert_close(regressor.heights(pixels_BCHW), theirs_BHW, rtol=1e-5, atol=1e-5)
    assert evaluate(EvaluateConfig(out, dataset.url)).chips > 0
    with pytest.raises(InputError, match="absent/folder/at/all: no such folder"):
        import_checkpoint(ImportConfig("absent/folder/at/all", dataset.url, str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_a_chmv2_of_another_shape_is_refused(tmp_path: Path) -> None:
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)))
    with pytest.raises(InputError, match="no CHMv2 of transformers"):
        chmv2_regressor(str(tmp_path), SCHEMA, BANDS, statistics, "red")
    small_chmv2(fusion=24).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="fusion_hidden_size 24"):
        chmv2_regressor(str(tmp_path), SCHEMA, BANDS, statistics, "red")


def test_the_spread_is_that_of_the_bins_that_make_the_height() -> None:
    decoder, pixels_BCHW = decoder_of("dpt"), pixels(2, 3, 64, 64)
    assert isinstance(decoder, DptDecoder)
    features = features_for(decoder, pixels_BCHW)
    torch.nn.init.zeros_(decoder.output.weight)
    assert decoder.output.bias is not None
    low, high = 100, 180
    with torch.no_grad():
        decoder.output.bias.zero_()
        decoder.output.bias[[low, high]] = 1000.0
    low_m, high_m = decoder.bins_K[low].item(), decoder.bins_K[high].item()
    height_BHW, spread_BHW = decoder(features, pixels_BCHW), decoder.spread(features, pixels_BCHW)
    torch.testing.assert_close(height_BHW, torch.full_like(height_BHW, (low_m + high_m) / 2))
    torch.testing.assert_close(spread_BHW, torch.full_like(spread_BHW, (high_m - low_m) / 2))


# --- kept, or refused ---


@pytest.mark.parametrize("config", [*SMALL.values(), DecoderConfig(kind="detail", norm="batch")], ids=str)
def test_a_checkpoint_brings_each_decoder_back(config: DecoderConfig, tmp_path: Path) -> None:
    image_BCHW = torch.from_numpy(stored_images(2))
    regressor = regressor_of(config)
    torch.nn.init.normal_(regressor.decoder.output.weight, 0.0, 0.5)
    loaded = load_checkpoint(str(write_checkpoint(tmp_path / "checkpoint", regressor))).regressor
    assert loaded.decoder_config == config
    expected_BHW, _ = regressor.predict(image_BCHW)
    assert expected_BHW.std() > 0
    torch.testing.assert_close(loaded.predict(image_BCHW)[0], expected_BHW, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "patch", "message"),
    [
        (DecoderConfig(kind="best"), 16, "--decoder best: no such decoder; .* residual, detail, dpt, linear"),
        (DecoderConfig((16, 8), kind="detail"), 16, "a width for each doubling"),
        (DecoderConfig(kind="detail"), 14, "patches whose side is a power of 2"),
        (DecoderConfig((16, 8), kind="dpt"), 16, "needs 4 widths"),
        (DecoderConfig(kind="residual"), 8, "patches of 16"),
    ],
    ids=lambda value: str(getattr(value, "kind", value))[:12],
)
def test_what_cannot_be_built_is_refused(config: DecoderConfig, patch: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        new_decoder(config, 4, WIDTH, patch)
