"""Bytes that autograd keeps of each block of a DINOv3 from the forward to the backward pass, on a CPU.

python benchmarks/activation_bytes.py       # half a minute

The figures are bytes for each chip, token, block and unit of width: differences between two numbers of chips
and two numbers of blocks, so that weights, embeddings and what is kept once count nothing. A piece of memory
that several operations keep counts once.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from trainer.devices.choice import Precision
from trainer.devices.precision import autocast
from trainer.devices.rounding import round_together
from trainer.model.backbone import build_backbone
from trainer.model.trainable import recompute_activations, tune
from trainer.options import Mode

WIDTH, TOKENS, PATCH = 1024, 21, 16
"""Width of ViT-L; a chip of 64 x 64 pixels has 16 patches, a class token and 4 registers."""
SHAPES: dict[str, dict[str, Any]] = {
    "ViT-L": {"intermediate_size": 4 * WIDTH, "num_attention_heads": WIDTH // 64},
    "7B (gated)": {
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": WIDTH // 128,
        "use_gated_mlp": True,
    },
}
"""Shapes of blocks, in multiples of the width (Siméoni et al. 2025, arXiv:2508.10104, table 1)."""
CASES: tuple[tuple[str, Precision, Mode, bool], ...] = (
    ("float32, `all`", "float32", "all", False),
    ("float32, `lora`", "float32", "lora", False),
    ("16 bits, `all`", "bf16", "all", False),
    ("16 bits, `lora`", "bf16", "lora", False),
    ("`--recompute-activations`", "float32", "all", True),
)
"""Columns: title, precision, what learns, and whether activations are recomputed."""


def kept_bytes(
    shape: dict[str, Any], precision: Precision, mode: Mode, recompute: bool, blocks: int, chips: int
) -> int:
    """Count the bytes that autograd keeps of a forward pass."""
    torch.manual_seed(0)
    sides = {"hidden_size": WIDTH, "num_hidden_layers": blocks, "patch_size": PATCH, "image_size": 64}
    backbone = build_backbone({**shape, **sides, "num_register_tokens": 4}).eval()
    tune(backbone, mode)
    if recompute:
        recompute_activations(backbone)
    for block in backbone.model.layer:
        round_together(block, precision)
    stores = dict[int, int]()
    kept = list[Tensor]()  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        stores[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pixels_BCHW = torch.randn(chips, 3, 64, 64)
    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision, torch.device("cpu")):
        tokens_BND = backbone(pixels_BCHW).last_hidden_state
    assert tokens_BND.shape[1] == TOKENS
    return sum(stores.values())


def bytes_each(shape: dict[str, Any], precision: Precision, mode: Mode, recompute: bool) -> float:
    """Return bytes for each chip, token, block and unit of width."""

    def of(blocks: int, chips: int) -> int:
        return kept_bytes(shape, precision, mode, recompute, blocks, chips)

    both = of(3, 3) - of(3, 2) - of(2, 3) + of(2, 2)
    return both / (TOKENS * WIDTH)


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    print(f"| bytes | {' | '.join(title for title, *_ in CASES)} |\n|{'---|' * (len(CASES) + 1)}")
    for name, shape in SHAPES.items():
        figures = [f"{bytes_each(shape, *case):.1f}" for _, *case in CASES]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
