"""Loss, centre and running mean of DINO are those of lightly 1.6 to 1e-6, gradient and head to 1e-5.

lightly is no dependency. It needs an interpreter of its own, which TREELINE_LIGHTLY names:

    python3.11 -m venv lightly
    lightly/bin/pip install torch==2.13.0 numpy tqdm pytorch-lightning
    lightly/bin/pip install --no-deps lightly==1.6.0 torchvision==0.29.1
    TREELINE_LIGHTLY=lightly/bin/python .venv/bin/pytest tests/trainer/pretrain/test_lightly.py
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from trainer.pretrain.dino import Dino, Head
from trainer.pretrain.distillation import centred_targets, cross_entropy_sums, next_centre

PYTHON = os.environ.get("TREELINE_LIGHTLY", "")
MOMENTUM = 0.93
pytestmark = pytest.mark.skipif(not PYTHON, reason="TREELINE_LIGHTLY names no interpreter with lightly")


def test_each_part_is_lightlys(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    torch.manual_seed(0)
    head = Head(12, 20, 8, 30)
    for weight in head.parameters():
        weight.data = drawn(*weight.shape)
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    given = {
        "teacher_VBK": drawn(2, 6, 30).tanh(),
        "student_WBK": drawn(5, 6, 30).tanh(),
        "centre_K": drawn(30) * 0.2,
        "momentum": MOMENTUM,
        "tokens_BD": drawn(6, 12),
        "layers": [weight.detach() for layer in head.layers for weight in layer.parameters()],
        "prototypes_KD": head.prototypes_KD.detach(),
        "one": one.state_dict(),
        "other": other.state_dict(),
    }
    torch.save(given, tmp_path / "given.pt")
    script = Path(__file__).with_name("lightly_parts.py")
    subprocess.run([PYTHON, str(script), str(tmp_path / "given.pt"), str(tmp_path / "found.pt")], check=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)

    teacher_VBK, student_WBK = given["teacher_VBK"], given["student_WBK"].requires_grad_()
    targets_VBK = centred_targets(teacher_VBK, given["centre_K"], 0.04)
    seen_WB = torch.ones(5, 6, dtype=torch.bool)
    total, pairs = cross_entropy_sums(targets_VBK, student_WBK, seen_WB, 0.1, 0)
    (total / pairs).backward()
    torch.testing.assert_close((total / pairs).float(), found["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(student_WBK.grad, found["gradient_WBK"], rtol=1e-5, atol=1e-8)
    centre_K = next_centre(given["centre_K"], teacher_VBK.mean((0, 1)), MOMENTUM)
    torch.testing.assert_close(centre_K, found["centre_K"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(head(given["tokens_BD"]).detach(), found["scores_BK"], rtol=1e-5, atol=1e-6)

    class Two(torch.nn.Module):
        """What `Dino.follow` moves."""

        student, teacher = one, other
        student_head, teacher_head = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        student_patch_head = teacher_patch_head = None

    Dino.follow(Two(), MOMENTUM)  # type: ignore[arg-type]
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(weight, found["mean"][name], rtol=1e-6, atol=1e-7)
