"""Decide under risk: quantile policy optimisation on fast, verified simulators."""

from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="decide",
    sentence="Decide under risk: optimise a quantile of the outcome by running a simulator forward.",
    options={
        "envs": "onlyforward.decide.command:Envs",
        "solve": "onlyforward.decide.command:Solve",
        "train": "onlyforward.decide.command:Train",
        "evaluate": "onlyforward.decide.command:Evaluate",
        "fit-demand": "onlyforward.decide.options:FitDemand",
        "plan": "onlyforward.decide.options:Plan",
        "price": "onlyforward.decide.options:Price",
        "portfolio": "onlyforward.decide.options:Portfolio",
        "recommend": "onlyforward.decide.options:Recommend",
        "foundation-train": "onlyforward.decide.command:FoundationTrain",
        "foundation-evaluate": "onlyforward.decide.command:FoundationEvaluate",
    },
    run="onlyforward.decide.command:run",
    demo="onlyforward.decide.command:DEMO",
    benches={
        "quantile": Benchmark(
            claim="Quantile policies reach known optima that mean-optimal policies miss.",
            options="onlyforward.decide.command:BenchQuantile",
            run="onlyforward.decide.bench_quantile:run",
            peers=("stable_baselines3",),
        ),
        "management": Benchmark(
            claim="Exact solvers agree with published tables, learned policies come close, simulators are fast.",
            options="onlyforward.decide.command:BenchManagement",
            run="onlyforward.decide.bench_management:run",
        ),
    },
)
