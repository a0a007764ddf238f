"""Values of lightly's DINO loss, centre, head and running mean, for test_lightly.py.

An interpreter that has lightly runs it:

python lightly_parts.py INPUTS.pt OUTPUTS.pt
"""

import sys
from typing import Any

import torch

# A torchvision built for CUDA refuses to be imported beside a CPU torch, which lacks two of its operators.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lightly.loss import DINOLoss  # noqa: E402
from lightly.models.modules import DINOProjectionHead  # noqa: E402
from lightly.models.utils import update_momentum  # noqa: E402


def main() -> None:
    """Compute what the test asks for."""
    given: dict[str, Any] = torch.load(sys.argv[1], weights_only=True)
    loss = DINOLoss(
        given["centre_K"].numel(), teacher_temp=0.04, student_temp=0.1, center_momentum=given["momentum"]
    )
    loss.center.copy_(given["centre_K"])
    student_WBK = given["student_WBK"].requires_grad_()
    value = loss(list(given["teacher_VBK"]), list(student_WBK))
    value.backward()
    sizes = [len(given["tokens_BD"][0]), *(len(weight) for weight in given["layers"][::2])]
    head = DINOProjectionHead(sizes[0], sizes[1], sizes[3], len(given["prototypes_KD"]), batch_norm=False)
    linears = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for linear, weight, bias in zip(linears, given["layers"][::2], given["layers"][1::2], strict=False):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        last = dict(head.last_layer.named_parameters())
        for name, parameter in last.items():
            parameter.copy_(
                torch.ones_like(parameter)
                if "original0" in name or name == "weight_g"
                else given["prototypes_KD"]
            )
        scores_BK = head(given["tokens_BD"])
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    one.load_state_dict(given["one"])
    other.load_state_dict(given["other"])
    update_momentum(one, other, given["momentum"])
    found = {
        "loss": value.detach(),
        "gradient_WBK": student_WBK.grad,
        "centre_K": loss.center.flatten(),
        "scores_BK": scores_BK,
        "mean": other.state_dict(),
    }
    torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
