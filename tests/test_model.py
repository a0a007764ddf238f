"""The regressor: stored pixels in, metres out.

- With the same parameters it computes what the notebook's regressor computes, and has the same tensors.
- The first layer is the formula that the statistics stand for; a pixel without a measurement becomes 0.
- Bands are chosen by name; a band that the backbone does not know starts from a named one.
- With group norm a chip's height does not depend on the batch; tokens are repeatable in train mode too.
- Any sides that are multiples of the patch work; before training the output is near the 90th percentile.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from regressors import (
    BACKBONE,
    BANDS,
    NODATA,
    SCHEMA,
    local_backbone,
    notebook_regressor,
    reference,
    small_regressor,
    statistics_of,
    stored_images,
)
from safetensors.torch import load_file, save_file

from shards.errors import InputError
from shards.schema import Schema
from trainer.backbone import build_backbone, new_backbone, patch_weights_for
from trainer.model import DecoderConfig, Regressor
from trainer.normalise import Normalise


def images(*sides: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(stored_images(count, *sides, seed=seed))


# --- the notebook's regressor ---


def test_the_same_parameters_give_the_notebooks_tokens_and_heights() -> None:
    golden = np.load(reference("notebook_regressor_golden.npz"))
    regressor = notebook_regressor(statistics_of({}))
    pixels_BCHW = torch.from_numpy(golden["pixels"])
    with torch.inference_mode():
        np.testing.assert_allclose(regressor.tokens(pixels_BCHW), golden["tokens"], rtol=0, atol=1e-4)
        heights_BHW = regressor.heights(pixels_BCHW)
    np.testing.assert_allclose(heights_BHW, golden["heights_unclamped"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(heights_BHW.clamp(min=0), golden["heights"], rtol=0, atol=1e-4)


# --- normalisation ---


def test_normalisation_is_clamp_scale_and_z_score_by_hand() -> None:
    schema = Schema(("blue", "green", "red", "nir"), chip_size=2)
    statistics = statistics_of({"red": (1000.0, 0.5, 0.25), "nir": (2000.0, 0.25, 0.125)})
    image_BCHW = torch.full((1, 4, 1, 5), 77, dtype=torch.int16)
    image_BCHW[0, 2, 0] = torch.tensor([500, 1000, 3000, -20, 0])
    image_BCHW[0, 3, 0] = torch.tensor([500, 1000, 3000, -20, NODATA])
    pixels_BCHW, valid_BHW = Normalise(schema, ("nir", "red"), statistics)(image_BCHW)
    assert pixels_BCHW.dtype == torch.float32
    # nir: 500 / 2000 = 0.25 -> 0;  1000 / 2000 = 0.5 -> 2;  3000 is clamped to 1 -> 6;  -20 to 0 -> -2.
    assert pixels_BCHW[0, 0, 0].tolist() == [0.0, 2.0, 6.0, -2.0, 0.0]
    assert pixels_BCHW[0, 1, 0].tolist() == [0.0, 2.0, 2.0, -2.0, -2.0]
    assert valid_BHW[0, 0].tolist() == [True, True, True, True, False]


def test_nodata_of_a_band_that_is_not_used_does_not_matter() -> None:
    image_BCHW = images(16, 16)
    image_BCHW[0, 0, 0, 0] = NODATA
    image_BCHW[0, 1, 0, 1] = NODATA
    _, valid_BHW = Normalise(SCHEMA, BANDS, statistics_of({}))(image_BCHW)
    assert (~valid_BHW).nonzero().tolist() == [[0, 0, 1]]


def test_without_a_nodata_value_every_number_is_a_measurement() -> None:
    schema = replace(SCHEMA, nodata=None)
    image_BCHW = torch.full((1, 4, 1, 1), NODATA, dtype=torch.int16)
    assert Normalise(schema, BANDS, statistics_of({}))(image_BCHW)[1].all()
    missing_BCHW = image_BCHW.float() * torch.nan
    pixels_BCHW, valid_BHW = Normalise(schema, BANDS, statistics_of({}))(missing_BCHW)
    assert not valid_BHW.any()
    assert (pixels_BCHW == 0).all()


def test_a_constant_band_becomes_zeros() -> None:
    statistics = statistics_of({"nir": (100.0, 0.5, 0.0)})
    pixels_BCHW, _ = Normalise(SCHEMA, ("nir",), statistics)(torch.full((1, 4, 2, 2), 50, dtype=torch.int16))
    assert (pixels_BCHW == 0).all()


def test_bands_are_chosen_by_name_whatever_their_stored_order() -> None:
    image_BCHW, statistics = images(16, 16), statistics_of({"red": (900.0, 0.4, 0.2)})
    other_order = ("nir", "blue", "red", "green")
    other_BCHW = image_BCHW[:, list(SCHEMA.band_positions(other_order))]
    ours, _ = Normalise(SCHEMA, BANDS, statistics)(image_BCHW)
    theirs, _ = Normalise(replace(SCHEMA, bands=other_order), BANDS, statistics)(other_BCHW)
    assert torch.equal(ours, theirs)


def test_a_band_that_is_not_stored_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="swir"):
        Normalise(SCHEMA, ("red", "swir"), statistics_of({}))


# --- backbone ---


@pytest.mark.parametrize(
    ("bands", "new_band_from", "sources"),
    [
        (("nir", "red", "green"), "red", (0, 0, 1)),
        (("blue", "green", "red", "nir"), "red", (2, 1, 0, 0)),
        (("red", "nir"), "blue", (0, 2)),
    ],
)
def test_patch_weights_come_from_the_band_of_that_name(
    tmp_path: Path, bands: tuple[str, ...], new_band_from: str, sources: tuple[int, ...]
) -> None:
    backbone = new_backbone(str(local_backbone(tmp_path, seed=3)), bands, new_band_from)
    torch.manual_seed(3)
    stored, weights = build_backbone(BACKBONE).state_dict(), backbone.state_dict()
    for channel, source in enumerate(sources):
        expected = stored["embeddings.patch_embeddings.weight"][:, source]
        assert torch.equal(weights["embeddings.patch_embeddings.weight"][:, channel], expected)
    for name in stored.keys() - {"embeddings.patch_embeddings.weight"}:
        assert torch.equal(weights[name], stored[name]), name
    tokens = backbone.eval()(torch.zeros(1, len(bands), 64, 64)).last_hidden_state
    assert tokens.shape == (1, 1 + 4 + 16, BACKBONE["hidden_size"])


def test_a_backbone_that_does_not_read_red_green_blue_is_refused() -> None:
    with pytest.raises(InputError, match="4 bands"):
        patch_weights_for(torch.zeros(8, 4, 16, 16), BANDS, "red")


def test_an_empty_folder_is_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=tmp_path.name):
        new_backbone(str(tmp_path), BANDS, "red")


def test_a_truncated_backbone_is_refused_by_name(tmp_path: Path) -> None:
    weights = local_backbone(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=tmp_path.name):
        new_backbone(str(tmp_path), BANDS, "red")


def test_a_backbone_that_lacks_a_tensor_is_not_filled_up_with_random_numbers(tmp_path: Path) -> None:
    weights = local_backbone(tmp_path) / "model.safetensors"
    stored = load_file(weights)
    del stored[next(name for name in stored if name.endswith("up_proj.weight"))]
    save_file(stored, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=tmp_path.name):
        new_backbone(str(tmp_path), BANDS, "red")


def test_a_backbone_stored_in_half_precision_computes_in_float32(tmp_path: Path) -> None:
    backbone = new_backbone(str(local_backbone(tmp_path, dtype=torch.bfloat16)), BANDS, "red")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize("training", [False, True])
def test_tokens_are_repeatable(training: bool) -> None:
    regressor = small_regressor().train(training)
    pixels_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert regressor.training is training
    assert torch.equal(regressor.tokens(pixels_BCHW), regressor.tokens(pixels_BCHW))


# --- heights ---


def test_with_group_norm_a_chips_height_does_not_depend_on_its_batch() -> None:
    regressor, chip_CHW = small_regressor(), images(64, 64, seed=1)[0]
    in_company = []
    for place, seed in ((0, 2), (3, 3)):
        batch_BCHW = images(64, 64, count=5, seed=seed)
        batch_BCHW[place] = chip_CHW
        in_company.append(regressor.predict(batch_BCHW)[0][place])
    alone_HW = regressor.predict(chip_CHW[None])[0][0]
    assert torch.equal(*in_company)
    torch.testing.assert_close(alone_HW, in_company[0], rtol=0, atol=1e-4)
    assert alone_HW.std() > 0.01, "heights that do not vary prove nothing"


def test_also_in_train_mode() -> None:
    regressor, batch_BCHW = small_regressor().train(), images(64, 64, count=3)
    together_BHW = regressor(batch_BCHW)[0].detach()
    for place in range(3):
        alone_BHW = regressor(batch_BCHW[place : place + 1])[0].detach()
        torch.testing.assert_close(alone_BHW[0], together_BHW[place], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sides", [(16, 16), (64, 32), (48, 112)])
def test_any_sides_that_are_multiples_of_the_patch(sides: tuple[int, int]) -> None:
    height_BHW, valid_BHW = small_regressor().predict(images(*sides, count=2))
    assert height_BHW.shape == valid_BHW.shape == (2, *sides)
    assert height_BHW.isfinite().all()


def test_the_decoder_gets_each_patch_where_it_is_in_the_image() -> None:
    regressor, dark_BCHW = small_regressor(), torch.zeros((1, 4, 64, 128), dtype=torch.int16)
    for layer in regressor.backbone.model.layer:
        torch.nn.init.zeros_(layer.layer_scale1.lambda1)  # no attention: what a patch shows stays there
    bright_BCHW = dark_BCHW.clone()
    bright_BCHW[:, :, 48:64, 96:112] = 1000
    features: list[torch.Tensor] = []
    regressor.decoder.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    for image_BCHW in (dark_BCHW, bright_BCHW):
        regressor.predict(image_BCHW)
    changed_HW = (features[0] != features[1]).any(1)[0]
    assert changed_HW.shape == (4, 8)
    assert changed_HW.nonzero().tolist() == [[3, 6]]


def test_predictions_are_never_below_0_but_training_sees_below_0() -> None:
    regressor, image_BCHW = small_regressor(), images(64, 64, count=4)
    unclamped_BHW, _ = regressor(image_BCHW)
    predicted_BHW, _ = regressor.predict(image_BCHW)
    assert unclamped_BHW.min() < 0
    assert torch.equal(predicted_BHW, unclamped_BHW.detach().clamp(min=0))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_before_training_heights_are_near_the_90th_percentile(norm: str) -> None:
    torch.manual_seed(0)
    statistics = statistics_of({}, height_90_m=7.5)
    decoder = DecoderConfig(norm=norm)
    regressor = Regressor(SCHEMA, BANDS, statistics, build_backbone(BACKBONE), decoder).eval()
    height_BHW, _ = regressor.predict(images(64, 64, count=2))
    assert (height_BHW - 7.5).abs().max() < 0.75


@pytest.mark.parametrize(("patch", "widths"), [(8, (16, 8, 8, 8)), (16, (16, 8, 8))])
def test_a_decoder_that_cannot_return_to_pixels_is_refused(patch: int, widths: tuple[int, ...]) -> None:
    backbone = build_backbone({**BACKBONE, "patch_size": patch})
    with pytest.raises(InputError, match="patches of 16"):
        Regressor(SCHEMA, BANDS, statistics_of({}), backbone, DecoderConfig(widths=widths))
