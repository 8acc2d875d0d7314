"""Random choices whose log-probability is differentiable although the choice is not: the score-function estimator.

grad E[R(a)] = E[R(a) grad ln p(a)]; no derivative of R exists or is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_choice
from onlyforward.core.keys import Key
from onlyforward.core.params import Params, walk
from onlyforward.core.perturb.parameters import LinearProbe
from onlyforward.core.probe import Run

KINDS = ("categorical", "bernoulli", "plackett-luce")


@dataclass(frozen=True)
class Choices:
    """Perturb by sampling a choice from logits.

    "categorical": logits [b, k] -> int64 [b]; "bernoulli": [b, k] -> {0, 1} [b, k]; "plackett-luce": [b, k] -> an order
    int64 [b, k], best first (Gumbel sort: exact sampling). The run sees the choice under the parameter's name.

    Attributes:
        distribution: one of the three.
        parameter: name of the logits among the params.
    """

    distribution: str = "categorical"
    parameter: str = "logits"
    antithetic: bool = False

    def __post_init__(self) -> None:
        check_choice(self.distribution, KINDS, name="distribution")

    @staticmethod
    def from_log_prob(fn: Callable[[Params, Any], Tensor]) -> LogProbChoices:
        """Choices of any policy: `fn(params, choices) -> [n, b]` log-probabilities; see `LogProbChoices`."""
        return LogProbChoices(fn)

    def probes(self, run: Run, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe; its pull gives the logits' shape."""
        logits = params[self.parameter]
        site = key.at(site=f"{key.site}{self.parameter}")
        with torch.no_grad():
            picks = [self.sample(logits, site.at(copy=copy)) for copy in range(copies)]
            signal = torch.stack(
                [run({**params, self.parameter: pick}, site.at(copy=copy)) for copy, pick in enumerate(picks)]
            )

        def pull(weight: Tensor) -> Params:
            total = torch.zeros_like(logits)
            for row, pick in zip(weight.to(logits.dtype), picks, strict=True):
                total += row[:, None] * self.score(logits, pick)
            return {self.parameter: total}

        yield LinearProbe(self.parameter, signal, copies, pull)

    def sample(self, logits: Tensor, key: Key) -> Tensor:
        """One choice per datum."""
        uniform = torch.rand(
            logits.shape, generator=key.generator(logits.device), dtype=logits.dtype, device=logits.device
        )
        if self.distribution == "bernoulli":
            return (uniform < logits.sigmoid()).to(logits.dtype)
        gumbel = logits - (-uniform.clamp(min=torch.finfo(logits.dtype).tiny).log()).log()
        return gumbel.argmax(-1) if self.distribution == "categorical" else gumbel.argsort(-1, descending=True)

    def score(self, logits: Tensor, choice: Tensor) -> Tensor:
        """Grad of ln p(choice) with respect to the logits: [b, k]."""
        if self.distribution == "bernoulli":
            return choice - logits.sigmoid()
        if self.distribution == "categorical":
            return torch.nn.functional.one_hot(choice, logits.shape[-1]).to(logits.dtype) - logits.softmax(-1)
        return plackett_luce_score(logits, choice)


def plackett_luce_score(logits: Tensor, order: Tensor) -> Tensor:
    """Gradient of ln p(order): 1 - exp(s_j) sum_{t <= position(j)} 1 / Z_t, Z_t the mass that is left at t: [b, k]."""
    ranked = logits.gather(-1, order)
    # ln Z_t is a cumulative log-sum-exp from the end; ln sum 1/Z_t one of -ln Z_t from the front.
    left = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    reached = (-left).logcumsumexp(-1)
    score = 1 - (ranked + reached).exp()
    return torch.zeros_like(score).scatter(-1, order, score)


def plackett_luce_log_prob(logits: Tensor, order: Tensor) -> Tensor:
    """Ln p(order) = sum_t s_{o_t} - ln sum_{u >= t} exp(s_{o_u}): [b]."""
    ranked = logits.gather(-1, order)
    return (ranked - ranked.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)


@dataclass(frozen=True)
class LogProbChoices:
    """Choices that the run itself makes: `run(params, key) -> (signal [b], choices)`, for policies of any module.

    Attributes:
        log_prob: fn(params, choices) -> [n, b], differentiable in params; choices are the runs' own, stacked by copy.
    """

    log_prob: Callable[[Params, Any], Tensor]
    antithetic: bool = False

    def probes(self, run: Any, params: Params, *, key: Key, copies: int) -> Iterator[LinearProbe]:
        """One probe; its pull is one local vector-Jacobian product of the log-probabilities."""
        site = key.at(site=f"{key.site}choices")
        with torch.no_grad():
            outcomes = [run(params, site.at(copy=copy)) for copy in range(copies)]
        choices = torch.stack([choice for _, choice in outcomes])

        def pull(weight: Tensor) -> Params:
            leaves = {name: value.detach().requires_grad_() for name, value in walk(params)}
            with torch.enable_grad():
                total = (weight.detach() * self.log_prob(leaves, choices)).sum()
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, grads, strict=True)}

        yield LinearProbe("choices", torch.stack([signal for signal, _ in outcomes]), copies, pull)
