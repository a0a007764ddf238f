"""Blocks that stay on the host give the bits of blocks on the device, where never more than two of them lie.

- Free memory and the bytes of a backbone's rounded blocks decide; a line says so.
- predict, evaluate, embed and attention write the same bytes, in float32 and in 16 bits.
- While a block computes, the next one has been copied; each is copied once a pass.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import write_untrained
from regressors import small_regressor, stored_images, write_checkpoint, write_dataset, write_scene
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DINOv3ViTModel

from cluster import cli
from trainer.devices.choice import Precision
from trainer.devices.precision import autocast
from trainer.model import device_room
from trainer.model.backbone import TINY, build_backbone
from trainer.model.class_attention import class_attention
from trainer.model.frozen_backbone import placed_on, round_once
from trainer.model.streamed import is_streamed

CPU = torch.device("cpu")
PRECISIONS: list[Precision] = ["float32", "bf16", "fp16"]


def backbone_of(**shape: Any) -> DINOv3ViTModel:
    torch.manual_seed(0)
    return build_backbone({**TINY, "num_channels": 3, **shape}).eval()


def pixels(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.manual_seed(1))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device, here the CPU, on which no memory is free."""
    monkeypatch.setattr(device_room, "free_bytes", lambda device: 0)


# --- the decision ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [{}, {"use_gated_mlp": True, "query_bias": False}], ids=["plain", "gated"])
def test_bytes_are_those_of_rounded_blocks(precision: Precision, shape: dict[str, Any]) -> None:
    backbone = backbone_of(**shape).requires_grad_(False)
    counted = device_room.block_bytes(backbone, precision)
    round_once(backbone, precision)
    stores = {
        one.untyped_storage().data_ptr(): one.untyped_storage() for one in backbone.model.layer.parameters()
    }
    found = sum(store.nbytes() for store in stores.values())
    # The joint bias has zeros where queries, keys or values have none.
    most = 4 * 3 * 192 * 2
    assert counted <= found <= counted + most


@pytest.mark.parametrize(
    ("needed", "free", "expected"),
    [
        (13.4e9, 15.5e9, False),  # 7B in bf16 on a card of 16 GB
        (26.9e9, 23.5e9, False),  # in float32 on one of 24 GB
        (13.4e9, 23.5e9, True),
        (26.9e9, 39.5e9, True),
        (1.2e9, 15.5e9, True),  # ViT-L
        (26.9e9, None, True),  # a CPU
    ],
)
def test_free_memory_decides(
    needed: float,
    free: float | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(device_room, "free_bytes", lambda device: free)
    assert device_room.fits(int(needed), torch.device("cuda")) == expected
    said = capsys.readouterr().err
    assert said.count("\n") == (not expected)
    if not expected:
        assert f"take {needed / 1e9:,.1f} GB" in said
        assert f"{free / 1e9:,.1f} GB are free on cuda" in said  # type: ignore[operator]


def test_a_cpu_holds_everything() -> None:
    assert device_room.free_bytes(CPU) is None
    assert not is_streamed(placed_on(backbone_of(), "bf16", CPU))


# --- the same bits ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.usefixtures("full")
def test_every_layer_has_the_same_bits(precision: Precision, depth: int) -> None:
    plain = backbone_of(num_hidden_layers=depth)
    expected, found = deepcopy(plain), placed_on(plain, precision, CPU)
    assert is_streamed(found)
    with torch.no_grad(), autocast(precision, CPU):
        for count in (2, 3, 1):
            ours, theirs = (one(pixels(count), output_hidden_states=True) for one in (found, expected))
            assert all(map(torch.equal, ours.hidden_states, theirs.hidden_states))
            assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
        watched = []
        for one in (found, expected):
            with class_attention(one, (1, depth)) as attention:
                one(pixels())
            watched.append([attention[1], attention[depth]])
        assert all(map(torch.equal, *watched))


@pytest.mark.usefixtures("full")
def test_a_pass_that_failed_leaves_nothing_behind() -> None:
    backbone = placed_on(backbone_of(), "bf16", CPU)
    with torch.no_grad(), autocast("bf16", CPU):
        expected = backbone(pixels()).last_hidden_state

        def fail(*_: Any) -> None:
            raise torch.OutOfMemoryError("none left")

        hook = backbone.model.layer[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            backbone(pixels())
        hook.remove()
        assert torch.equal(backbone(pixels()).last_hidden_state, expected)


@pytest.mark.usefixtures("full")
def test_a_model_that_is_placed_twice_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A matrix places its model again for each region that it is tested on."""
    backbone = placed_on(backbone_of(), "bf16", CPU)
    with torch.no_grad(), autocast("bf16", CPU):
        expected = backbone(pixels()).last_hidden_state
        assert torch.equal(placed_on(backbone, "bf16", CPU)(pixels()).last_hidden_state, expected)
    assert capsys.readouterr().err.count("treeline:") == 1


# --- what lies where ---


class Brought(TorchDispatchMode):
    """Note which pieces of memory are copied as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.sources = list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and args[0].dtype == torch.uint8:
            self.sources.append(args[1].data_ptr())
        return func(*args, **(kwargs or {}))


def addresses(block: nn.Module) -> set[int]:
    return {weight.untyped_storage().data_ptr() for weight in block.parameters()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.usefixtures("full")
def test_while_a_block_computes_the_next_is_copied_and_no_other(precision: Precision, depth: int) -> None:
    backbone = placed_on(backbone_of(num_hidden_layers=depth), precision, CPU)
    blocks = backbone.model.layer
    homes = [addresses(block) for block in blocks]
    assert all(len(home) == 1 for home in homes), "a block lies in one piece of memory"
    order = [home for (home,) in homes]
    slots, seen = set[int](), list[tuple[int, list[int]]]()

    def look(number: int) -> None:
        away = [place for place, block in enumerate(blocks) if addresses(block) != homes[place]]
        assert away == [number], "one block computes, and the others' weights are on the host"
        slots.update(addresses(blocks[number]))
        seen.append((number, brought.sources.copy()))

    for number, block in enumerate(blocks):
        block.attention.register_forward_pre_hook(lambda *_, number=number: look(number))
    passes = 3
    with torch.no_grad(), autocast(precision, CPU), Brought() as brought:
        for _ in range(passes):
            backbone(pixels())
    assert len(slots) == 2, "there is room for two blocks"
    assert not slots & set(order)
    expected = [order[place % depth] for place in range(passes * depth + 1)]
    assert brought.sources == expected, "each block is copied once a pass, and the first again for the next"
    for step, (number, there) in enumerate(seen):
        assert number == step % depth
        assert len(there) == step + 2, "the next one has been copied, and the one after it has not"
    assert all(addresses(block) == home for block, home in zip(blocks, homes, strict=True))


# --- the commands ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips, a checkpoint, a pre-training run and a scene."""
    folder = tmp_path_factory.mktemp("made")
    write_untrained(folder / "pretrained", write_dataset(folder / "chips", 12))
    write_checkpoint(folder / "checkpoint", small_regressor())
    write_scene(folder / "scene.tif", stored_images(1, 70, 90)[0])
    return folder


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("command", "compared"),
    [
        ("predict {made}/scene.tif --checkpoint {made}/checkpoint", "*.tif"),
        ("evaluate --checkpoint {made}/checkpoint --data {made}/chips --split all", "*.json"),
        ("embed {made}/chips --checkpoint {made}/pretrained", "*.parquet"),
        (
            "attention --data {made}/chips --checkpoint {made}/pretrained --limit 3 --above height",
            "*.tif",
        ),
    ],
    ids=lambda text: text.split()[0],
)
def test_a_command_writes_the_same_bytes(
    command: str,
    compared: str,
    precision: Precision,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = []
    for name, free in (("whole", None), ("by-block", 0)):
        monkeypatch.setattr(device_room, "free_bytes", lambda device, free=free: free)
        out = tmp_path / name
        line = f"{command.format(made=made)} --precision {precision} --out {out}"
        assert cli.run(line.split()) == 0
        assert ("copies them there one by one" in capsys.readouterr().err) == (free == 0)
        found.append({path.name: path.read_bytes() for path in sorted(out.glob(compared))})
    assert found[0]
    assert found[0] == found[1]
    if "attention" in command:
        numbers = [
            json.loads((tmp_path / name / "attention.json").read_text()) for name in ("whole", "by-block")
        ]
        assert numbers[0] == numbers[1]
