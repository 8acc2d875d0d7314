"""Recurrent training flat in T: one time step's states at a time, for networks that read the last output.

`LikelihoodRatio(..., flow="local")` walks an nn.LSTM, nn.GRU or nn.RNN once: at each step t the clean state is
perturbed, its copies run on to the end while inputs are projected on the fly, the gradient of that step is added, and
the state moves on. Nothing of earlier or later steps is kept, so memory does not grow with T; time grows with T^2 / 2,
as it does wherever every step is a site of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import UsageError
from onlyforward.nn.layout import Layout
from onlyforward.nn.recurrent import Hidden, advance, batch_first, gates, parameter, start
from onlyforward.nn.sites import Call, Site


def projected(module: Any, x: Tensor) -> Tensor:
    """W_x x_t + b_x of one step."""
    return torch.nn.functional.linear(x, parameter(module, "weight_ih_l0"), parameter(module, "bias_ih_l0"))


def run_on(module: Any, x: Tensor, hidden: Hidden, begin: int, layout: Layout | None) -> Hidden:
    """The state after the last step, from the state before step `begin`; x [b, T, features] is expanded per step."""
    for t in range(begin, x.shape[1]):
        into = projected(module, x[:, t])
        hidden = advance(module, gates(module, "_l0", into if layout is None else layout.expand(into), hidden), hidden)
    return hidden


def last_only(module: Any, hidden: Hidden) -> Any:
    """The module's output as a sequence of the last step alone, and its final state, in the module's own form."""
    out = hidden[0].unsqueeze(-2) if module.batch_first else hidden[0].unsqueeze(0)
    states = tuple(part.unsqueeze(0) for part in hidden)
    return out, states if isinstance(module, nn.LSTM) else states[0]


def record_last(call: Call) -> Any:
    """The clean run of a recurrent module that keeps its last state alone.

    Raises:
        UsageError: several layers or directions.
    """
    module: Any = call.module
    if module.num_layers != 1 or module.bidirectional or getattr(module, "proj_size", 0):
        raise UsageError(f"{call.path} has several layers or directions", "Use flow full")
    given = call.inputs[1] if len(call.inputs) > 1 else call.named.get("hx")
    x = batch_first(module, call.inputs[0])
    return last_only(module, run_on(module, x, start(module, given, 0, len(x), x), 0, None))


@dataclass
class LocalSite(Site):
    """The pre-activation of one time step, with the clean state before it."""

    time: int = 0
    hidden: Hidden = ()

    def outcome(self, rows: Tensor, layout: Layout) -> Any:
        """The module's last output when u_t is replaced by rows."""
        module: Any = self.call.module
        x = batch_first(module, self.call.inputs[0])
        hidden = advance(module, layout.join(rows), layout.expand(self.hidden))
        return last_only(module, run_on(module, x, hidden, self.time + 1, layout))

    @property
    def steps(self) -> int:
        """T."""
        return batch_first(self.call.module, self.call.inputs[0]).shape[1]

    def pull(self, delta: Tensor) -> dict[str, Tensor]:
        """delta_t x_t^T and delta_t h_{t-1}^T."""
        module: Any = self.call.module
        into, fed = delta, delta
        if isinstance(module, nn.GRU):
            two = 2 * module.hidden_size
            into = delta[:, : two + module.hidden_size]
            fed = torch.cat((delta[:, :two], delta[:, two + module.hidden_size :]), dim=1)
        found = {
            "weight_ih_l0": into.T @ batch_first(module, self.call.inputs[0])[:, self.time],
            "weight_hh_l0": fed.T @ self.hidden[0],
        }
        return found | {"bias_ih_l0": into.sum(0), "bias_hh_l0": fed.sum(0)} if module.bias else found


def local_sites(call: Call) -> Iterator[LocalSite]:
    """One site per time step, made as the clean state gets there."""
    module: Any = call.module
    given = call.inputs[1] if len(call.inputs) > 1 else call.named.get("hx")
    x = batch_first(module, call.inputs[0])
    hidden = start(module, given, 0, len(x), x)
    for t in range(x.shape[1]):
        u = gates(module, "_l0", projected(module, x[:, t]), hidden)
        yield LocalSite(f"{call.path}_l0@{t}", call, u, time=t, hidden=hidden)
        hidden = advance(module, u, hidden)
