"""How copies of b data lie in one tensor: in rows, stacked, alone under vmap, or ragged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One way to carry copies through a network.

    Attributes:
        kind: "rows" folds copies and data into the first dimension; "stack" puts copies in front of it, for networks
            whose data interact (graphs); "alone" adds nothing, because vmap carries the copies; "ragged" gives
            each datum copies of its own number.
        copies: n; 1 where ragged.
        data: b.
        index: [R] int64, the datum of each row, where ragged.
    """

    kind: Literal["rows", "stack", "alone", "ragged"]
    copies: int
    data: int
    index: Tensor | None = None

    @property
    def flat(self) -> bool:
        """Whether copies lie in the first dimension, as a module expects its data."""
        return self.kind in ("rows", "ragged")

    def join(self, rows: Tensor) -> Tensor:
        """[n, b, ...] (alone: [b, ...]) -> what the network takes."""
        return rows.flatten(0, 1) if self.kind == "rows" else rows

    def split(self, rows: Tensor) -> Tensor:
        """What the network gives -> [n, b, ...] (alone: [b, ...])."""
        return rows.unflatten(0, (self.copies, -1)) if self.kind == "rows" else rows

    def expand(self, value: Any) -> Any:
        """A clean value repeated for all copies; whatever has no data dimension stays as it is."""
        if isinstance(value, (tuple, list)):
            return type(value)(self.expand(item) for item in value)
        if not isinstance(value, Tensor) or self.kind == "alone" or value.dim() == 0 or value.shape[0] != self.data:
            return value
        if self.index is not None:
            return value[self.index]
        if self.kind == "stack":
            return value.expand(self.copies, *value.shape) if value.is_floating_point() else value
        return value.expand(self.copies, *value.shape).flatten(0, 1)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """X times a mask [b, ...] that all copies share."""
        if self.index is not None:
            return x * mask[self.index]
        if self.kind == "rows":
            return (x.unflatten(0, (self.copies, -1)) * mask).flatten(0, 1)
        if self.kind == "stack" and x.dim() > mask.dim() and x.stride(0) == 0:
            return (x[0] * mask).expand_as(x)  # before the site all copies are one tensor
        return x * mask


def first(value: Any) -> Tensor:
    """The tensor of a module's output, which may be a tuple."""
    return value if isinstance(value, Tensor) else value[0]


def with_first(value: Any, tensor: Tensor) -> Any:
    """A module's output with its tensor replaced."""
    return tensor if isinstance(value, Tensor) else type(value)((tensor, *value[1:]))
