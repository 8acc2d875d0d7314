"""Prune by connectivity: no layer collapse, really smaller models, the same outputs."""

from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="prune",
    sentence="Prune by connectivity: no layer collapse, really smaller models, the same outputs.",
    options={
        "run": "onlyforward.prune.command:Run",
        "model": "onlyforward.prune.command:Model",
        "report": "onlyforward.prune.command:Report",
        "shrink": "onlyforward.prune.command:Shrink",
    },
    run="onlyforward.prune.command:run",
    demo="onlyforward.prune.command:DEMO",
    benches={
        "connect": Benchmark(
            "Networks pruned by connectivity stay connected, keep their accuracy and really get smaller.",
            "onlyforward.prune.command:BenchConnect",
            "onlyforward.prune.bench:run",
            peers=("torch_pruning",),
        )
    },
)
