"""A pipeline one batch deep: the gradient jobs of batch t run in a thread while batch t + 1 runs forward.

A job needs what its site kept (inputs, key, losses) and no weights. The update that follows batch t + 1 therefore uses
the gradient of batch t, taken at weights one update old (ALR, arXiv 2403.12320): theta_{t+1} = theta_t - g_{t-1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.core.errors import UsageError
from onlyforward.nn.activations import LossFn
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.gradients import deposit, take
from onlyforward.nn.rules import local_vjp, rule_for
from onlyforward.nn.state import Started

Gradients = dict[nn.Parameter, Tensor]


class Lagged:
    """An engine whose `backward` delivers the gradient of the batch before; the first call delivers none.

    Args:
        engine: a likelihood ratio whose sites have closed-form local rules, because a job must not run a module that
            the next batch is running.
    """

    def __init__(self, engine: LikelihoodRatio) -> None:
        self.engine = engine
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="gradient-jobs")
        self.waiting: Future[Gradients] | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the engine's own."""
        return getattr(self.engine, name)

    def backward(self, loss_fn: LossFn, *inputs: Any) -> Tensor:
        """Run this batch forward, deposit the gradient of the one before, and hand this one's jobs to the thread."""
        engine = self.engine
        with engine.started(loss_fn, *inputs) as begun:
            jobs = list(engine.jobs(begun))
        for site, _, _ in jobs:
            if rule_for(site.call.module) is local_vjp or site.call.graph is not None or site.call.feed is not None:
                raise UsageError(
                    f"{site.path} ({type(site.call.module).__name__}) has no closed-form rule", "Use --lag 0"
                )
        if self.waiting is not None:
            deposit(engine, self.waiting.result())
        self.waiting = self.thread.submit(self.pulled, begun, jobs)
        engine.steps += 1
        return begun.clean.mean()

    def pulled(self, begun: Started, jobs: list[Any]) -> Gradients:
        """The gradient of one batch, in the thread."""
        with torch.no_grad():
            for site, probe, weight in jobs:
                take(self.engine, site, probe.delta(weight), begun.found, begun.data)
        return begun.found

    def state(self) -> dict[str, Any]:
        """The engine's state and the gradient that waits, as lists of numbers by parameter name."""
        names = {p: name for name, p in self.engine.model.named_parameters()}
        waiting = {} if self.waiting is None else {names[p]: g.tolist() for p, g in self.waiting.result().items()}
        return {**self.engine.state(), "waiting": waiting}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.engine.load_state({name: value for name, value in state.items() if name != "waiting"})
        parameters = dict(self.engine.model.named_parameters())
        kept = {parameters[name]: torch.tensor(g).to(parameters[name]) for name, g in state["waiting"].items()}
        done: Future[Gradients] = Future()
        done.set_result(kept)
        self.waiting = done if kept else None
