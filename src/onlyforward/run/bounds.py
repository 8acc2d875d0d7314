"""Bounds of options as types: `workers: Count = 1` is refused below 1 when the command line is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError


@dataclass(frozen=True)
class Within:
    """The numbers that an option takes.

    Attributes:
        low: the least.
        high: the largest.
        open_low: the least itself is excluded.
    """

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False


Count = Annotated[int, Within(1)]
Natural = Annotated[int, Within(0)]
NotNegative = Annotated[float, Within(0.0)]
Positive = Annotated[float, Within(0.0, open_low=True)]
Share = Annotated[float, Within(0.0, 1.0)]


def bounds_in(hint: Any) -> Iterator[Within]:
    """Every bound inside of a type, as in `tuple[Share, ...] | None`."""
    for part in get_args(hint):
        if isinstance(part, Within):
            yield part
        else:
            yield from bounds_in(part)


def check_options(options: Any) -> None:
    """Refuse numbers outside of their bounds, and those that are none.

    Args:
        options: an instance of an option dataclass.

    Raises:
        UsageError: with the option's name.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value, name = getattr(options, field.name), "--" + field.name.replace("_", "-")
        numbers = [x for x in (value if isinstance(value, tuple) else (value,)) if type(x) in (int, float)]
        for number in numbers:
            if not math.isfinite(number):
                raise UsageError(f"{name} is {number}", "Give a number")
            for bound in bounds_in(hints[field.name]):
                check_range(number, name=name, low=bound.low, high=bound.high, open_low=bound.open_low)
