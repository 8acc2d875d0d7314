"""Problems with closed forms: a run, its parameters, and the exact gradient of the smoothed objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.core.params import Params
from onlyforward.core.perturb.choices import plackett_luce_log_prob

Signal = Callable[[Params], Tensor]


@dataclass
class Problem:
    """A run that counts itself, and the truth about it.

    Attributes:
        name: for messages.
        signal: params -> [b].
        params: where the gradient is taken, float64.
        exact: gradient of the smoothed sum of signals, named like the params that are perturbed.
        runs: how often the run was called.
    """

    name: str
    signal: Signal
    params: dict[str, Tensor]
    exact: dict[str, Tensor]
    runs: int = field(default=0)

    def run(self, params: Params, key: Key) -> Tensor:
        """One forward run: [b]."""
        self.runs += 1
        return self.signal(params)


def fixed(*shape: int, seed: int) -> Tensor:
    """Fixed float64 numbers of a problem."""
    return torch.randn(shape, generator=Key(run=seed, site="problem").generator(), dtype=torch.float64)


def quadratic() -> Problem:
    """R_j = w'Aw/2 + c_j'w over two named tensors, b = 3: the smoothed gradient is 3 A w + sum c_j at every sigma."""
    root, slope = fixed(5, 5, seed=1), fixed(3, 5, seed=2)
    matrix = root @ root.T / 5
    params = {"first": fixed(2, seed=3), "second": fixed(3, seed=4)}

    def signal(p: Params) -> Tensor:
        w = torch.cat((p["first"], p["second"]), -1)
        return 0.5 * (w @ matrix * w).sum(-1)[..., None] + w @ slope.T

    w = torch.cat((params["first"], params["second"]))
    truth = 3 * matrix @ w + slope.sum(0)
    return Problem("quadratic", signal, params, {"first": truth[:2], "second": truth[2:]})


def quadratic_per_datum() -> Problem:
    """The quadratic with leaves [b, *shape]: every datum has its own perturbation."""
    base = quadratic()
    root, slope = fixed(5, 5, seed=1), fixed(3, 5, seed=2)
    matrix = root @ root.T / 5

    def signal(p: Params) -> Tensor:
        w = torch.cat((p["first"], p["second"]), -1)
        return 0.5 * (w @ matrix * w).sum(-1) + (w * slope).sum(-1)

    return Problem("quadratic per datum", signal, base.params, base.exact)


def inputs() -> Problem:
    """R(x) = x'Ax/2 + c'x per row of x [3, 4]: the gradient of each datum is A x + c."""
    root, slope, x = fixed(4, 4, seed=5), fixed(4, seed=6), fixed(3, 4, seed=7)
    matrix = root @ root.T / 4
    return Problem(
        "input quadratic",
        lambda p: 0.5 * (p["x"] @ matrix * p["x"]).sum(-1) + p["x"] @ slope,
        {"x": x},
        {"x": x @ matrix + slope},
    )


def categorical() -> Problem:
    """A table of rewards [2, 4] over softmax choices: exact by enumeration."""
    table, logits = fixed(2, 4, seed=8), fixed(2, 4, seed=9)
    rows = torch.arange(2)
    chance = logits.softmax(-1)
    truth = chance * (table - (chance * table).sum(-1, keepdim=True))
    return Problem("categorical", lambda p: table[rows, p["logits"]], {"logits": logits}, {"logits": truth})


def bernoulli() -> Problem:
    """A table over 2^3 masks for two data: exact by enumeration."""
    table, logits = fixed(2, 8, seed=10), fixed(2, 3, seed=11)
    powers, rows = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64), torch.arange(2)

    def expected(values: Tensor) -> Tensor:
        total = values.new_zeros(())
        for mask in itertools.product((0.0, 1.0), repeat=3):
            z = torch.tensor(mask, dtype=torch.float64)
            chance = (z * values.sigmoid() + (1 - z) * (1 - values.sigmoid())).prod(-1)
            total = total + (chance * table[:, int(z @ powers)]).sum()
        return total

    return Problem(
        "bernoulli",
        lambda p: table[rows, (p["logits"] @ powers).long()],
        {"logits": logits},
        {"logits": gradient_of(expected, logits)},
    )


def plackett_luce() -> Problem:
    """A reward for every order of three items, two data: exact by enumeration."""
    logits, table = fixed(2, 3, seed=12), fixed(2, 27, seed=13)
    code, rows = torch.tensor([9, 3, 1]), torch.arange(2)

    def expected(values: Tensor) -> Tensor:
        total = values.new_zeros(())
        for order in itertools.permutations(range(3)):
            picked = torch.tensor([order, order])
            total = total + (plackett_luce_log_prob(values, picked).exp() * table[:, int(picked[0] @ code)]).sum()
        return total

    return Problem(
        "plackett-luce",
        lambda p: table[rows, p["logits"] @ code],
        {"logits": logits},
        {"logits": gradient_of(expected, logits)},
    )


def cosines() -> Problem:
    """A product of cosines, the shape of a circuit's expectation value: exact under the parameter shift."""
    angles = fixed(4, seed=14)

    def value(a: Tensor) -> Tensor:
        return torch.stack((a.cos().prod(-1), (a[..., :2].cos().prod(-1) * a[..., 2].sin())), -1)

    return Problem(
        "cosines",
        lambda p: value(p["angles"]),
        {"angles": angles},
        {"angles": gradient_of(lambda a: value(a).sum(), angles)},
    )


def gradient_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Autograd's gradient of a scalar function."""
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0].detach()
