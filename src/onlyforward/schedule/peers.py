"""PyJobShop behind the signature of the bridges, with the same wall limit; CP-SAT itself stands in `bridge`."""

from __future__ import annotations

import time

import numpy as np

from onlyforward.core.checks import require
from onlyforward.schedule.bridge import Answer, cpsat
from onlyforward.schedule.jobs import Jobs

__all__ = ["Answer", "cpsat", "pyjobshop", "to_pyjobshop"]


def to_pyjobshop(jobs: Jobs) -> object:
    """PyJobShop's own model of an instance under weighted tardiness."""
    library = require("pyjobshop", "peers")
    model = library.Model()
    machine = model.add_machine()
    for j in range(jobs.n):
        job = model.add_job(
            weight=int(jobs.weight[j]), due_date=int(jobs.due[j]), release_date=int(jobs.r[j]), name=jobs.names[j]
        )
        model.add_mode(model.add_task(job), machine, int(jobs.p[j]))
    model.set_objective(weight_total_tardiness=1)
    return model


def pyjobshop(jobs: Jobs, time_limit: float) -> Answer:
    """PyJobShop (CP-SAT behind it, 8 workers) on the same instance."""
    model = to_pyjobshop(jobs)
    begin = time.perf_counter()
    found = model.solve(time_limit=time_limit, display=False, num_workers=8)  # type: ignore[attr-defined]
    objective = None if not np.isfinite(found.objective) else round(found.objective)
    lower = max(0, int(np.ceil(found.lower_bound - 1e-6)))
    return Answer(objective, lower, str(found.status.value).lower() == "optimal", time.perf_counter() - begin)
