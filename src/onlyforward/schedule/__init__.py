"""One machine, any non-decreasing cost, up to 1000 jobs: an order, and a proof of how far from optimal it can be."""

from onlyforward.core.lazy import attach
from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="schedule",
    sentence="Order the jobs of one machine, with a certified bound on how far from optimal the order can be.",
    options={
        "solve": "onlyforward.schedule.command:Solve",
        "bound": "onlyforward.schedule.command:Bound",
        "verify": "onlyforward.schedule.command:Verify",
        "train": "onlyforward.schedule.command:Train",
        "generate": "onlyforward.schedule.command:Generate",
    },
    run="onlyforward.schedule.command:run",
    demo="onlyforward.schedule.command:DEMO",
    benches={
        "scheduling": Benchmark(
            claim="Search with a certificate against CP-SAT, PyJobShop and dispatching rules at equal wall time.",
            options="onlyforward.schedule.command:Bench",
            run="onlyforward.schedule.bench:run",
            peers=("ortools", "pyjobshop"),
        ),
    },
)

PUBLIC = {
    "Jobs": "onlyforward.schedule.jobs",
    "total_cost": "onlyforward.schedule.jobs",
    "Piecewise": "onlyforward.schedule.cost",
    "Table": "onlyforward.schedule.cost",
    "sample": "onlyforward.schedule.cost",
    "Solution": "onlyforward.schedule.solution",
    "Network": "onlyforward.schedule.network",
    "solve": "onlyforward.schedule.pipeline",
    "check_certificate": "onlyforward.schedule.certificate",
    "bound": "onlyforward.schedule.dual",
}
__getattr__, __dir__ = attach(__name__, PUBLIC)
