"""A precision means the same in every command, is refused where it is emulated, and leaves no setting behind.

The GPUs are faked: nothing is computed on them here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from regressors import scene_to_map, small_regressor
from torch import nn

from cluster import cli
from shards.errors import InputError
from trainer.devices.cards import (
    Card,
    chosen_here,
    computes,
    on_cards,
    refuse_emulated,
    suited_half,
    why_unusable,
)
from trainer.devices.choice import Computes, Precision, on_cpu
from trainer.devices.precision import MEANINGS, autocast, computing, in_precision, predicting

V100, T4, A100 = Card("V100", (7, 0)), Card("T4", (7, 5)), Card("A100", (8, 0))
CPU = torch.device("cpu")
PRECISIONS = list(MEANINGS)
HALVES: list[Precision] = ["bf16", "fp16"]


def settings() -> list[Any]:
    """What torch would do with float32 on a GPU, as its two interfaces tell; "mixed" where they disagree."""
    backends = torch.backends
    told: list[Any] = [
        part.fp32_precision
        for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)  # type: ignore[attr-defined]
    ]
    for legacy in (lambda: backends.cuda.matmul.allow_tf32, lambda: backends.cudnn.allow_tf32):
        try:
            told.append(legacy())
        except RuntimeError:
            told.append("mixed")
    return told


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    before = settings()
    yield
    assert settings() == before


def test_only_tf32_rounds_float32_on_a_gpu() -> None:
    """By torch's default convolutions would use TF32 as well."""
    assert settings()[-2:] == [False, True]
    for precision in PRECISIONS:
        with computing(precision):
            *newer, matmul, convolution = settings()
            assert (matmul, convolution) == (precision == "tf32",) * 2
            assert [one == "tf32" for one in newer] == [precision == "tf32"] * 3


def test_settings_come_back_after_a_failure_and_from_within() -> None:
    def fail() -> None:
        with computing("tf32"):
            with computing("float32"):
                assert settings()[-2:] == [False, False]
            assert settings()[-2:] == [True, True]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_what_a_user_had_set_comes_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        set_by_user = settings()[:3]
        with computing("float32"):
            assert settings()[-2:] == [False, False]
        assert settings()[:3] == set_by_user
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matrix_products_and_convolutions_are_in_its_type(precision: Precision) -> None:
    """Weights and what autocast leaves alone stay float32."""
    expected = MEANINGS[precision].dtype or torch.float32
    linear, convolution = nn.Linear(8, 8), nn.Conv2d(3, 4, 3)
    with autocast(precision, CPU):
        assert linear(torch.ones(2, 8)).dtype == expected
        assert convolution(torch.ones(2, 3, 8, 8)).dtype == expected
        assert torch.nn.functional.layer_norm(torch.ones(2, 8), (8,)).dtype == torch.float32
    assert in_precision(linear, CPU, precision)(torch.ones(2, 8)).dtype == expected
    assert linear.weight.dtype == torch.float32


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.1), ("fp16", 0.02)])
def test_a_regressor_computes_in_half_precision_on_a_cpu(precision: Precision, share: float) -> None:
    """Also in float16, which a CPU without the instructions emulates."""
    regressor = small_regressor()
    image_BCHW = torch.randint(100, 2000, (2, 4, 64, 64), generator=torch.manual_seed(0)).short()
    with torch.no_grad():
        exact_BHW, _ = regressor(image_BCHW)
        rounded_BHW, _ = in_precision(regressor, CPU, precision)(image_BCHW)
    assert rounded_BHW.isfinite().all()
    assert not torch.equal(exact_BHW, rounded_BHW)
    assert (exact_BHW - rounded_BHW).abs().max() <= share * exact_BHW.abs().max()


# --- which card computes what ---


def test_bf16_is_refused_where_a_card_emulates_it() -> None:
    for card in (V100, T4):
        with pytest.raises(InputError) as refused:
            refuse_emulated([A100, card], "bf16")
        major, minor = card.capability
        assert str(refused.value) == (
            f"--precision bf16: {card.name} (compute capability {major}.{minor}) only emulates it; give "
            "--precision fp16, or --device cpu (docs/gpu.md)"
        )
        for other in ("float32", "tf32", "fp16"):
            refuse_emulated([card], other)  # type: ignore[arg-type]
    for precision in PRECISIONS:
        refuse_emulated([A100], precision)


def test_tf32_without_effect_is_said_and_recorded_as_float32() -> None:
    t4 = "--precision tf32: T4 (compute capability 7.5) has no TF32 and computes in float32"
    assert on_cards([A100], "tf32") == Computes("tf32")
    assert on_cards([T4], "fp16") == Computes("fp16")
    assert on_cards([T4, T4], "tf32") == Computes("float32", (t4,))
    assert on_cards([A100, T4], "tf32") == Computes("tf32", (t4,))
    cpu = Computes("float32", ("--precision tf32: a CPU has no TF32 and computes in float32",))
    assert on_cpu("tf32") == computes("tf32", "cpu") == cpu
    assert computes("float32", CPU) == Computes("float32")


def test_what_is_said_of_16_bits_holds_for_any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with all instructions was slower all the same (docs/benchmarks.md)."""
    for instructions in ({}, {"avx512_bf16": True, "amx_bf16": True, "avx512_fp16": True, "amx_fp16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=instructions: found)
        for precision in HALVES:
            found = computes(precision, "cpu")
            assert found.precision == precision
            (remark,) = found.remarks
            assert remark.startswith(f"--precision {precision}: on a CPU it may be ")
            assert "slower than float32" in remark


@pytest.fixture
def v100(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a V100, and a torch that has kernels for it."""
    says: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda number: "V100",
        "get_device_capability": lambda number: (7, 0),
        "get_arch_list": lambda: ["sm_70"],
    }
    for name, function in says.items():
        monkeypatch.setattr(torch.cuda, name, function)


@pytest.mark.usefixtures("v100")
def test_the_driver_refuses_or_says_so_before_anything_starts(capsys: Any) -> None:
    for precision in ("float32", "fp16"):
        assert chosen_here("auto", precision) == "cuda"  # type: ignore[arg-type]
        assert not why_unusable(precision=precision)  # type: ignore[arg-type]
    assert not capsys.readouterr().err
    with pytest.raises(InputError, match=r"--precision bf16: V100 .* only emulates it"):
        chosen_here("auto", "bf16")
    assert "--precision bf16: V100" in why_unusable(precision="bf16")
    assert chosen_here("auto", "tf32") == "cuda"
    assert not capsys.readouterr().err  # as long as the command may still be refused
    computes("tf32", "cuda").say()
    assert capsys.readouterr().err.startswith(
        "treeline: --precision tf32: V100 (compute capability 7.0) has no"
    )
    assert (suited_half(torch.device("cuda")), suited_half(CPU)) == ("fp16", "bf16")


@pytest.mark.usefixtures("v100")
@pytest.mark.parametrize("command", ["train", "pretrain", "predict", "embed"])
def test_every_command_asks_the_card(command: str, tmp_path: Path) -> None:
    """Before anything is written."""
    scene, checkpoint = scene_to_map(tmp_path), str(tmp_path / "c")
    rest = {"predict": [scene], "embed": ["--scenes", scene]}
    given = [*rest[command], "--checkpoint", checkpoint] if command in rest else ["--data", "d"]
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"--precision bf16: V100 .* only emulates it"):
        cli.run([command, *given, "--out", str(tmp_path / "out"), "--precision", "bf16"])
    assert set(tmp_path.rglob("*")) == before


def test_a_card_of_today_takes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.0")  # AMD's cards count as torch counts them
    assert Card("MI200", (0, 0)).computes_bf16
    monkeypatch.setattr(torch.version, "hip", None)
    assert [card.computes_bf16 for card in (V100, T4, A100)] == [False, False, True]


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_sharded_model_is_not_trained_in_fp16(command: str, tmp_path: Path) -> None:
    given = ["--shard-model", "--precision", "fp16", "--device", "cpu"]
    with pytest.raises(InputError, match="--shard-model: does not go together with --precision fp16"):
        cli.run([command, "--data", "d", "--out", str(tmp_path / "out"), *given])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_predictions_repeat_themselves_and_leave_no_setting_behind(precision: Precision) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    with predicting(precision):
        assert cudnn.deterministic
        assert not cudnn.benchmark
        assert cudnn.allow_tf32 == matmul.allow_tf32 == (precision == "tf32")
    assert before == (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)


@pytest.mark.parametrize(("tune", "refused"), [("all", True), ("last", True), ("frozen", False)])
def test_a_sharded_model_that_learns_is_not_read_at_its_attention(
    tune: str, refused: bool, tmp_path: Path
) -> None:
    """Its last block's weights would be gone when gradients come; a frozen one fails later: no data."""
    given = [
        "--shard-model",
        "--task",
        "tile-value",
        "--label",
        "cover",
        "--head",
        "attention",
        "--tune",
        tune,
    ]
    with pytest.raises(InputError) as error:
        cli.run(["train", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "out"), *given])
    assert ("--shard-model: does not go together with --head attention" in str(error.value)) == refused
