"""The tensors in the arguments of an operation: torch's pytree, without its cost where arguments are plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

LEAVES = (int, float, bool, str, type(None), Tensor)
PLAIN = frozenset(LEAVES) - {Tensor}
"""Of these no tensor can be a part; asking for the class itself is far cheaper than isinstance of Tensor."""


def tensors_of(x: Any) -> list[Tensor]:
    """Every tensor in nested arguments, in order."""
    found: list[Tensor] = []
    collect((x,), found)
    return found


def collect(parts: Iterable[Any], found: list[Tensor]) -> None:
    """Append the tensors in `parts`."""
    for x in parts:
        kind = type(x)
        if kind in PLAIN:
            continue
        if kind in (tuple, list):
            collect(x, found)
        elif kind is dict:
            collect(x.values(), found)
        elif isinstance(x, Tensor):
            found.append(x)
        else:
            found.extend(leaf for leaf in tree_flatten(x)[0] if isinstance(leaf, Tensor))


def mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """The same arguments with `change` of every leaf."""
    if isinstance(x, LEAVES):
        return change(x)
    if type(x) in (tuple, list):
        return type(x)(mapped(change, part) for part in x)
    if type(x) is dict:
        return {key: mapped(change, part) for key, part in x.items()}
    return tree_map(change, x)
