"""Rules for attention, recurrent and graph layers, which bypass single operations or break them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.prune.semiring import Max

if TYPE_CHECKING:
    from onlyforward.prune.mode import Call, Flow, ModuleRule


def root(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a b), with gradient 0 where a b = 0."""
    both = a * b
    return torch.where(both > 0, torch.where(both > 0, both, torch.ones_like(both)).sqrt(), torch.zeros_like(both))


def mix(flow: Flow, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of heads, [..., tokens, width] each, on one scale.

    "value": every token receives the mean of v over the tokens. "qkv": sqrt(v s) with s the mean over a head's width of
    sqrt(q k), so that a head without queries or keys is dead.
    """
    seen = flow.semiring.mean(value, -2, True)
    if flow.attention == "qkv":
        q, k = flow.semiring.mean(query, -2, True), flow.semiring.mean(key, -2, True)
        seen = root(seen, flow.semiring.mean(root(q, k), -1, True))
    return seen.expand(*value.shape[:-2], query.shape[-2], value.shape[-1])


def attention(call: Call) -> Any:
    """torch.nn.functional.scaled_dot_product_attention, grouped queries included."""
    flow = call.mode
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if not flow.live(value):
        return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=flow.dtype)
    live = [x for x in (query, key, value) if flow.live(x)]
    aligned, log = flow.align(live)
    table = {id(x): v for x, v in zip(live, aligned)}
    # Queries that are parameters (learned latents) open every key alike.
    q, k, v = (table.get(id(x), torch.ones(x.shape, dtype=flow.dtype)) for x in (query, key, value))
    if k.ndim > 2 and q.shape[-3] != k.shape[-3]:
        times = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(times, -3), v.repeat_interleave(times, -3)
    return flow.put(mix(flow, q, k, v), log)


def attend(call: Call) -> Any:
    """torch.nn.functional.multi_head_attention_forward, which nn.MultiheadAttention calls: [tokens, batch, width]."""
    flow = call.mode
    names = "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn"
    names += " dropout_p out_proj_weight"
    given = {name: call.argument(i, name) for i, name in enumerate(names.split())}
    query, key, value = given["query"], given["key"], given["value"]
    heads, packed = given["num_heads"], given["in_proj_weight"]
    width = query.shape[-1]
    if call.kwargs.get("use_separate_proj_weight"):
        parts = [call.kwargs[f"{kind}_proj_weight"] for kind in "qkv"]
        thetas = [flow.theta(part, part.shape[-1]) for part in parts]
    else:
        thetas = list(flow.theta(packed, packed.shape[-1]).chunk(3))
    live = [x for x in (query, key, value) if flow.live(x)]
    aligned, log = flow.align(live)
    table = {id(x): v for x, v in zip(live, aligned)}
    projected = []
    for x, theta in zip((query, key, value), thetas):
        flowing = table.get(id(x))
        flowing = torch.zeros(x.shape, dtype=flow.dtype) if flowing is None else flowing
        found = flow.semiring.linear(flowing, theta)
        projected.append(found.unflatten(-1, (heads, -1)).movedim(0, -2))
    mixed = mix(flow, *projected).movedim(-2, 0).reshape(*query.shape[:-1], width)
    out = given["out_proj_weight"]
    found = flow.put(flow.semiring.linear(mixed, flow.theta(out, out.shape[-1])), log)
    weights = torch.full((query.shape[0], key.shape[0]), 1.0 / key.shape[0], dtype=flow.dtype)
    return found, weights if call.kwargs.get("need_weights", True) else None


# Recurrent layers: two steps on the mean over time show every weight its part ----------


def recurrent(call: Call, gates: int, cell: Any) -> Any:
    """Layers and directions of torch.lstm, torch.gru and torch.rnn_*; the whole output is the second state."""
    flow = call.mode
    packed = isinstance(call.args[3], (list, tuple))
    data = call.args[0]
    weights, biased, layers = call.args[3 if packed else 2 : 6 if packed else 5]
    both_ways = call.args[8 if packed else 7]
    batch_first = not packed and call.args[8]
    hidden = call.args[2 if packed else 1]
    signal = flow.get(data)
    time = 0 if packed or not batch_first or signal.value.ndim < 3 else 1
    x = flow.semiring.mean(signal.value, time, False)
    log = signal.log
    per = len(weights) // (layers * (2 if both_ways else 1))
    finals: list[Tensor] = []
    for layer in range(layers):
        outputs = []
        for side in range(2 if both_ways else 1):
            start = (layer * (2 if both_ways else 1) + side) * per
            group = weights[start : start + per]
            w_in, w_state = (flow.theta(w, w.shape[-1]) for w in group[:2])
            projection = group[-1] if per == (5 if biased else 3) else None
            carry: Any = None
            state: Tensor | None = None
            for _ in range(2):
                state, carry = cell(flow, x, state, carry, w_in, w_state, gates)
                if projection is not None:
                    state = flow.semiring.linear(state, flow.theta(projection, projection.shape[-1]))
            outputs.append(state)
            finals.append(state)  # type: ignore[arg-type]
        x = torch.cat(outputs, -1)
    shape = list(signal.value.shape)
    shape[-1] = x.shape[-1]
    everywhere = x if packed else x.unsqueeze(time)
    out = flow.put(everywhere.expand(shape) * 1, log)
    last = flow.put(torch.stack(finals).expand_as(hidden[0] if isinstance(hidden, (list, tuple)) else hidden) * 1, log)
    if gates == 4:
        memory = hidden[1]
        width = memory.shape[-1]
        inner = torch.stack(finals).mean(-1, keepdim=True).expand(*memory.shape[:-1], width)
        return out, last, flow.put(inner * 1, log)
    return out, last


def through(flow: Flow, x: Tensor, state: Tensor | None, w_in: Tensor, w_state: Tensor) -> Tensor:
    """Pre-activations of one step: input and state meet."""
    found = flow.semiring.linear(x, w_in)
    return found if state is None else flow.semiring.add(found, flow.semiring.linear(state, w_state))


def lstm_cell(
    flow: Flow, x: Tensor, state: Tensor | None, memory: Tensor | None, w_in: Tensor, w_state: Tensor, gates: int
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with gates as geometric means."""
    i, f, g, o = through(flow, x, state, w_in, w_state).chunk(gates, -1)
    new = root(i, g)
    # The forget gate has nothing to keep in the first step, so the memory is the new entry alone.
    memory = new if memory is None else flow.semiring.add(root(f, memory), new)
    return root(o, memory), memory


def gru_cell(
    flow: Flow, x: Tensor, state: Tensor | None, carry: Any, w_in: Tensor, w_state: Tensor, gates: int
) -> tuple[Tensor, Any]:
    """One step of a GRU with gates as geometric means."""
    z_in, r_in, n_in = (part for part in (flow.semiring.linear(x, w) for w in order(w_in)))
    if state is None:
        return root(z_in, n_in), None
    z, r, n = (flow.semiring.linear(state, w) for w in order(w_state))
    z, r = flow.semiring.add(z_in, z), flow.semiring.add(r_in, r)
    n = flow.semiring.add(n_in, root(r, n))
    return flow.semiring.add(root(z, n), root(z, state)), None


def order(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks of a GRU as update, reset, new (torch stores reset, update, new)."""
    r, z, n = weight.chunk(3)
    return z, r, n


def rnn_cell(
    flow: Flow, x: Tensor, state: Tensor | None, carry: Any, w_in: Tensor, w_state: Tensor, gates: int
) -> tuple[Tensor, Any]:
    """One step of a plain recurrent layer."""
    return through(flow, x, state, w_in, w_state), None


def lstm(call: Call) -> Any:
    """torch.lstm."""
    return recurrent(call, 4, lstm_cell)


def gru(call: Call) -> Any:
    """torch.gru."""
    return recurrent(call, 3, gru_cell)


def rnn(call: Call) -> Any:
    """torch.rnn_tanh and torch.rnn_relu."""
    return recurrent(call, 1, rnn_cell)


# Graph attention ----------


def graph_attention(flow: Flow, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """GATConv and GATv2Conv of torch-geometric: the mean over the neighbours of each node, per head."""
    m: Any = module
    x = args[0] if args else kwargs["x"]
    edges = args[1] if len(args) > 1 else kwargs["edge_index"]
    source = getattr(m, "lin_src", None) or getattr(m, "lin_l", None) or m.lin
    h = source(x[0] if isinstance(x, tuple) else x).view(-1, m.heads, m.out_channels)
    count = len(h)
    senders, receivers = edges[0], edges[1]
    if m.add_self_loops:
        own = torch.arange(count)
        keep = senders != receivers
        senders, receivers = torch.cat([senders[keep], own]), torch.cat([receivers[keep], own])
    degree = torch.zeros(count).index_add(0, receivers, torch.ones(len(receivers))).clamp_min(1)
    signal = flow.get(h)
    messages = signal.value[senders] / (1.0 if isinstance(flow.semiring, Max) else degree[receivers, None, None])
    index = receivers[:, None, None].expand_as(messages)
    found = flow.put(flow.semiring.scatter(torch.zeros_like(signal.value), 0, index, messages), signal.log)
    out = found.flatten(1) if m.concat else found.mean(1)
    if getattr(m, "res", None) is not None:
        out = out + m.res(x)
    return out


def graph_modules() -> dict[type, ModuleRule]:
    """The classes of torch-geometric, where it is installed and already imported by the user's model."""
    import sys

    if "torch_geometric.nn" not in sys.modules:
        return {}
    from torch_geometric.nn import GATConv, GATv2Conv

    return {GATConv: graph_attention, GATv2Conv: graph_attention}
