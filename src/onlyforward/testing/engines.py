"""The laws of an engine. Each begins its AssertionError with the law's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.keys import Key
from onlyforward.core.params import digest
from onlyforward.run.engine import Engine, InProcess

TASK = "onlyforward.testing.engines:product"


def product(shared: Mapping[str, Any], key: Key) -> dict[str, Tensor]:
    """A task: a random matrix of the key times the shared vector."""
    x: Tensor = shared["x"]
    return {"y": torch.randn(7, len(x), generator=key.generator(), dtype=x.dtype) @ x}


def check_engine(engine: Engine, *, tasks: int = 12) -> None:
    """Every key comes back once, with the bits that the loop in this process gives, in a second round too.

    Raises:
        AssertionError: naming the law that is broken.
    """
    shared = {"x": torch.linspace(-1.0, 1.0, 33)}
    keys = [Key(run=5, step=step, site="engine") for step in range(tasks)]
    expected = {key: digest(value) for key, value in InProcess().map(TASK, keys, shared=shared)}
    threads = torch.get_num_threads()
    for name, asked in (("once", keys), ("again", keys[::-1])):
        found = [(key, digest(value)) for key, value in engine.map(TASK, asked, shared=shared)]
        assert sorted(key.step for key, _ in found) == list(range(tasks)), f"{name}: a key is missing or came twice"
        assert dict(found) == expected, f"{name}: the bits differ from those of the loop in this process"
    assert list(engine.map(TASK, [], shared=shared)) == [], "empty: no keys gave results"
    assert torch.get_num_threads() == threads, "threads: the caller's number of threads was changed"
