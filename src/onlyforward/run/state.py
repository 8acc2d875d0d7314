"""torch optimiser states as named tensors and JSON, so that no pickle is ever needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def split_state(state: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split nested containers into tensors by name and a JSON skeleton that says where each belongs.

    Args:
        state: dicts (string or integer keys), lists and tuples of tensors, numbers, strings, booleans and None.
        prefix: begins every tensor's name.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            # Scalars on an optimiser's step keep their own dtype; clone: safetensors wants unshared memory.
            tensors[path] = value.detach().clone()
            return {"kind": "tensor", "name": path}
        if isinstance(value, Mapping):
            items = [[key, walk(item, f"{path}.{key}")] for key, item in value.items()]
            return {"kind": "dict", "items": items}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {"kind": kind, "items": [walk(item, f"{path}.{i}") for i, item in enumerate(value)]}
        return {"kind": "value", "value": value}

    return tensors, walk(state, prefix or "state")


def join_state(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """The inverse of `split_state`."""
    kind = skeleton["kind"]
    if kind == "tensor":
        return tensors[skeleton["name"]].clone()
    if kind == "dict":
        return {key: join_state(tensors, item) for key, item in skeleton["items"]}
    if kind in ("list", "tuple"):
        items = [join_state(tensors, item) for item in skeleton["items"]]
        return tuple(items) if kind == "tuple" else items
    return skeleton["value"]


def optimizer_state(optimizer: torch.optim.Optimizer, prefix: str = "optimizer") -> tuple[dict[str, Tensor], Any]:
    """`split_state` of an optimiser."""
    return split_state(optimizer.state_dict(), prefix)


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], skeleton: Any) -> None:
    """Put back what `optimizer_state` split."""
    optimizer.load_state_dict(join_state(tensors, skeleton))
