"""Tune closed models: spend a fixed number of forward queries where they help most.

The package can be called: `onlyforward.tune(oracle, x, y, ...)` is `tune.api.tune`.
"""

import sys
from types import ModuleType
from typing import Any

from onlyforward.run.application import Application, Benchmark


class CallablePackage(ModuleType):
    """The package under the name of its main verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """`tune.api.tune`."""
        from onlyforward.tune.api import tune

        return tune(*arguments, **options)


sys.modules[__name__].__class__ = CallablePackage

APPLICATION = Application(
    name="tune",
    sentence="Tune closed models: adapters, prompts and alignment from a fixed number of queries, optimally allocated.",
    options={
        "plan": "onlyforward.tune.command:Plan",
        "vision": "onlyforward.tune.command:Vision",
        "text": "onlyforward.tune.command:Text",
        "align": "onlyforward.tune.command:Align",
        "vit": "onlyforward.tune.command:Vit",
    },
    run="onlyforward.tune.command:run",
    demo="onlyforward.tune.command:DEMO",
    benches={
        "flops": Benchmark(
            "Queries where they help most: variance, bias and overhead of allocators, and closed models tuned.",
            "onlyforward.tune.command:BenchFlops",
            "onlyforward.tune.bench:run",
            peers=("cmaes",),
        ),
    },
)
