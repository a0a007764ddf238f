"""Weights from where people have them: Meta's files, the notebook's checkpoints, bands that are new.

- Meta's names give Meta's numbers, on a square and a wide image, for plain and gated blocks
- a band that is known keeps its weights, whatever the bands' number and order; a new one starts as asked
- a notebook's checkpoint, imported, predicts what the notebook's regressor predicts
- whatever is missing, unknown, of another shape or pickled is refused with one line that names it
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from regressors import (
    CHIP_SCHEMA,
    SMALL_BACKBONE,
    _filling_rule,
    notebook_regressor,
    reference,
    small_regressor,
    stored_images,
    write_dataset,
)
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, silu

from shards.errors import InputError
from shards.read.dataset import Dataset
from trainer.commands.import_weights import import_checkpoint
from trainer.config import EvaluateConfig, ImportConfig
from trainer.decoders.features import DecoderConfig
from trainer.decoders.residual import NOTEBOOK_WIDTHS
from trainer.evaluate.heights import evaluate
from trainer.model.backbone import build_backbone, new_backbone, patch_weights_for, read_weights
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.meta_weights import meta_backbone
from trainer.model.notebook_weights import notebook_backbone, notebook_decoder
from trainer.model.regressor import Regressor
from trainer.score.evaluation import REGRESSOR

RGB = ("red", "green", "blue")


# --- Meta's files ---


@pytest.fixture(scope="module")
def meta() -> dict[str, Tensor]:
    """Meta's small DINOv3 of the golden values; not to be changed by a test."""
    shapes = json.loads(reference("meta_backbone_state_dict.json").read_text())["state_dict"]
    fill = _filling_rule().fill
    values = {name: torch.from_numpy(fill(name, tuple(shape))) for name, shape in shapes.items()}
    for name in values:
        if name.endswith("bias_mask"):
            values[name] = torch.ones(288).index_fill_(0, torch.arange(96, 192), 0.0)
    values["rope_embed.periods"] = 100 ** (2 * torch.arange(4) / 8)
    return values


def saved(path: Path, values: Any) -> str:
    torch.save(values, path)
    return str(path)


def gated_blocks(values: dict[str, Tensor], inner: int = 40) -> dict[str, Tensor]:
    """The same with SwiGLU, without biases of queries, keys and values, as in ViT-7B."""
    generator = torch.Generator().manual_seed(0)
    kept = {name: value for name, value in values.items() if ".mlp." not in name and "qkv.bias" not in name}
    for block in range(3):
        for name, shape in (("w1", (inner, 96)), ("w2", (inner, 96)), ("w3", (96, inner))):
            kept[f"blocks.{block}.mlp.{name}.weight"] = torch.randn(shape, generator=generator) / 8
            kept[f"blocks.{block}.mlp.{name}.bias"] = torch.randn(shape[0], generator=generator)
    return kept


@pytest.mark.parametrize("shape", ["square", "wide"])
@torch.inference_mode()
def test_metas_file_gives_metas_tokens(meta: dict[str, Tensor], tmp_path: Path, shape: str) -> None:
    expected = np.load(reference("meta_backbone_golden.npz"))
    backbone = new_backbone(saved(tmp_path / "dinov3_vit.pth", meta), RGB, "red")
    tokens_BND = backbone(torch.from_numpy(expected[f"{shape}_pixels"])).last_hidden_state.numpy()
    parts = {"cls": tokens_BND[:, 0], "storage": tokens_BND[:, 1:5], "patches": tokens_BND[:, 5:]}
    for name, part in parts.items():
        wanted = expected[f"{shape}_{name}"].reshape(part.shape)
        np.testing.assert_allclose(part, wanted, rtol=0, atol=1e-5, err_msg=name)


def test_the_shape_follows_from_the_tensors_alone(meta: dict[str, Tensor]) -> None:
    arguments = json.loads(reference("meta_backbone_state_dict.json").read_text())["arguments"]
    config = meta_backbone(meta).config
    assert (config.hidden_size, config.num_hidden_layers) == (arguments["embed_dim"], arguments["depth"])
    assert config.num_attention_heads == arguments["num_heads"]
    assert config.num_register_tokens == arguments["n_storage_tokens"]
    assert config.intermediate_size == arguments["ffn_ratio"] * arguments["embed_dim"]
    assert config.rope_theta == arguments["pos_embed_rope_base"]
    assert (config.query_bias, config.key_bias, config.value_bias) == (True, False, True)


@torch.inference_mode()
def test_gated_blocks_compute_swiglu_and_need_no_biases(meta: dict[str, Tensor]) -> None:
    values = gated_blocks(meta)
    backbone = meta_backbone(values)
    assert not any((backbone.config.query_bias, backbone.config.key_bias, backbone.config.value_bias))
    tokens_BND = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1))
    w1, w2, w3 = (
        [values[f"blocks.2.mlp.{name}.{part}"] for part in ("weight", "bias")] for name in ("w1", "w2", "w3")
    )
    expected_BND = linear(silu(linear(tokens_BND, *w1)) * linear(tokens_BND, *w2), *w3)
    torch.testing.assert_close(backbone.model.layer[2].mlp(tokens_BND), expected_BND)


@torch.inference_mode()
def test_a_mask_of_biases_is_obeyed_wherever_it_is_zero(meta: dict[str, Tensor]) -> None:
    """In the published files masks and biases are zero throughout (facebookresearch/dinov3, issue 195)."""
    pixels_BCHW = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    masked = {n: torch.zeros_like(v) if n.endswith("bias_mask") else v for n, v in meta.items()}
    biasless = {n: torch.zeros_like(v) if n.endswith("qkv.bias") else v for n, v in meta.items()}
    unmasked = {n: torch.ones_like(v) if n.endswith("bias_mask") else v for n, v in meta.items()}
    tokens = [meta_backbone(v)(pixels_BCHW).last_hidden_state for v in (meta, masked, biasless)]
    assert torch.equal(tokens[1], tokens[2])
    assert not torch.equal(tokens[0], tokens[1])
    with_key_bias = meta_backbone(unmasked)
    assert with_key_bias.config.key_bias
    # A bias of all keys alike does not move attention, save through the rotation of the patches.
    assert not torch.equal(with_key_bias(pixels_BCHW).last_hidden_state, tokens[0])


def test_half_precision_and_rounded_periods_are_understood(meta: dict[str, Tensor]) -> None:
    backbone = meta_backbone({name: value.bfloat16() for name, value in meta.items()})
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert backbone.config.rope_theta == 100
    # Two heads of 48 numbers instead of six of 16; bfloat16 rounds their last period to 68.0 from 68.1.
    periods = (100 ** (torch.arange(12) / 12)).bfloat16()
    assert float(periods[-1]) != pytest.approx(100 ** (11 / 12), rel=1e-4)
    config = meta_backbone({**meta, "rope_embed.periods": periods}).config
    assert (config.rope_theta, config.num_attention_heads) == (100, 2)


def test_a_teacher_of_a_training_run_is_unwrapped(meta: dict[str, Tensor]) -> None:
    teacher = {f"backbone.{name}": value for name, value in meta.items()}
    wrapped = {"teacher": {**teacher, "dino_head.mlp.0.weight": torch.zeros(2, 2)}}
    for ours, theirs in zip(
        meta_backbone(wrapped).parameters(), meta_backbone(meta).parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_no_two_weights_share_their_memory(meta: dict[str, Tensor], tmp_path: Path) -> None:
    """In Meta's file the weights of queries, keys and values are rows of one tensor."""
    backbone = new_backbone(saved(tmp_path / "dinov3_vit.pth", meta), RGB, "red")
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    written = backbone.model.layer[0].attention.q_proj.weight
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with torch.no_grad():
        written.zero_()
    changed = [name for name, value in backbone.state_dict().items() if not torch.equal(before[name], value)]
    assert changed == ["model.layer.0.attention.q_proj.weight"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm.weight": None}, "norm.weight is missing"),
        ({"blocks.1.attn.qkv.weight": None}, "blocks.1.attn.qkv.weight is missing"),
        ({"rope_embed.periods": None}, "rope_embed.periods is missing"),
        ({"cls_norm.weight": torch.ones(96)}, "cls_norm.weight is unknown"),
        (
            {"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1), "d": torch.ones(1)},
            "a .*b .*c .*1 more",
        ),
        ({"norm.bias": torch.ones(95)}, r"norm.bias has shape \(95,\), not \(96,\)"),
        ({"patch_embed.proj.weight": torch.ones(96, 4, 16, 16)}, "4 bands"),
        ({"rope_embed.periods": torch.tensor([1.0, 2.0, 3.0, 90.0])}, "powers of one base"),
        ({"rope_embed.periods": torch.full((4,), torch.nan)}, "powers of one base"),
        ({"rope_embed.periods": torch.ones(5)}, "5 rotary periods"),
        ({"blocks.99.norm1.weight": torch.ones(96)}, "blocks go up to 99"),
        (
            {"blocks.0.attn.qkv.bias_mask": torch.full((288,), torch.nan)},
            "blocks.0.attn.qkv.bias is not finite",
        ),
        ({"epoch": 3}, "epoch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_tensors_are_refused_by_name(
    meta: dict[str, Tensor], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    values = {name: value for name, value in {**meta, **changes}.items() if value is not None}
    url = saved(tmp_path / "other.pth", values)
    with pytest.raises(InputError, match=rf"^--backbone {url}: .*{named}") as refusal:
        new_backbone(url, RGB, "red")
    assert "\n" not in str(refusal.value)


# --- files ---


def test_what_is_no_file_of_tensors_is_refused_in_one_line(tmp_path: Path, meta: dict[str, Tensor]) -> None:
    whole = Path(saved(tmp_path / "whole.pth", meta)).read_bytes()
    contents = {
        "empty.pth": b"",
        "text.pth": b"not weights at all\n" * 9,
        "cut.pth": whole[: len(whole) // 2],
        "tensor.pth": Path(saved(tmp_path / "one.pth", torch.ones(3))).read_bytes(),
        "pickled.pth": Path(saved(tmp_path / "object.pth", {"a": SimpleNamespace()})).read_bytes(),
        "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: ") as refusal:
            read_weights(str(tmp_path / name))
        assert "\n" not in str(refusal.value)
        assert "\x1b" not in str(refusal.value)
    with pytest.raises(InputError, match=r"SimpleNamespace.*nothing is unpickled"):
        read_weights(str(tmp_path / "pickled.pth"))
    with pytest.raises(InputError, match=r"absent\.pth: no such file"):
        read_weights(str(tmp_path / "absent.pth"))


# --- bands ---


@pytest.mark.parametrize(
    "bands",
    [("nir",), ("blue", "red"), ("swir", "nir", "blue", "green", "red", "red"), ("nir", "red", "green")],
)
@pytest.mark.parametrize("new_band_from", ["red", "green", "blue", "mean"])
def test_each_band_has_its_own_weights_or_those_it_is_told(
    bands: tuple[str, ...], new_band_from: str
) -> None:
    weight_DCPP = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    known = dict(zip(RGB, weight_DCPP.unbind(1), strict=True))
    new = (
        (known["red"] + known["green"] + known["blue"]) / 3
        if new_band_from == "mean"
        else known[new_band_from]
    )
    adapted = patch_weights_for(weight_DCPP, bands, new_band_from)
    assert adapted.shape == (5, len(bands), 4, 4)
    for place, band in enumerate(bands):
        torch.testing.assert_close(adapted[:, place], known.get(band, new))
    assert patch_weights_for(weight_DCPP, RGB, new_band_from).equal(weight_DCPP)


def test_bands_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="new-band-from violet"):
        patch_weights_for(torch.ones(1, 3, 1, 1), RGB, "violet")
    with pytest.raises(InputError, match="--bands"):
        patch_weights_for(torch.ones(1, 3, 1, 1), (), "red")
    with pytest.raises(InputError, match="reads 4 bands"):
        patch_weights_for(torch.ones(1, 4, 1, 1), RGB, "red")


# --- the notebook's checkpoints ---

DECODER = DecoderConfig((16, 8, 8, 8), "batch", 0.2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("weights") / "dataset", 12, 0.25)


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Regressor:
    """As the notebook's, but small: its heads read 16 numbers each. Its batch norms have met chips."""
    regressor = small_regressor(7, dataset.statistics, DECODER).train()
    for module in regressor.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        regressor(torch.from_numpy(stored_images(4, seed=5)))
    return regressor.eval()


def by_the_notebooks_names(regressor: Regressor) -> dict[str, Tensor]:
    """The weights as the notebook with transformers 4 calls them."""
    return {
        name.replace("backbone.model.layer.", "backbone.layer.").replace("decoder.", "depth_head."): (
            value.contiguous()
        )
        for name, value in regressor.state_dict().items()
    }


def as_saved(weights: dict[str, Any], prefix: str = "", layers: str = "backbone.layer.") -> dict[str, Any]:
    """What the notebook's torch.save was given."""
    renamed = {prefix + name.replace("backbone.layer.", layers): value for name, value in weights.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 5e-5, "params": [0]}]}
    return {
        "epoch": 46,
        "model_state_dict": renamed,
        "optimizer_state_dict": optimiser,
        "best_val_loss": 1.25,
    }


@pytest.mark.parametrize(
    ("ending", "prefix", "layers"),
    [
        (".pth", "", "backbone.layer."),
        (".pth", "module.", "backbone.model.layer."),
        (".safetensors", "", "backbone.layer."),
    ],
)
def test_an_imported_checkpoint_predicts_what_the_notebook_predicts(
    small: Regressor, dataset: Dataset, tmp_path: Path, ending: str, prefix: str, layers: str
) -> None:
    path, values = tmp_path / f"best_dinov3{ending}", as_saved(by_the_notebooks_names(small), prefix, layers)
    if ending == ".pth":
        torch.save(values, path)
    else:
        save_file(values["model_state_dict"], path)
    out = str(tmp_path / "imported")
    said = import_checkpoint(ImportConfig(str(path), dataset.url, out, heads=2))
    assert out in said
    loaded = load_checkpoint(out)
    image_BCHW = torch.from_numpy(stored_images(2, 64, 96, seed=4, missing=0.01))
    for ours, theirs in zip(loaded.regressor.predict(image_BCHW), small.predict(image_BCHW), strict=True):
        assert torch.equal(ours, theirs)
    assert small.predict(image_BCHW)[0].std() > 0.01, "heights that do not vary prove nothing"
    assert (loaded.regressor.schema, loaded.regressor.decoder_config) == (CHIP_SCHEMA, DECODER)
    assert loaded.trained_on["fingerprint"] == dataset.manifest.fingerprint
    assert loaded.trained_on["imported_from"] == str(path)
    assert loaded.baselines.chips == dataset.manifest.samples("train")
    # Evaluation and prediction ask for what training writes: the score, the fingerprint and the epoch.
    evaluation = evaluate(EvaluateConfig(out, dataset.url))
    assert evaluation.scores[REGRESSOR].all.count > 0
    assert isinstance(loaded.metrics["epoch"], int)


def test_the_published_regressors_file_gives_its_heights(dataset: Dataset, tmp_path: Path) -> None:
    golden = np.load(reference("notebook_regressor_golden.npz"))
    weights = by_the_notebooks_names(notebook_regressor(dataset.statistics))
    described = json.loads(reference("notebook_regressor_state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in weights.items()} == described["state_dict"]
    url, out = saved(tmp_path / "best.pth", as_saved(weights)), str(tmp_path / "out")
    import_checkpoint(ImportConfig(url, dataset.url, out, heads=6))
    regressor = load_checkpoint(out).regressor
    assert regressor.decoder_config.widths == NOTEBOOK_WIDTHS
    with torch.inference_mode():
        heights_BHW = regressor.heights(torch.from_numpy(golden["pixels"][:1])).numpy()
    # Heights reach tens of metres, where float32 leaves a few 1e-6 after fifty convolutions.
    np.testing.assert_allclose(heights_BHW, golden["heights_unclamped"][:1], rtol=0, atol=1e-4)


def test_shapes_give_the_backbone_that_they_come_from(small: Regressor) -> None:
    gated = build_backbone({**SMALL_BACKBONE, "use_gated_mlp": True, "query_bias": False, "key_bias": True})
    for backbone in (small.backbone, gated):
        weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
        again = build_backbone(notebook_backbone(weights, heads=2))
        assert {name: value.shape for name, value in again.state_dict().items()} == {
            name: value.shape for name, value in backbone.state_dict().items()
        }
    assert again.config.hidden_act == "silu"
    assert notebook_decoder(small.state_dict()) == DECODER


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1280, 20), (4096, 32)])
def test_heads_are_those_of_the_published_backbones(width: int, heads: int) -> None:
    """embed_dim and num_heads of dinov3/hub/backbones.py; the tensors have no memory."""
    weights = {
        "backbone.embeddings.patch_embeddings.weight": torch.empty(width, 3, 16, 16, device="meta"),
        "backbone.embeddings.register_tokens": torch.empty(1, 4, width, device="meta"),
        "backbone.model.layer.0.mlp.up_proj.weight": torch.empty(8, width, device="meta"),
    }
    assert notebook_backbone(weights)["num_attention_heads"] == heads


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"depth_head.8.12.bias": None}, {}, "decoder.8.12.bias is missing"),
        ({"depth_head.0.0.weight": None}, {}, "decoder.0.0.weight is missing"),
        ({"backbone.norm.weight": None}, {}, "backbone.norm.weight is missing"),
        ({"backbone.extra": torch.ones(1)}, {}, "backbone.extra is unknown"),
        ({"classifier.weight": torch.ones(1)}, {}, "classifier.weight is neither"),
        ({"backbone.layer.77.norm1.weight": torch.ones(32)}, {}, "numbered up to 77"),
        ({"depth_head.1.0.conv1.bias": torch.ones(7)}, {}, r"decoder.1.0.conv1.bias has shape \(7,\)"),
        ({"note": "a string"}, {}, "neither tensors by name"),
        ({}, {"heads": 7}, "--heads 7"),
        ({}, {"bands": ("nir", "red", "green", "blue")}, "reads 3 bands"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_the_notebooks_is_refused_and_nothing_is_written(
    small: Regressor,
    dataset: Dataset,
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    named: str,
) -> None:
    changed = {**by_the_notebooks_names(small), **changes}
    weights = {name: value for name, value in changed.items() if value is not None}
    url = saved(tmp_path / "best.pth", as_saved(weights))
    with pytest.raises(InputError, match=rf"^{url}: .*{named}") as refusal:
        import_checkpoint(ImportConfig(url, dataset.url, str(tmp_path / "out"), **{"heads": 2, **options}))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_there_and_bands_that_are_not_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: is there already"):
        import_checkpoint(ImportConfig("absent.pth", dataset.url, str(tmp_path / "out")))
    with pytest.raises(InputError, match="no band swir"):
        import_checkpoint(ImportConfig("absent.pth", dataset.url, str(tmp_path / "new"), ("swir",)))
    with pytest.raises(InputError, match=r"absent\.pth: no such file"):
        import_checkpoint(ImportConfig("absent.pth", dataset.url, str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_only_tensors_are_imported(small: Regressor, dataset: Dataset, tmp_path: Path) -> None:
    values = {**as_saved(by_the_notebooks_names(small)), "history": SimpleNamespace()}
    url = saved(tmp_path / "best.pth", values)
    with pytest.raises(InputError, match=r"best\.pth: holds more than tensors"):
        import_checkpoint(ImportConfig(url, dataset.url, str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
