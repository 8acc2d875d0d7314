"""Random instances, and `schedule generate`, which writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import FileError
from onlyforward.core.keys import Key
from onlyforward.schedule import special
from onlyforward.schedule.command import Generate
from onlyforward.schedule.jobs import Jobs

if TYPE_CHECKING:
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

KINDS = ("wt", "release", "certified", "certified-wt", "blocks", "plant")


def weighted_tardiness(n: int, key: Key, *, tightness: float | None = None, spread: float | None = None) -> Jobs:
    """The usual scheme: p in 1..100, w in 1..10, due dates uniform in P [1 - tau - R/2, 1 - tau + R/2]."""
    draw = key.numpy()
    tau = draw.choice([0.2, 0.4, 0.6, 0.8, 1.0]) if tightness is None else tightness
    wide = draw.choice([0.2, 0.4, 0.6, 0.8, 1.0]) if spread is None else spread
    p, w = draw.integers(1, 101, n), draw.integers(1, 11, n)
    low, high = (max(0.0, p.sum() * (1 - tau + sign * wide / 2)) for sign in (-1, 1))
    return Jobs(p, weight=w, due=draw.integers(int(low), int(high) + 1, n))


def releases(n: int, key: Key) -> Jobs:
    """Releases uniform in 0..50.5 n R, due dates after them."""
    draw = key.numpy()
    wide, tau = draw.choice([0.2, 0.6, 1.0, 1.5, 3.0]), draw.choice([0.2, 0.4, 0.6, 0.8])
    p, w = draw.integers(1, 101, n), draw.integers(1, 11, n)
    r = draw.integers(0, int(50.5 * n * wide) + 1, n)
    return Jobs(p, r=r, weight=w, due=r + p + draw.integers(0, int((1 - tau) * p.sum()) + 1, n))


def plant(n: int, key: Key) -> Jobs:
    """Due dates of real factory orders; the processing times are invented so that about half of the load is late."""
    from onlyforward.data.sets import folder

    with np.load(folder("factory_jobshop") / "rw_data.npz", allow_pickle=False) as data:
        due = data["due_dates"].ravel()
    draw = key.numpy()
    chosen = draw.choice(due, n, replace=n > len(due))
    p = draw.integers(1, max(2, int(2 * np.median(due) * 1.2 / n)) + 1, n)
    return Jobs(p, weight=draw.integers(1, 11, n), due=np.rint(chosen).astype(np.int64))


def draw_one(kind: str, n: int, key: Key) -> tuple[Jobs, Any]:
    """One instance and its optimum where it is known."""
    if kind in ("wt", "release", "plant"):
        return {"wt": weighted_tardiness, "release": releases, "plant": plant}[kind](n, key), None
    jobs, optimum, _ = {"certified": special.any_cost, "certified-wt": special.tardiness, "blocks": special.blocks}[
        kind
    ](n, key)
    return jobs, optimum


def generate(options: Generate, context: Context) -> Result:
    """Write instances, and a file of optima where they are known."""
    check_choice(options.kind, KINDS, name="kind")
    try:
        options.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{options.to} cannot be made: {error.strerror}", "Choose another --to") from error
    lines = []
    for i in range(options.count):
        jobs, optimum = draw_one(options.kind, options.n, context.key.at(site=f"generate {options.kind}", step=i))
        name = f"{options.kind}_{options.n}_{i + 1}"
        if jobs.families:
            jobs.write(options.to / f"{name}.csv")
        else:
            knots, coef = jobs.pieces
            arrays = {"value": coef[..., 0], "slope": coef[..., 1], "curvature": coef[..., 2]}
            np.savez_compressed(options.to / f"{name}.npz", p=jobs.p, r=jobs.r, knots=knots, **arrays)
        if optimum is not None:
            lines.append(f"{name} {optimum}")
    if lines:
        (options.to / "optima.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = context.result(question="Which instances were written?")
    result.metric("instances", options.count)
    result.metric("n", options.n)
    result.answer = f"{options.count} instances of {options.n} jobs are in {options.to}."
    if options.kind == "plant":
        result.answer += " Due dates are real orders; processing times and weights are invented."
    return result
