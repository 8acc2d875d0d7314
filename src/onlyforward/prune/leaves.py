"""The tensors in the arguments of an operation: torch's pytree, without its cost where arguments are plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

LEAVES = (int, float, bool, str, type(None), Tensor)


def tensors_of(x: Any) -> list[Tensor]:
    """Every tensor in nested arguments, in order."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, LEAVES):
        return []
    if type(x) in (tuple, list):
        return [leaf for part in x for leaf in tensors_of(part)]
    if type(x) is dict:
        return [leaf for part in x.values() for leaf in tensors_of(part)]
    return [leaf for leaf in tree_flatten(x)[0] if isinstance(leaf, Tensor)]


def mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """The same arguments with `change` of every leaf."""
    if isinstance(x, LEAVES):
        return change(x)
    if type(x) in (tuple, list):
        return type(x)(mapped(change, part) for part in x)
    if type(x) is dict:
        return {key: mapped(change, part) for key, part in x.items()}
    return tree_map(change, x)
