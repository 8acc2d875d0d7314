"""The laws of the measure, each checked against a second, obvious computation."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import UsageError
from onlyforward.prune import scores
from onlyforward.prune.connect import CoNNect, gradients, live_flags, probe, sizes
from onlyforward.prune.enumeration import Walkable, chain, random_network
from onlyforward.prune.tropical import outputs_of, support

if TYPE_CHECKING:
    from onlyforward.run.result import Result

Finding = tuple[bool, float]
"""Whether a law holds, and the figure that decides."""


def enumerate_paths(count: int) -> dict[str, float]:
    """The largest errors of flow, shares, living flags and best paths against every path walked, over random nets."""
    worst = {"flow": 0.0, "shares": 0.0, "live": 0.0, "best": 0.0}
    for seed in range(count):
        net = random_network(seed)
        for name, error in compare_paths(net).items():
            worst[name] = max(worst[name], error)
    return worst


def compare_paths(net: Walkable) -> dict[str, float]:
    """One network: relative errors of flow and shares, numbers of wrong flags."""
    found = list(net.paths())
    flow = sum(product for product, _, _ in found)
    how = probe(net.module, net.example)
    weights = sizes(net.module)
    if flow == 0:
        return {"flow": 0.0 if math.isinf(gradients(how, weights)[1]) else math.inf}
    slopes, _ = gradients(how, weights)
    value, log = how.run(weights)
    # Positions of maps are averaged in reports; the paths are summed here.
    total = float(value.sum()) * math.exp(log)
    errors = {"flow": abs(total / flow - 1)}
    exact = {name: torch.zeros(w.numel(), dtype=torch.float64) for name, w in weights.items()}
    best: dict[int, tuple[float, list[Any]]] = {}
    for product, places, output in found:
        for name, index in places:
            exact[name][index] += product / flow
        if product > best.get(output, (0.0, []))[0]:
            best[output] = product, places
    shares = {name: (weights[name] * slope).flatten() for name, slope in slopes.items()}
    errors["shares"] = max(float((shares[name] - exact[name]).abs().max()) for name in shares)
    flags, _ = live_flags(how, weights)
    errors["live"] = float(sum(int((flags[name].flatten() != (exact[name] > 0)).sum()) for name in flags))
    marked = support(how, weights)
    wanted = {(name, index) for _, places in best.values() for name, index in places}
    have = {(name, int(i)) for name in marked for i in marked[name].flatten().nonzero().flatten()}
    errors["best"] = float(len(wanted ^ have))
    return errors


def small_chain(seed: int, *, low: int = 1) -> tuple[nn.Module, Tensor, list[int]]:
    """A random chain of up to four layers in float64."""
    pick = torch.Generator().manual_seed(seed)
    widths = torch.randint(low, 7, (int(torch.randint(2, 5, (), generator=pick)) + 1,), generator=pick).tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, example, _ = chain(widths)
    return module.double(), example.double(), widths


def inverse(count: int) -> Finding:
    """Phi is the in-out block sum of (I - theta)^-1."""
    worst = 0.0
    for seed in range(count):
        module, example, widths = small_chain(seed)
        n = sum(widths)
        theta = torch.zeros(n, n, dtype=torch.float64)
        at = 0
        for layer in (m for m in module.modules() if isinstance(m, nn.Linear)):
            w = layer.weight.detach().abs()
            a, b = w.shape[1], w.shape[0]
            theta[at : at + a, at + a : at + a + b] = (w / w.sum()).T
            at += a
        block = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - theta)[: widths[0], -widths[-1] :]
        worst = max(worst, abs(float(block.sum()) - CoNNect(module, example).phi()))
    return worst <= 1e-10, worst


def bounds(count: int) -> Finding:
    """P1: 0 <= phi <= 1, and phi = 1 with one living neuron per hidden layer or with no hidden layer."""
    worst = 0.0
    for seed in range(count):
        module, example, _ = small_chain(seed)
        phi = CoNNect(module, example).phi()
        worst = max(worst, -phi, phi - 1)
        layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer in layers[:-1]:
                layer.weight[1:] = 0
            for layer in layers[1:]:
                layer.weight[:, 1:] = 0
        worst = max(worst, abs(CoNNect(module, example).phi() - 1))
    return worst <= 1e-12, worst


def uniform(count: int) -> Finding:
    """P2: uniform weights give R = sum over hidden layers of log n."""
    worst = 0.0
    for seed in range(count):
        module, example, widths = small_chain(seed)
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(0.7)
        exact = sum(math.log(n) for n in widths[1:-1])
        worst = max(worst, abs(float(CoNNect(module, example, normalize="sum")().detach()) - exact))
    return worst <= 1e-10, worst


def shift(count: int) -> Finding:
    """The mean normaliser adds sum over hidden layers of log n to log phi, and has the same gradients."""
    worst = 0.0
    for seed in range(count):
        module, example, widths = small_chain(seed)
        slopes = []
        values = []
        for kind in ("mean", "sum"):
            module.zero_grad()
            r = CoNNect(module, example, normalize=kind)()
            r.backward()  # type: ignore[no-untyped-call]
            values.append(float(r.detach()))
            slopes.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        worst = max(worst, abs(values[1] - values[0] - sum(math.log(n) for n in widths[1:-1])))
        worst = max([worst, *(float((a - b).abs().max()) for a, b in zip(*slopes))])
    return worst <= 1e-10, worst


def rescaling(count: int) -> Finding:
    """P5: a layer's scale does not matter, and <W, dR/dW> = 0 in every layer."""
    worst = 0.0
    for seed in range(count):
        module, example, _ = small_chain(seed)
        connect = CoNNect(module, example)
        before = connect()
        before.backward()
        for p in module.parameters():
            if p.grad is not None and p.ndim > 1:
                worst = max(worst, abs(float((p.detach() * p.grad).sum())))
        with torch.no_grad():
            next(module.parameters()).mul_(37.0)
        worst = max(worst, abs(float(connect().detach()) - float(before.detach())))
    return worst <= 1e-10, worst


def gradient_law(count: int) -> Finding:
    """|W| d log phi / d|W| = share - theta."""
    worst = 0.0
    for seed in range(count):
        module, example, _ = small_chain(seed)
        connect = CoNNect(module, example, normalize="sum")
        connect().backward()  # type: ignore[no-untyped-call]
        parameters = dict(module.named_parameters())
        for name, share in connect.shares().items():
            w = parameters[name]
            assert w.grad is not None
            theta = w.detach().abs() / w.detach().abs().sum()
            worst = max(worst, float((-w.detach() * w.grad - (share - theta)).abs().max()))
    return worst <= 1e-10, worst


def baum_eagon(count: int, steps: int = 30) -> tuple[int, float]:
    """P3, P4, P6: decreases of phi over chains x steps of theta <- share, and the least phi reached in the end."""
    decreases, least = 0, 1.0
    for seed in range(count):
        module, example, _ = small_chain(seed, low=2)
        how = probe(module, example)
        weights = {name: w / w.sum() for name, w in sizes(module).items()}
        last = 0.0
        for _ in range(steps + 1):
            slopes, log = gradients(how, weights)
            decreases += math.exp(log) < last - 1e-12
            last = math.exp(log)
            # All layers at once: the inequality holds on the product of their simplices.
            weights |= {name: weights[name] * slope for name, slope in slopes.items()}
        least = min(least, last)
    return decreases, least


def synflow_law(count: int) -> Finding:
    """Share is SynFlow's score over the total flow, with SynFlow computed by autograd on an absolute copy."""
    worst = 0.0
    for seed in range(count):
        module, example, _ = small_chain(seed)
        plain = nn.Sequential(*(copy.deepcopy(m) for m in module if isinstance(m, nn.Linear)))  # type: ignore[attr-defined]
        with torch.no_grad():
            for layer in plain:
                layer.weight.abs_()  # type: ignore[operator, union-attr]
                layer.bias.zero_()  # type: ignore[operator, union-attr]
        flow = plain(example).sum()
        flow.backward()
        for layer, share in zip(plain, scores.share(module, example).values()):
            weight: Any = layer.weight.detach()
            slope: Any = layer.weight.grad
            worst = max(worst, float((weight * slope / flow.detach() - share).abs().max()))
    return worst <= 1e-10, worst


def cut() -> Finding:
    """No path: R is finite, with a warning, and its gradient is zero."""
    module, example, _ = small_chain(3)
    with torch.no_grad():
        next(module.parameters()).zero_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r = CoNNect(module, example)()
    r.backward()  # type: ignore[no-untyped-call]
    slope = sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)
    return bool(caught) and math.isfinite(float(r.detach())) and slope == 0.0, slope


def untouched() -> Finding:
    """Parameters, buffers, random state, training flags and hooks stay, and a second call gives the same bits."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(36, 2)
    )
    model.train()
    fired: list[int] = []
    model[0].register_forward_hook(lambda *_: fired.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    connect = CoNNect(model, torch.ones(1, 1, 5, 5))
    same = torch.equal(connect(), connect())
    same &= torch.equal(state, torch.get_rng_state()) and not fired and all(m.training for m in model.modules())
    same &= all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return same, float(same)


def precision() -> Finding:
    """bfloat16 weights and autocast give float32's R: the largest difference."""
    module, example, _ = small_chain(8)
    exact = float(CoNNect(module, example)().detach())
    coarse = copy.deepcopy(module).bfloat16()
    reference = float(CoNNect(copy.deepcopy(coarse).double(), example)().detach())
    found = abs(float(CoNNect(coarse, example.bfloat16())().detach()) - reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = max(found, abs(float(CoNNect(module.float(), example.float())().detach()) - exact))
    return found <= 1e-5, found


def gates() -> Finding:
    """A gated pair sends sqrt(a b), with gradient 0 at a = 0 where a plain root gives NaN."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.silu(self.a(x)) * self.b(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gated().double()
    with torch.no_grad():
        model.a.weight[0] = 0
    weights = sizes(model)
    a, b = (weights[f"{name}.weight"].sum(1) for name in "ab")
    exact = float((weights["head.weight"] @ (a * b).sqrt()).sum())
    how = probe(model, torch.ones(1, 3).double())
    value, log = how.run(weights)
    error = abs(float(value.sum()) * math.exp(log) / exact - 1)
    slopes, _ = gradients(how, weights)
    return error <= 1e-12 and all(bool(s.isfinite().all()) for s in slopes.values()), error


def unknown() -> Finding:
    """An operation without a rule that makes negative flow is an error that names it."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.digamma(x)

    try:
        CoNNect(nn.Sequential(nn.Linear(3, 3), Odd()), torch.ones(1, 3))()
    except UsageError as error:
        named = "digamma" in str(error) and "register_rule" in str(error)
        return named, float(named)
    return False, 0.0


def deep(layers: int = 200, width: int = 512) -> float:
    """|log phi| in float32 under the mean normaliser of a chain with torch's own initial weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        return abs(float(CoNNect(model, torch.ones(1, width))()))


def best_is_reached() -> Finding:
    """The (max, x) run gives every output its best path's product, against every path walked."""
    worst = 0.0
    for seed in range(0, 40):
        net = random_network(seed)
        best: dict[int, float] = {}
        for product, _, output in net.paths():
            best[output] = max(best.get(output, 0.0), product)
        from onlyforward.prune.semiring import Max

        value, log = probe(net.module, net.example).run(sizes(net.module), semiring=Max())
        found = outputs_of(value) * math.exp(log)
        for output, product in best.items():
            worst = max(worst, abs(float(found[output]) / product - 1))
    return worst <= 1e-10, worst


def laws(count: int) -> Mapping[str, Callable[[], Finding]]:
    """Name -> check; `count` random networks each."""
    return {
        "phi is the block sum of (I - theta)^-1": partial(inverse, count),
        "phi lies in [0, 1] and is 1 for a chain one neuron wide": partial(bounds, count),
        "uniform weights: R = sum of log n over hidden layers": partial(uniform, count),
        "the mean normaliser shifts log phi by the widths alone": partial(shift, count),
        "a layer's scale does not matter": partial(rescaling, count),
        "the slope is path share minus weight share": partial(gradient_law, count),
        "share is SynFlow's score over the flow": partial(synflow_law, count),
        "best paths have the best product": best_is_reached,
        "gates send the geometric mean": gates,
        "a cut network gives a finite R and no gradient": cut,
        "the model is left as it was": untouched,
        "low precision and autocast do not matter": precision,
        "an unknown operation is named": unknown,
    }


def run_laws(result: Result, *, quick: bool, say: Callable[[str], None]) -> None:
    """All laws and the models into the result."""
    from onlyforward.prune.bench_models import run_models

    rows: list[list[Any]] = []
    say("paths")
    errors = enumerate_paths(40 if quick else 200)
    worst = max(errors["flow"], errors["shares"])
    result.metric("path_max_error", worst)
    for name, error in errors.items():
        rows.append([f"enumeration of all paths: {name}", error <= 1e-10, error])
    for name, law in laws(10 if quick else 50).items():
        say(name)
        good, figure = law()
        rows.append([name, good, figure])
    say("Baum-Eagon")
    decreases, least = baum_eagon(20 if quick else 300)
    result.metric("baum_eagon_decreases", decreases)
    rows.append(["theta <- share never decreases phi", decreases == 0, decreases])
    rows.append(["theta <- share ends at the global maximum", least > 0.99, least])
    depth = deep()
    result.metric("depth_200_abs_log_phi", depth)
    rows.append(["200 layers of width 512 in float32: |log phi|", depth <= 1e-3, depth])
    result.metric("laws_checked", len(rows))
    result.metric("laws_failed", sum(not good for _, good, _ in rows))
    result.table("Laws", ["law", "holds", "figure"], rows, "figure: the largest error, or what the law bounds.")
    run_models(result, say=say)
