"""Schedule: a plan for one machine, a proof of how good it is, why a job is late, and a cost nobody wrote down."""

import numpy as np

import onlyforward as of
from onlyforward.schedule import Jobs, check_certificate

draw = np.random.default_rng(0)
p = draw.integers(1, 60, 30)
jobs = Jobs(p, weight=draw.integers(1, 9, 30), due=draw.integers(0, int(0.6 * p.sum()), 30))

plan = of.solve_schedule(jobs, time_limit=1.0)
print(f"cost {plan.objective}, no plan costs less than {plan.lower_bound}: gap {100 * plan.gap:.2f} %")
plan.gantt("plan.svg")

if plan.certificate is not None:
    print("re-checked in plain integers:", check_certificate(jobs, plan.certificate))

dearest = int(np.argmax(jobs.costs(plan.completion)))
print(plan.explain(dearest).sentence(jobs))


def with_setups(sequence):
    """The same tardiness, and 40 for every change between even and odd jobs: a black box for the solver."""
    changes = np.abs(np.diff(np.asarray(sequence) % 2)).sum()
    done = np.cumsum(p[sequence])
    late = np.maximum(done - jobs.due[sequence], 0)
    return float((jobs.weight[sequence] * late).sum() + 40 * changes)


better = of.solve_schedule(jobs, evaluate=with_setups, time_limit=2.0)
print(f"with setups: {with_setups(plan.sequence):.0f} by the plan above, {better.objective:.0f} learned from its costs")
