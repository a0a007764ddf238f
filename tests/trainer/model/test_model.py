"""The regressor: the published one's numbers, the normalisation's arithmetic, and what heights depend on.

- filled alike, ours and the regressor that users have trained so far give the same tokens and heights
- normalisation is the formula of its constants, takes bands by name, and makes nodata the mean
- a band that DINOv3 does not know starts from red; the others from their own
- with group norm a chip's height depends on no other chip; tokens are repeatable, also in train mode
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from regressors import (
    BANDS,
    SCHEMA,
    SMALL_BACKBONE,
    SMALL_DECODER,
    exact_statistics,
    local_backbone,
    notebook_regressor,
    reference,
    small_regressor,
    statistics_of,
    stored_images,
)
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.missing import missing_pixels, missing_values
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from trainer.decoders.features import DecoderConfig
from trainer.model.backbone import build_backbone, new_backbone
from trainer.model.normalise import Normalise
from trainer.model.regressor import Regressor


def images(count: int) -> torch.Tensor:
    return torch.from_numpy(stored_images(count))


def statistics_at(image_BCHW: NDArray[np.int16], height_m: float) -> Statistics:
    """Of these images, where every height is `height_m`."""
    return exact_statistics(image_BCHW, np.full(image_BCHW[:, 0].shape, height_m, np.float32))


CONSTANTS = statistics_of(
    {"nir": (1000.0, 0.5, 0.25), "red": (500.0, 0.25, 0.5), "green": (200.0, 0.75, 0.125)}
)
"""Clamp, mean and deviation of each band, all exact in float32."""


@torch.inference_mode()
def test_tokens_and_heights_are_those_of_the_published_regressor() -> None:
    expected = np.load(reference("notebook_regressor_golden.npz"))
    regressor = notebook_regressor(CONSTANTS)
    pixels_BCHW = torch.from_numpy(expected["pixels"])
    np.testing.assert_allclose(regressor.tokens(pixels_BCHW).numpy(), expected["tokens"], rtol=0, atol=1e-4)
    heights_BHW = regressor.heights(pixels_BCHW).numpy()
    np.testing.assert_allclose(heights_BHW, expected["heights_unclamped"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(heights_BHW.clip(min=0), expected["heights"], rtol=0, atol=1e-4)


def test_normalisation_is_clip_scale_and_z_score_with_nodata_at_the_mean() -> None:
    layer = Normalise(SCHEMA, BANDS, CONSTANTS)
    image_CN = np.array(
        [
            [7, 7, 7, -9999, 7],  # blue: not used
            [100, 150, 300, 50, -9999],  # green
            [0, 125, 250, 600, 500],  # red
            [500, -1, 2000, 250, -9999],  # near infrared
        ],
        np.int16,
    )
    pixels_BCHW, valid_BHW = layer(torch.from_numpy(image_CN[None, :, None]))
    expected_CN = [
        [0.0, -2.0, 2.0, -1.0, 0.0],  # nir: (clip(x / 1000) - 0.5) / 0.25
        [-0.5, 0.0, 0.5, 1.5, 1.5],  # red: (clip(x / 500) - 0.25) / 0.5
        [-2.0, 0.0, 2.0, -4.0, 0.0],  # green: (clip(x / 200) - 0.75) / 0.125
    ]
    assert pixels_BCHW.dtype == torch.float32
    np.testing.assert_array_equal(pixels_BCHW[0, :, 0].numpy(), expected_CN)
    assert valid_BHW[0, 0].tolist() == [True, True, True, True, False]


def test_normalisation_takes_nan_for_missing_and_zero_for_a_constant_band() -> None:
    schema = Schema(("red",), nodata=None)
    layer = Normalise(schema, ("red",), statistics_of({"red": (10.0, 0.5, 0.0)}))
    pixels_BCHW, valid_BHW = layer(torch.tensor([[[[5.0, float("nan"), -9999.0]]]]))
    assert pixels_BCHW.flatten().tolist() == [0.0, 0.0, -0.5]
    assert valid_BHW.flatten().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        *(("uint8", None), ("uint8", 255), ("int16", -9999), ("uint16", 65535), ("float32", None)),
        *(("float32", -9999), ("float32", 0), ("float32", 0.1), ("float32", -3.4e38)),
    ],
)
def test_what_is_missing_is_the_same_for_tensors_and_for_arrays(dtype: str, nodata: float | None) -> None:
    schema = Schema(SCHEMA.bands, dtype, nodata, chip_size=32)
    image_CHW = np.random.default_rng(0).integers(0, 100, schema.image_shape).astype(dtype)
    marks = [] if nodata is None else [nodata]
    if dtype == "float32":
        marks += [np.nan, np.inf, -np.inf, np.float32(0.1), -3.4e38, -9999]
    for place, mark in enumerate(marks):
        image_CHW[place % 4, place] = mark
    layer = Normalise(schema, BANDS, CONSTANTS)
    pixels_BCHW, valid_BHW = layer(torch.from_numpy(image_CHW)[None])
    chosen_CHW = image_CHW[list(layer.positions)]
    missing_CHW = missing_values(chosen_CHW, nodata)
    np.testing.assert_array_equal(valid_BHW[0].numpy(), ~missing_CHW.any(0))
    np.testing.assert_array_equal(layer.valid(image_CHW), valid_BHW[0].numpy())
    assert (pixels_BCHW[0].numpy()[missing_CHW] == 0).all()
    assert pixels_BCHW.isfinite().all()
    counted_CHW = missing_values(image_CHW, nodata)
    found_HW = missing_pixels(image_CHW, nodata)
    np.testing.assert_array_equal(counted_CHW.any(0), False if found_HW is None else found_HW)
    assert counted_CHW.any() == bool(marks)


def test_bands_are_chosen_by_name_whatever_the_order_in_which_they_are_stored() -> None:
    image_BCHW = images(1)
    order = [2, 0, 3, 1]
    other = Schema(tuple(SCHEMA.bands[place] for place in order))
    as_stored_BCHW, valid_BHW = Normalise(SCHEMA, BANDS, CONSTANTS)(image_BCHW)
    shuffled_BCHW, _ = Normalise(other, BANDS, CONSTANTS)(image_BCHW[:, order])
    assert torch.equal(as_stored_BCHW, shuffled_BCHW)
    assert valid_BHW.all()
    with pytest.raises(InputError, match="swir"):
        Normalise(SCHEMA, ("swir",), CONSTANTS)


def test_a_pretrained_band_keeps_its_weights_and_near_infrared_starts_from_red(tmp_path: Path) -> None:
    pretrained = DINOv3ViTModel.from_pretrained(local_backbone(tmp_path))
    red, green, blue = pretrained.embeddings.patch_embeddings.weight.detach().unbind(1)
    adapted = new_backbone(str(tmp_path), ("nir", "red", "green", "blue"), "red")
    weight_DCPP = adapted.embeddings.patch_embeddings.weight
    for place, expected in enumerate((red, red, green, blue)):
        assert torch.equal(weight_DCPP[:, place], expected)
    other = new_backbone(str(tmp_path), BANDS, "green").embeddings.patch_embeddings.weight
    assert torch.equal(other[:, 0], green)
    rest = {name: value for name, value in adapted.state_dict().items() if "embeddings.weight" not in name}
    assert rest
    assert all(torch.equal(value, pretrained.state_dict()[name]) for name, value in rest.items())
    with torch.inference_mode():
        assert adapted.eval()(torch.zeros(1, 4, 64, 64)).last_hidden_state.shape == (1, 21, 32)


def test_a_backbone_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DINOv3 model"):
        new_backbone(str(tmp_path), BANDS, "red")


def test_patches_of_another_size_are_refused() -> None:
    backbone = build_backbone({**SMALL_BACKBONE, "patch_size": 8})
    with pytest.raises(InputError, match="patches of 16"):
        Regressor(SCHEMA, BANDS, CONSTANTS, backbone, SMALL_DECODER)


def test_with_group_norm_a_chips_heights_do_not_depend_on_its_neighbours() -> None:
    regressor = small_regressor()
    batch_BCHW = images(6)
    one, _ = regressor.predict(batch_BCHW[[0, 1, 2, 3]])
    other, _ = regressor.predict(batch_BCHW[[0, 4, 5, 4]])
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    regressor.train()
    with torch.no_grad():
        assert torch.equal(regressor(batch_BCHW[[0, 1]])[0][0], regressor(batch_BCHW[[0, 5]])[0][0])


def test_with_batch_norm_in_train_mode_they_do() -> None:
    regressor = small_regressor(decoder=DecoderConfig(SMALL_DECODER.widths, "batch")).train()
    batch_BCHW = images(3)
    with torch.no_grad():
        assert not torch.equal(regressor(batch_BCHW[[0, 1]])[0][0], regressor(batch_BCHW[[0, 2]])[0][0])


def test_tokens_are_repeatable_also_in_train_mode() -> None:
    regressor = small_regressor(decoder=DecoderConfig(SMALL_DECODER.widths, dropout=0.5))
    pixels_BCHW, _ = regressor.normalise(images(2))
    with torch.no_grad():
        expected = regressor.tokens(pixels_BCHW)
        regressor.train()
        assert regressor.decoder.training
        assert torch.equal(regressor.tokens(pixels_BCHW), expected)
        assert torch.equal(regressor.tokens(pixels_BCHW), expected)


def test_an_input_need_not_be_square_and_rows_are_not_columns() -> None:
    """Each patch's heights are where the patch is: the decoder alone, given one token that stands out."""
    regressor = small_regressor()
    wide_BCHW = torch.from_numpy(stored_images(1, 48, 112))
    height_BHW, valid_BHW = regressor.predict(wide_BCHW)
    assert height_BHW.shape == valid_BHW.shape == (1, 48, 112)
    pixels_BCHW, _ = regressor.normalise(wide_BCHW)
    tokens_BND = torch.zeros(1, 5 + 3 * 7, 32)
    changed_BND = tokens_BND.clone()
    changed_BND[:, 5 + 1 * 7 + 5] = torch.linspace(-3, 3, 32)
    moved_BHW = (heights_of_tokens(regressor, pixels_BCHW, changed_BND)) - heights_of_tokens(
        regressor, pixels_BCHW, tokens_BND
    )
    patches = moved_BHW[0].abs().unfold(0, 16, 16).unfold(1, 16, 16).mean((-1, -2))
    assert divmod(int(patches.argmax()), 7) == (1, 5)


@torch.inference_mode()
def heights_of_tokens(
    regressor: Regressor, pixels_BCHW: torch.Tensor, tokens_BND: torch.Tensor
) -> torch.Tensor:
    """What the decoder makes of these tokens, put in by a hook after the real backbone."""
    hook = regressor.backbone.register_forward_hook(
        lambda _module, _inputs, output: type(output)(last_hidden_state=tokens_BND)
    )
    try:
        return regressor.heights(pixels_BCHW)
    finally:
        hook.remove()


def test_predicted_heights_are_not_negative_but_the_output_can_be() -> None:
    regressor = small_regressor()
    image_BCHW = images(2)
    with torch.inference_mode():
        unclamped_BHW, _ = regressor(image_BCHW)
    assert unclamped_BHW.min() < 0 < unclamped_BHW.max()
    assert torch.equal(regressor.predict(image_BCHW)[0], unclamped_BHW.clamp(min=0))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("height_m", [0.5, 12.0])
def test_an_untrained_regressor_says_about_the_90th_percentile(norm: str, height_m: float) -> None:
    torch.manual_seed(0)
    image_BCHW = stored_images(2)
    statistics, decoder = statistics_at(image_BCHW, height_m), DecoderConfig(SMALL_DECODER.widths, norm)
    regressor = Regressor(SCHEMA, BANDS, statistics, build_backbone(SMALL_BACKBONE), decoder).eval()
    with torch.inference_mode():
        height_BHW, _ = regressor(torch.from_numpy(image_BCHW))
    assert abs(float(height_BHW.mean()) - height_m) < 0.2
    assert float(height_BHW.std()) < 0.2
