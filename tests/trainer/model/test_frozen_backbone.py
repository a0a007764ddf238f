"""A backbone that does not learn is rounded once: the same bits as autocast, less memory, fewer kernels.

Checkpoints have the exact weights all the same; where a run's file has them, memory does not.
"""

import gc
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from dispatched import Counted
from regressors import SMALL_BACKBONE, local_backbone, small_config, small_regressor, write_dataset
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
from trainer.model.frozen_backbone import placed_on, round_once
from trainer.model.pixel_model import PixelModel
from trainer.model.trainable import tune
from trainer.weights.weights_apart import set_apart, write_apart

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
    rounded = placed_on(deepcopy(plain), precision, CPU)
    assert rounded.model.layer[0].mlp.up_proj.weight.dtype == MEANINGS[precision].dtype
    with torch.no_grad(), autocast(precision, CPU):
        expected, found = (one(pixels(), output_hidden_states=True) for one in (plain, rounded))
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", HALVES)
def test_patches_alone_have_the_bits_of_autocast(precision: Precision) -> None:
    """Some are not attended to, images differ in their places, and the attention is watched."""
    plain = backbone_of()
    rounded = placed_on(deepcopy(plain), precision, CPU)
    places_BN2 = patch_places((4, 4), CPU) * torch.tensor([1.0, 0.7, 1.3])[:, None, None]
    attended_BN = torch.rand(3, 16, generator=torch.manual_seed(2)) > 0.3
    attended_BN[:, 0] = True
    for attended in (None, attended_BN):
        found = []
        for one in (plain, rounded):
            with torch.no_grad(), autocast(precision, CPU), class_attention(one, (2, 4)) as watched:
                tokens_BND = encode(one, embed(one, patch_pixels(pixels(), 16)), places_BN2, attended)
            found.append([tokens_BND, watched[2], watched[4]])
        assert all(map(torch.equal, *found))


def test_sizes_may_change_from_pass_to_pass() -> None:
    """Angles are kept from block to block, and only within a pass."""
    plain = backbone_of()
    rounded = placed_on(deepcopy(plain), "bf16", CPU)
    for side in (64, 32, 96, 64):
        image_BCHW = torch.randn(2, 3, side, side)
        with torch.no_grad(), autocast("bf16", CPU):
            assert torch.equal(*(one(image_BCHW).last_hidden_state for one in (plain, rounded)))


@pytest.mark.parametrize("precision", HALVES)
def test_without_autocast_it_computes_as_well(precision: Precision) -> None:
    """As the panel of sample chips does."""
    rounded = placed_on(backbone_of(), precision, CPU)
    with torch.no_grad():
        outside = rounded(pixels()).last_hidden_state
        with autocast(precision, CPU):
            within = rounded(pixels()).last_hidden_state
    assert (outside - within).abs().max() < 0.05


def bytes_of(module: nn.Module) -> int:
    """Bytes of memory that the weights lie in, shared memory once."""
    stores = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in module.parameters()}
    return sum(store.nbytes() for store in stores.values())


@pytest.mark.parametrize("precision", HALVES)
def test_to_compute_with_alone_it_takes_half_of_the_memory(precision: Precision) -> None:
    backbone = backbone_of(hidden_size=384, intermediate_size=1536, num_hidden_layers=8)
    before = bytes_of(backbone)
    placed_on(backbone, precision, CPU)
    assert bytes_of(backbone) / before == pytest.approx(0.5, abs=0.02)
    for exact in ("float32", "tf32"):
        again = backbone_of()
        before = bytes_of(again)
        placed_on(again, exact, CPU)  # type: ignore[arg-type]
        assert bytes_of(again) == before


def test_rounded_weights_cannot_be_saved() -> None:
    with pytest.raises(RuntimeError, match="rounded to 16 bits and cannot be saved"):
        placed_on(small_regressor(), "bf16", CPU).state_dict()


@pytest.mark.parametrize(("mode", "frozen"), [("frozen", 4), ("last", 3), ("lora", 0), ("all", 0)])
def test_only_what_does_not_learn_is_rounded_and_its_weights_stay_exact(mode: str, frozen: int) -> None:
    """--tune last with one block of four; an adapter learns beside every block."""
    backbone = tune(backbone_of(), mode, 1)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    learning = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    round_once(backbone, "bf16", "kept")
    round_once(backbone, "bf16", "kept")  # nothing is left to do
    dtypes = [block.mlp.up_proj.weight.dtype for block in backbone.model.layer]
    assert dtypes == [torch.bfloat16] * frozen + [torch.float32] * (4 - frozen)
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
    train(config.with_options(out=str(tmp_path / "rounded")), Ranks())
    with monkeypatch.context() as patch:
        patch.setattr(PixelModel, "round_frozen", lambda model, precision: None)
        train(config.with_options(out=str(tmp_path / "plain")), Ranks())
    metrics, weights = "metrics.jsonl", "epoch-0001/model.safetensors"
    for name in (metrics, weights):
        assert (tmp_path / "rounded" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    saved = load_file(tmp_path / "rounded" / weights)
    original = load_file(tmp_path / "backbone" / "model.safetensors")
    frozen = [name for name in original if name.startswith("layer.0.")]
    assert frozen
    for name in frozen:
        assert torch.equal(saved[f"backbone.model.{name}"], original[name]), name
        assert saved[f"backbone.model.{name}"].dtype == torch.float32


def exact_bytes(folder: Path) -> int:
    """Bytes of the tensors in memory that have the values of a matrix of the backbone saved in `folder`."""
    gc.collect()
    saved = load_file(folder / "model.safetensors")
    matrices = {name: saved.pop(name) for name in list(saved) if name.endswith("_proj.weight")}
    places = {one.data_ptr() for one in matrices.values()}
    # Tests of compiled steps leave fake tensors behind, which have no memory to ask for.
    tensors = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter) and one.device == CPU]
    found = {
        one.data_ptr(): one.nbytes
        for one in tensors
        if one.data_ptr() not in places and one.dtype == torch.float32
        if any(one.shape == matrix.shape and torch.equal(one, matrix) for matrix in matrices.values())
    }
    return sum(found.values())


def test_no_exact_weights_stay_in_memory_where_a_file_of_the_run_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank has them until it has written them; checkpoints need them on the host without a file."""
    torch.manual_seed(41)  # no other test has these weights
    build_backbone(SMALL_BACKBONE).save_pretrained(tmp_path / "another")
    config = config_of(tmp_path, precision="bf16", epochs=1, batch_size=8)
    config = config.with_options(backbone=str(tmp_path / "another"))
    assert exact_bytes(tmp_path / "another") == 0
    left = {}
    for has_file in (True, False):
        with monkeypatch.context() as patch:
            if not has_file:
                patch.setattr("trainer.commands.train.set_apart", lambda model, backbone, writes: None)
            fit = new_fit(config, Ranks())
        if fit.model.apart:
            assert exact_bytes(tmp_path / "another") > 0
            write_apart(str(tmp_path / "run"), fit.model.apart)
        left[has_file] = exact_bytes(tmp_path / "another")
        state = fit.model.state_dict()
        names = [name for name in state if name.endswith("_proj.weight")]
        assert {state[name].device.type for name in names} == {"meta" if has_file else "cpu"}
        assert {state[name].dtype for name in names} == {torch.float32}
    matrices = [one for name, one in state.items() if name in names]
    assert left == {True: 0, False: sum(one.nbytes for one in matrices)}


def test_only_the_rank_that_writes_a_backbone_reads_it() -> None:
    """Weights on the device "meta" cannot be read: no checksum is computed of them."""
    regressor = small_regressor().requires_grad_(False)
    set_apart(regressor, regressor.backbone, writes=True)
    first = regressor.apart
    set_apart(regressor.to("meta"), regressor.backbone, writes=False)
    other = regressor.apart
    assert first is not None
    assert other is not None
    assert other.names == first.names == first.weights.keys()
    assert not other.weights
    with pytest.raises(TypeError, match="meta device"):
        set_apart(regressor, regressor.backbone, writes=True)


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
