"""Rollouts on Ray: every piece of a batch is a pure task of policy, key and first episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.policies import NetworkPolicy, Structured
from onlyforward.decide.rollout import Alone, pack, rollout, structured_returns

if TYPE_CHECKING:
    from onlyforward.decide.envs.base import Environment
    from onlyforward.run.context import Context
    from onlyforward.run.ray import RayEngine


class Remote(Alone):
    """Pieces of a batch on Ray's actors; the driver learns, the actors simulate.

    Args:
        engine: a started engine.
    """

    def __init__(self, engine: RayEngine) -> None:
        self.engine = engine

    def simulate(
        self,
        environment: Environment,
        policy: NetworkPolicy | Structured,
        key: Key,
        parts: list[tuple[int, int]],
        numbers: Any,
    ) -> list[Tensor]:
        """Every piece's packed episodes, in order."""
        shared = {"environment": environment, "policy": policy, "key": key, "parts": parts, "numbers": numbers}
        keys = [key.at(chunk=i) for i in range(len(parts))]
        found = dict(self.engine.map("onlyforward.decide.remote:piece", keys, shared=shared))
        return [found[k] for k in keys]


def piece(shared: Mapping[str, Any], key: Key) -> Tensor:
    """One piece of a batch: packed episodes of a network, or returns of a structured policy."""
    first, count = shared["parts"][key.chunk]
    environment, policy = shared["environment"], shared["policy"]
    if isinstance(policy, NetworkPolicy):
        return pack(rollout(environment, policy, shared["key"], count, first=first))
    rows = shared["numbers"][first : first + count]
    return torch.from_numpy(structured_returns(environment, policy, rows, shared["key"], first=first))


@contextmanager
def sharing(options: Any, context: Context) -> Iterator[Any]:
    """What shares the pieces of a batch: this process, several processes (torchrun), or Ray's actors."""
    if options.engine == "ray":
        if options.backend != "numpy":
            raise UsageError("--engine ray simulates on numpy", "Leave --backend out")
        from onlyforward.run.ray import RayEngine

        with RayEngine(options.workers) as engine:
            yield Remote(engine)
        return
    from onlyforward.run.workers import group

    with group(options, context) as workers:
        yield workers
