"""What torch is asked to do below Python: dispatch modes that watch or count operations."""

import traceback
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
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


WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2"),
    *("unique_consecutive", "bincount", "repeat_interleave"),
}
"""Operations that bring a number or a length to the host, which waits for the device."""


class Counted(TorchDispatchMode):
    """Count what a GPU would be asked for: kernels, and what the host waits for or copies there.

    `Tensor.tolist`, `Tensor.cpu` and `Tensor.numpy` wait, too, but are not dispatched on a CPU, so they are
    replaced while the mode is on. `torch.tensor` and `Tensor.new_tensor` of numbers are copies to the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.waits, self.copies = 0, list[str](), list[str]()

    def __enter__(self) -> "Counted":
        self._replaced = {name: getattr(torch.Tensor, name) for name in ("tolist", "cpu", "numpy")}
        for name, method in self._replaced.items():
            setattr(torch.Tensor, name, self._noting(name, method))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, method in self._replaced.items():
            setattr(torch.Tensor, name, method)

    def _noting(self, name: str, method: Any) -> Any:
        def noted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.waits.append(f"{name} at {_caller()}")
            return method(tensor, *args, **kwargs)

        return noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = (leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, torch.Tensor))
        if name in WAITS or (name.startswith("index") and any(mask.dtype == torch.bool for mask in masks)):
            self.waits.append(f"{name} at {_caller()}")
        elif name == "lift_fresh":
            if "transfer.py" not in _caller():  # which queues its copies
                self.copies.append(_caller())
        elif name not in MOVES or name in ("_to_copy", "copy_", "clone"):
            self.kernels += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """Name the line of the project that asked for it."""
    for frame in reversed(traceback.extract_stack()):
        if "/trainer/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return "elsewhere"


class LiveBytes(TorchDispatchMode):
    """Watch the bytes of the tensors that are made while the mode is on, for as long as each lives.

    As a device's allocator would count them: memory that tensors share counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        """Most bytes that lived at a time."""
        self._made = dict[int, StorageWeakRef]()

    def now(self) -> int:
        """Return the bytes that live."""
        total = 0
        for key, reference in list(self._made.items()):
            if reference.expired():
                del self._made[key]
            else:
                storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
                total += storage.nbytes() if storage is not None else 0
        return total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there = {_storage_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and _storage_of(leaf) not in there:
                reference = StorageWeakRef(leaf.untyped_storage())
                self._made[reference.cdata] = reference
        self.peak = max(self.peak, self.now())
        return made


def _storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
