"""Peak memory of tensors while a block of code runs, counted storage by storage."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operators inside the block make, and the most that were alive at once.

    What existed before (the model, its inputs) is not counted; views and in-place results share a storage and count
    once. The process's own footprint would be too coarse: allocators keep what they have freed.

    Attributes:
        live: bytes alive now.
        peak: the most bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.known: dict[int, int] = {}
        self.foreign: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then enter the storages that are new."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self.foreign.add(leaf.untyped_storage()._cdata)
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.enter(leaf)
        return out

    def enter(self, tensor: torch.Tensor) -> None:
        """Count a storage that is new, until it dies."""
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name in self.known or name in self.foreign:
            return
        size = storage.nbytes()
        self.known[name] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.leave, name)

    def leave(self, name: int) -> None:
        """A storage died."""
        self.live -= self.known.pop(name, 0)
        self.foreign.discard(name)
