"""Train networks from forward runs alone."""

from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="train",
    sentence="Train a network from forward runs alone: the likelihood ratio beside backpropagation and its rivals.",
    options={
        "fit": "onlyforward.train.command:Fit",
        "advise": "onlyforward.train.command:Advise",
        "adapt": "onlyforward.train.options:Adapt",
        "robust": "onlyforward.train.options:Robust",
    },
    run="onlyforward.train.command:run",
    demo="onlyforward.train.command:DEMO",
    benches={
        "ulr": Benchmark(
            "Any network trained by forward runs alone, beside backpropagation and the forward-only rivals.",
            "onlyforward.train.command:BenchUlr",
            "onlyforward.train.bench_ulr:run",
            peers=("torchzero", "evotorch"),
        ),
        "alr": Benchmark(
            "One bit of the noise, a pipeline one batch deep and recurrent training flat in T: what each costs.",
            "onlyforward.run.benchmark:BenchOptions",
            "onlyforward.train.bench_alr:run",
        ),
        "noise": Benchmark(
            "Spiking networks, learned noise levels and robustness, with backpropagation and the same noise beside.",
            "onlyforward.run.benchmark:BenchOptions",
            "onlyforward.train.bench_noise:run",
        ),
    },
)
