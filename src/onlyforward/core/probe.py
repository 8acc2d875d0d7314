"""The four protocols of the project: Probe, Perturbation, Weighting, Allocation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.core.params import Params

if TYPE_CHECKING:
    from onlyforward.core.allocate.plan import Features, Plan

Run = Callable[[Params, Key], Tensor]
"""`run(params, key) -> [b]`: one forward run, a scalar signal per datum. With a batched perturbation the leaves of
`params` are [n, ...] and the signal is [n, b]."""


class Probe(Protocol):
    """What came back from the runs at one site.

    Attributes:
        site: which layer, block or tensor was perturbed.
        signal: [n, b], one scalar per copy and datum; NaN where `mask` is False.
        clean: [b], the unperturbed signal, where one was run.
        mask: [n, b] bool, False where an allocation left rows out; None if every row ran.
        runs: forward runs spent on this probe, the clean one included if the probe made it.
    """

    site: str
    signal: Tensor
    clean: Tensor | None
    mask: Tensor | None
    runs: int

    def pull(self, weight: Tensor) -> Params:
        """Sum over copies and data of `weight [n, b]` times the direction: linear, repeatable, never n directions."""
        ...


class Perturbation(Protocol):
    """Where noise enters."""

    @property
    def antithetic(self) -> bool:
        """Whether copies i and i + n/2 are mirrored."""
        ...

    def probes(self, run: Any, params: Params, *, key: Key, copies: int) -> Iterator[Probe]:
        """One probe per site, in forward order."""
        ...


class Weighting(Protocol):
    """How signals become weights.

    `reference` is "none", "clean" (the unperturbed signal is subtracted before the call) or "pairs" (copies i and
    i + n/2 are mirrored). State is data: `weigh(signal, None)` starts it.
    """

    @property
    def reference(self) -> Literal["none", "clean", "pairs"]:
        """What the signal is compared with."""
        ...

    def __call__(self, signal: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`signal [n, b]` to weights [n, b], the factor 1/n included, and the next state."""
        ...


class Allocation(Protocol):
    """How many runs each item gets."""

    def plan(self, budget: int, features: Features) -> Plan:
        """Counts that sum exactly to the budget."""
        ...

    def observe(self, ids: Sequence[int], coefficients: Tensor) -> None:
        """Take in what was measured: the only way in for history."""
        ...
