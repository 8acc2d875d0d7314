"""nn.LSTM, nn.GRU and nn.RNN as loops over their own parameters: every gate pre-activation is a site of its own.

For u_t = W_x x_t + W_h h_{t-1} + b + noise the weights' gradient is sum_t delta_t x_t^T and sum_t delta_t h_{t-1}^T:
no backpropagation through time. A perturbed run goes on at its step; steps before it come from the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import UsageError
from onlyforward.nn.layout import Layout
from onlyforward.nn.sites import Call, Site

Hidden = tuple[Tensor, ...]
"""h, or h and c, each [rows, units]."""


@dataclass
class Lane:
    """One layer and direction of the clean run.

    Attributes:
        suffix: of its parameters' names, such as "_l0" or "_l1_reverse".
        order: times in the order in which they are run.
        inputs: [b, T, features].
        projected: W_x x + b_x for all times [b, T, gates].
        gates: t -> pre-activation u_t that noise is added to [b, D].
        hidden: t -> state before step t.
        outputs: t -> h_t [b, units].
    """

    suffix: str
    order: list[int]
    inputs: Tensor
    projected: Tensor
    gates: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, Hidden] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    last: Hidden = ()


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter's values, or None where the module has no biases."""
    found = getattr(module, name, None)
    return None if found is None else found.detach()


def gates(module: Any, suffix: str, projected: Tensor, hidden: Hidden) -> Tensor:
    """Pre-activation u_t [rows, D] from W_x x_t + b_x and the state; a GRU's has four parts: r, z, n_x, n_h.

    Without them, n b rows may share a projection [b, D].
    """
    fed = torch.nn.functional.linear(
        hidden[0], parameter(module, f"weight_hh{suffix}"), parameter(module, f"bias_hh{suffix}")
    )
    if isinstance(module, nn.GRU):
        two = 2 * module.hidden_size
        return torch.cat((projected[..., :two] + fed[..., :two], projected[..., two:], fed[..., two:]), dim=-1)
    if len(projected) == len(fed):
        return projected + fed
    return (projected + fed.unflatten(0, (-1, len(projected)))).flatten(0, 1)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent: on a processor 1 - 2 s(-2x), right to 1e-7; its sigmoid takes a sixth of the time."""
    if x.device.type != "cpu" or x.dtype in (torch.float16, torch.bfloat16):
        return x.tanh()
    return torch.rsub((-2 * x).sigmoid(), 1, alpha=2)


def advance(module: Any, u: Tensor, hidden: Hidden) -> Hidden:
    """The state after the pre-activation u."""
    if isinstance(module, nn.LSTM):
        i, f, g, o = u.chunk(4, dim=-1)
        c = f.sigmoid() * hidden[1] + i.sigmoid() * tanh(g)
        return o.sigmoid() * tanh(c), c
    if isinstance(module, nn.GRU):
        r, z, nx, nh = u.chunk(4, dim=-1)
        z = z.sigmoid()
        return ((1 - z) * tanh(nx + r.sigmoid() * nh) + z * hidden[0],)
    return (tanh(u) if module.nonlinearity == "tanh" else u.relu(),)


def lanes(module: Any) -> list[list[tuple[str, bool]]]:
    """Layer -> (suffix, reversed) of its directions."""
    directions = [("", False), ("_reverse", True)] if module.bidirectional else [("", False)]
    return [[(f"_l{layer}{tail}", back) for tail, back in directions] for layer in range(module.num_layers)]


def batch_first(module: Any, x: Tensor) -> Tensor:
    """Inputs as [b, T, features]."""
    if x.dim() != 3:
        raise UsageError(f"{type(module).__name__} got an input of shape {list(x.shape)}", "Give a batch of sequences")
    return x if module.batch_first else x.transpose(0, 1)


def start(module: Any, given: Any, lane: int, rows: int, like: Tensor) -> Hidden:
    """The state before the first step: the caller's, or zeros."""
    count = 2 if isinstance(module, nn.LSTM) else 1
    if given is None:
        return tuple(like.new_zeros((rows, module.hidden_size)) for _ in range(count))
    return tuple(part[lane] for part in (given if isinstance(given, tuple) else (given,)))


def record_steps(call: Call, disturb: Callable[[str, Tensor], Tensor] | None = None) -> Any:
    """The run of a recurrent module, step by step; equal to the module's own output to rounding.

    Args:
        call: gets the record as its state.
        disturb: (path of the site, pre-activation) -> what the step goes on with.
    """
    module: Any = call.module
    if getattr(module, "proj_size", 0):
        raise UsageError(f"{call.path} has proj_size", "Put a Linear behind the LSTM instead, or plan it as bp")
    given = call.inputs[1] if len(call.inputs) > 1 else call.named.get("hx")
    value = batch_first(module, call.inputs[0])
    call.state = []
    for layer in lanes(module):
        outs = []
        for suffix, back in layer:
            lane = Lane(
                suffix, list(range(value.shape[1]))[:: -1 if back else 1], value, project(module, suffix, value)
            )
            hidden = start(module, given, len(call.state), len(value), value)
            for t in lane.order:
                lane.hidden[t] = hidden
                u = gates(module, suffix, lane.projected[:, t], hidden)
                lane.gates[t] = u if disturb is None else disturb(step_path(call, suffix, t), u)
                hidden = advance(module, lane.gates[t], hidden)
                lane.outputs[t] = hidden[0]
            lane.last = hidden
            call.state.append(lane)
            outs.append(in_order(lane.outputs))
        value = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
    return packed(module, value, [lane.last for lane in call.state])


def in_order(outputs: dict[int, Tensor]) -> Tensor:
    """Outputs of all times [rows, T, units]; time comes first in memory, as in torch's own: no strided copies."""
    return torch.stack([outputs[t] for t in range(len(outputs))]).movedim(0, -2)


def step_path(call: Call, suffix: str, time: int) -> str:
    """Names the site of one layer, direction and time step."""
    return f"{call.path}{suffix}@{time}"


def run_steps(module: Any, x: Tensor, given: Any = None) -> Any:
    """The module's output by its own step loop, for vmap, which has no rule for torch's fused kernels."""
    return record_steps(Call("", module, (x, given), {}, None, 0, 0))


def expanded_output(call: Call, layout: Layout) -> Any:
    """A recorded recurrent output in a layout: states hold the data in their second dimension."""
    if layout.kind == "alone":
        return call.output
    module: Any = call.module
    out, states = call.output
    if layout.kind == "stack":
        raise UsageError(f"{call.path} lies in a network whose data interact", "Plan it as bp")
    value = expand_second(out, layout) if not module.batch_first else layout.expand(out)
    both = isinstance(states, tuple)
    return value, tuple(expand_second(s, layout) for s in states) if both else expand_second(states, layout)


def expand_second(value: Tensor, layout: Layout) -> Tensor:
    """[k, b, ...] -> [k, n b, ...]."""
    if layout.index is not None:
        return value[:, layout.index]
    return value[:, None].expand(value.shape[0], layout.copies, *value.shape[1:]).flatten(1, 2)


def project(module: Any, suffix: str, x: Tensor) -> Tensor:
    """W_x x + b_x for all times."""
    return torch.nn.functional.linear(x, parameter(module, f"weight_ih{suffix}"), parameter(module, f"bias_ih{suffix}"))


def packed(module: Any, value: Tensor, last: list[Hidden]) -> Any:
    """Output and final states in the module's own form."""
    states = tuple(torch.stack(parts, dim=-3 if parts[0].dim() > 2 else 0) for parts in zip(*last, strict=True))
    out = value if module.batch_first else value.transpose(0, 1)
    return out, states if isinstance(module, nn.LSTM) else states[0]


@dataclass
class StepSite(Site):
    """The pre-activation of one layer, direction and time step."""

    lane: int = 0
    time: int = 0

    def outcome(self, rows: Tensor, layout: Layout) -> Any:
        """The module's output when u_t is replaced by rows: steps and layers before t come from the record."""
        module: Any = self.call.module
        recorded: list[Lane] = self.call.state
        width = 2 if module.bidirectional else 1
        layer = self.lane // width
        value: Tensor | None = None
        last: list[Hidden] = [layout.expand(lane.last) for lane in recorded[: layer * width]]
        for current in range(layer, module.num_layers):
            outs = []
            for index in range(current * width, (current + 1) * width):
                lane = recorded[index]
                if current == layer and index != self.lane:
                    outputs, final = {t: layout.expand(x) for t, x in lane.outputs.items()}, layout.expand(lane.last)
                elif current == layer:
                    outputs, final = self.go_on(module, lane, layout.join(rows), layout)
                else:
                    outputs, final = self.whole(module, lane, value, layout)
                last.append(final)
                outs.append(in_order(outputs))
            value = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
        assert value is not None
        return packed(module, value, last)

    def go_on(self, module: Any, lane: Lane, u: Tensor, layout: Layout) -> tuple[dict[int, Tensor], Hidden]:
        """Steps of the site's own lane from t on."""
        at = lane.order.index(self.time)
        outputs = {t: layout.expand(lane.outputs[t]) for t in lane.order[:at]}
        hidden = layout.expand(lane.hidden[self.time])
        shared = layout.kind == "rows" and not isinstance(module, nn.GRU)
        for t in lane.order[at:]:
            if t != self.time:
                into = lane.projected[:, t]
                u = gates(module, lane.suffix, into if shared else layout.expand(into), hidden)
            hidden = advance(module, u, hidden)
            outputs[t] = hidden[0]
        return outputs, hidden

    def whole(self, module: Any, lane: Lane, value: Any, layout: Layout) -> tuple[dict[int, Tensor], Hidden]:
        """All steps of a lane in a later layer."""
        projected = project(module, lane.suffix, value)
        hidden = layout.expand(lane.hidden[lane.order[0]])
        outputs = {}
        for t in lane.order:
            hidden = advance(module, gates(module, lane.suffix, projected.select(-2, t), hidden), hidden)
            outputs[t] = hidden[0]
        return outputs, hidden

    def pull(self, delta: Tensor) -> dict[str, Tensor]:
        """delta_t x_t^T and delta_t h_{t-1}^T."""
        module: Any = self.call.module
        lane: Lane = self.call.state[self.lane]
        into, fed = delta, delta
        if isinstance(module, nn.GRU):
            two = 2 * module.hidden_size
            into = delta[:, : two + module.hidden_size]
            fed = torch.cat((delta[:, :two], delta[:, two + module.hidden_size :]), dim=1)
        found = {
            f"weight_ih{lane.suffix}": into.T @ lane.inputs[:, self.time],
            f"weight_hh{lane.suffix}": fed.T @ lane.hidden[self.time][0],
        }
        if module.bias:
            found |= {f"bias_ih{lane.suffix}": into.sum(0), f"bias_hh{lane.suffix}": fed.sum(0)}
        return found

    def hand_on(self, delta: Tensor) -> None:
        """delta_t W_x, the cotangent of x_t; a layer above the first reads what sites below it answer for."""
        call, lane = self.call, self.call.state[self.lane]
        if call.feed is None or not lane.suffix.startswith("_l0"):
            return
        if call.cotangent is None:
            call.cotangent = torch.zeros_like(call.feed)
        weight = call.module.get_parameter(f"weight_ih{lane.suffix}").detach()
        batch_first(call.module, call.cotangent)[:, self.time] += delta[:, : len(weight)] @ weight


def step_sites(call: Call) -> list[Site]:
    """One site per layer, direction and time step."""
    return [
        StepSite(step_path(call, lane.suffix, t), call, lane.gates[t], lane=index, time=t)
        for index, lane in enumerate(call.state)
        for t in lane.order
    ]
