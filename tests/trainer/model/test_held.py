"""A backbone that does not learn is rounded once: the same bits as autocast, less memory, fewer kernels.

Checkpoints have the exact weights all the same.
"""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from dispatched import Counted
from regressors import local_backbone, small_config, small_regressor, write_dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import DINOv3ViTModel

from trainer.commands.train import new_fit, train
from trainer.config import TrainConfig
from trainer.data.feed import feed
from trainer.devices.choice import Precision
from trainer.devices.precision import MEANINGS, autocast
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.model.backbone import TINY, build_backbone
from trainer.model.class_attention import class_attention
from trainer.model.encoder import embed, encode, patch_pixels, patch_places
from trainer.model.held import held_on, hold
from trainer.model.pixel_model import PixelModel
from trainer.model.trainable import tune

CPU = torch.device("cpu")
HALVES: list[Precision] = ["bf16", "fp16"]


def backbone_of(**shape: int) -> DINOv3ViTModel:
    torch.manual_seed(0)
    return build_backbone({**TINY, "num_channels": 3, **shape}).eval().requires_grad_(False)


def pixels(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.manual_seed(1))


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(
    "shape", [{}, {"use_gated_mlp": True, "num_register_tokens": 0}], ids=["vit", "gated"]
)
def test_every_layer_has_the_bits_of_autocast(precision: Precision, shape: dict[str, int]) -> None:
    plain = backbone_of(**shape)
    held = held_on(deepcopy(plain), precision, CPU)
    assert held.model.layer[0].mlp.up_proj.weight.dtype == MEANINGS[precision].dtype
    with torch.no_grad(), autocast(precision, CPU):
        expected, found = (one(pixels(), output_hidden_states=True) for one in (plain, held))
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", HALVES)
def test_patches_alone_have_the_bits_of_autocast(precision: Precision) -> None:
    """Some are not attended to, images differ in their places, and the attention is watched."""
    plain = backbone_of()
    held = held_on(deepcopy(plain), precision, CPU)
    places_BN2 = patch_places((4, 4), CPU) * torch.tensor([1.0, 0.7, 1.3])[:, None, None]
    attended_BN = torch.rand(3, 16, generator=torch.manual_seed(2)) > 0.3
    attended_BN[:, 0] = True
    for attended in (None, attended_BN):
        found = []
        for one in (plain, held):
            with torch.no_grad(), autocast(precision, CPU), class_attention(one, (2, 4)) as watched:
                tokens_BND = encode(one, embed(one, patch_pixels(pixels(), 16)), places_BN2, attended)
            found.append([tokens_BND, watched[2], watched[4]])
        assert all(map(torch.equal, *found))


def test_sizes_may_change_from_pass_to_pass() -> None:
    """Angles are kept from block to block, and only within a pass."""
    plain = backbone_of()
    held = held_on(deepcopy(plain), "bf16", CPU)
    for side in (64, 32, 96, 64):
        image_BCHW = torch.randn(2, 3, side, side)
        with torch.no_grad(), autocast("bf16", CPU):
            assert torch.equal(*(one(image_BCHW).last_hidden_state for one in (plain, held)))


@pytest.mark.parametrize("precision", HALVES)
def test_without_autocast_it_computes_as_well(precision: Precision) -> None:
    """As the panel of sample chips does."""
    held = held_on(backbone_of(), precision, CPU)
    with torch.no_grad():
        outside = held(pixels()).last_hidden_state
        with autocast(precision, CPU):
            within = held(pixels()).last_hidden_state
    assert (outside - within).abs().max() < 0.05


def bytes_of(module: nn.Module) -> int:
    """Bytes of memory that the weights lie in, shared memory once."""
    stores = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in module.parameters()}
    return sum(store.nbytes() for store in stores.values())


@pytest.mark.parametrize("precision", HALVES)
def test_to_compute_with_alone_it_takes_half_of_the_memory(precision: Precision) -> None:
    backbone = backbone_of(hidden_size=384, intermediate_size=1536, num_hidden_layers=8)
    before = bytes_of(backbone)
    held_on(backbone, precision, CPU)
    assert bytes_of(backbone) / before == pytest.approx(0.5, abs=0.02)
    for exact in ("float32", "tf32"):
        again = backbone_of()
        before = bytes_of(again)
        held_on(again, exact, CPU)  # type: ignore[arg-type]
        assert bytes_of(again) == before


def test_rounded_weights_cannot_be_saved() -> None:
    with pytest.raises(RuntimeError, match="rounded to 16 bits and cannot be saved"):
        held_on(small_regressor(), "bf16", CPU).state_dict()


@pytest.mark.parametrize(("mode", "held"), [("frozen", 4), ("last", 3), ("lora", 0), ("all", 0)])
def test_only_what_does_not_learn_is_held_and_its_weights_stay_exact(mode: str, held: int) -> None:
    """--tune last with one block of four; an adapter learns beside every block."""
    backbone = tune(backbone_of(), mode, 1)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    learning = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    hold(backbone, "bf16", keep_exact=True)
    hold(backbone, "bf16", keep_exact=True)  # nothing is left to do
    dtypes = [block.mlp.up_proj.weight.dtype for block in backbone.model.layer]
    assert dtypes == [torch.bfloat16] * held + [torch.float32] * (4 - held)
    after = backbone.state_dict()
    assert after.keys() == before.keys()
    assert all(
        after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items()
    )
    assert [name for name, weight in backbone.named_parameters() if weight.requires_grad] == learning


def config_of(folder: Path, **options: object) -> TrainConfig:
    dataset = write_dataset(folder / "data", 24)
    return small_config(dataset, local_backbone(folder / "backbone"), **{"tune": "frozen", **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"tune": "last", "tune_blocks": 1}, {"decoder": "dpt", "decoder_widths": (8, 8, 8, 8)}],
    ids=["frozen", "last", "dpt"],
)
def test_training_has_the_same_bits_and_its_checkpoint_the_exact_weights(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, precision="bf16", epochs=1, batch_size=8, **options)
    train(config.with_options(out=str(tmp_path / "held")), Ranks())
    with monkeypatch.context() as patch:
        patch.setattr(PixelModel, "hold_frozen", lambda model, precision: None)
        train(config.with_options(out=str(tmp_path / "plain")), Ranks())
    metrics, weights = "metrics.jsonl", "epoch-0001/model.safetensors"
    for name in (metrics, weights):
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    saved = load_file(tmp_path / "held" / weights)
    original = load_file(tmp_path / "backbone" / "model.safetensors")
    frozen = [name for name in original if name.startswith("layer.0.")]
    assert frozen
    for name in frozen:
        assert torch.equal(saved[f"backbone.model.{name}"], original[name]), name
        assert saved[f"backbone.model.{name}"].dtype == torch.float32


def counted(fit: Fit) -> Counted:
    """The third step; the first ones make what is kept."""
    dataset = fit.learning.dataset
    batches = dataset.batches(fit.learning.train_chips, fit.global_batch)
    fit._wrapped.train()
    for fed, _ in zip(feed(batches, dataset.schema, CPU), range(2), strict=False):
        fit._step(fed)
    with Counted() as count:
        fit._step(fed)
    return count


def test_a_step_asks_for_fewer_kernels_than_in_float32(tmp_path: Path) -> None:
    """24 blocks of small width; before, bf16 took 1.55 times the kernels of float32 for its casts."""
    torch.manual_seed(0)
    shape = {**TINY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 24, "num_channels": 3}
    build_backbone(shape).save_pretrained(tmp_path / "deep")
    dataset = write_dataset(tmp_path / "data", 24)
    options = {"tune": "frozen", "recipe": "tiny", "decoder": "detail", "batch_size": 8}
    kernels = {}
    for precision in ("float32", "bf16"):
        config = small_config(dataset, tmp_path / "deep", precision=precision, **options)
        kernels[precision] = counted(new_fit(config, Ranks())).kernels
    assert kernels["bf16"] < kernels["float32"]
    assert kernels["bf16"] <= 700


def test_all_blocks_are_compiled_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks than torch compiles anew before it gives up (8), which it does with a warning alone."""
    compile_part = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda part: compile_part(part, backend="eager"))
    shape = {**TINY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 10, "num_channels": 3}
    build_backbone(shape).save_pretrained(tmp_path / "deep")
    dataset = write_dataset(tmp_path / "data", 16)
    config = small_config(
        dataset, tmp_path / "deep", tune="frozen", precision="bf16", decoder="linear", compile=True
    )
    torch._dynamo.reset()
    counters.clear()
    counted(new_fit(config, Ranks()))
    assert counters["stats"]["unique_graphs"] == 2  # a block and the decoder
    assert counters["frames"]["ok"] == counters["frames"]["total"]
