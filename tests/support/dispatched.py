"""What torch is asked to do below Python: dispatch modes that watch or count operations."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
MOVES = {
    *("view", "alias", "detach", "slice", "select", "unsqueeze", "squeeze", "expand", "permute", "t"),
    *("transpose", "as_strided", "unbind", "split", "_to_copy", "copy_", "clone", "_local_scalar_dense"),
    *("empty", "empty_like", "empty_strided", "new_empty_strided", "_reshape_alias", "_unsafe_view"),
    "lift_fresh",
}
"""Operations that only move bytes or cast, which CUDA has for every type."""


class OnlyMoved(TorchDispatchMode):
    """Refuse operations on unsigned numbers of 16 to 64 bits that CUDA lacks, as its indexing does."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0
        """Operations on such numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.dtype in UNSIGNED for tensor in given):
            self.met += 1
            name = func._schema.name.removeprefix("aten::")
            assert name in MOVES, f"{name} of {[tensor.dtype for tensor in given]}: CUDA may lack it"
        return func(*args, **(kwargs or {}))
