"""The jobs of one machine as arrays, checked at the border; int64 from end to end where the input is integer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.schedule.cost import (
    FAMILIES,
    FAR_FLOAT,
    FAR_INT,
    WITHOUT_DUE,
    BadJob,
    Cost,
    check_monotone,
    evaluate,
)

MOST = 20_000
"""Jobs that one instance may have."""


@dataclass(frozen=True, eq=False)
class Jobs:
    """An instance.

    Attributes:
        p: [n] processing times > 0.
        r: [n] releases >= 0 (default 0).
        weight: [n] >= 0 (default 1).
        due: [n] due dates (needed by the families that have one).
        cost: a family's name, one name per job, or a `Piecewise`, `Table` or other `Cost`.
        names: [n] unique names (default "1".."n").
    """

    p: Any
    r: Any = None
    weight: Any = None
    due: Any = None
    cost: Any = "weighted-tardiness"
    names: Any = None

    def __post_init__(self) -> None:
        n = len(self.p)
        if n == 0:
            raise UsageError("There are no jobs", "Give at least one")
        if n > MOST:
            raise UsageError(f"There are {n} jobs", f"At most {MOST} are possible; split the horizon")
        columns = {"p": self.p, "r": self.r, "w": self.weight, "d": self.due}
        defaults = {"r": 0, "w": 1, "d": 0}
        arrays = {key: column(key, defaults[key] if value is None else value, n) for key, value in columns.items()}
        whole = all(array.dtype == np.int64 for array in arrays.values()) and integral(self.cost)
        if not whole:
            arrays = {key: array.astype(np.float64) for key, array in arrays.items()}
        for name, key in (("p", "p"), ("r", "r"), ("weight", "w"), ("due", "d")):
            object.__setattr__(self, name, arrays[key])
        labels = [str(j + 1) for j in range(n)] if self.names is None else [str(name) for name in self.names]
        if len(labels) != n:
            raise UsageError(f"There are {n} jobs and {len(labels)} names", "Give one name per job")
        object.__setattr__(self, "names", labels)
        self.check(given_due=columns["d"] is not None)

    def check(self, *, given_due: bool) -> None:
        """Every rule about single jobs; the first that is broken is named."""
        rules = (
            ("p", self.p <= 0, "must be above 0", self.p),
            ("r", self.r < 0, "must be at least 0", self.r),
            ("w", self.weight < 0, "must be at least 0", self.weight),
        )
        for key, wrong, rule, values in rules:
            if wrong.any():
                row = int(np.argmax(wrong))
                raise BadJob(row, key, f"{values[row]} {rule}", "Correct the number")
        if len(set(self.names)) < self.n:
            seen: set[str] = set()
            row = next(i for i, name in enumerate(self.names) if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise BadJob(row, "job", f"the name {self.names[row]!r} occurs twice", "Give every job its own name")
        if not given_due and any(name not in WITHOUT_DUE for name in set(self.families)):
            raise UsageError("The column d (due date) is missing", "Add it, or choose --objective weighted-completion")
        if self.p.astype(float).sum() + float(self.r.max()) >= 2.0**62:
            raise UsageError("The times add up to more than 2^62", "Use larger units of time")
        knots, coef = self.pieces
        check_monotone(knots, coef, self.names)
        exact = (
            coef[..., 0].astype(float)
            + (self.horizon - np.minimum(knots, self.horizon).astype(float)) * coef[..., 1]
            + (self.horizon - np.minimum(knots, self.horizon).astype(float)) ** 2 * coef[..., 2]
        )
        if not np.isfinite(exact).all() or self.n * np.abs(exact).max() >= 2.0**62:
            raise UsageError(
                "The total cost can pass 2^62, so that sums would overflow", "Use larger units for time or cost"
            )

    @property
    def n(self) -> int:
        """Number of jobs."""
        return len(self.p)

    @property
    def families(self) -> list[str]:
        """Names of the families that are computed from columns, one per job or a single one; empty for a `Cost`."""
        if isinstance(self.cost, str):
            return [self.cost]
        return list(self.cost) if isinstance(self.cost, list | tuple) else []

    @property
    def whole(self) -> bool:
        """Whether all numbers are integers."""
        return bool(self.p.dtype == np.int64)

    @property
    def arithmetic(self) -> str:
        """What costs are computed in."""
        return "int64" if self.whole else "float64"

    @property
    def released(self) -> bool:
        """Whether some job is not there from the start."""
        return bool((self.r > 0).any())

    @property
    def horizon(self) -> Any:
        """No left-shifted schedule ends later."""
        return self.p.sum() + self.r.max()

    @cached_property
    def pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """`knots [n, m]`, `coef [n, m, 3]`."""
        if isinstance(self.cost, str):
            check_choice(self.cost, FAMILIES, name="objective")
            return FAMILIES[self.cost]().pieces(self.p, self.weight, self.due)
        if not isinstance(self.cost, list | tuple):
            given: Cost = self.cost
            knots, coef = given.pieces(self.p, self.weight, self.due)
            if len(knots) != self.n:
                raise UsageError(f"The cost has {len(knots)} rows for {self.n} jobs", "Give one row per job")
            return knots, coef
        parts = {
            name: FAMILIES[check_choice(name, FAMILIES, name="objective")]().pieces(self.p, self.weight, self.due)
            for name in set(self.cost)
        }
        m = max(knots.shape[1] for knots, _ in parts.values())
        knots = np.full((self.n, m), FAR_INT if self.whole else FAR_FLOAT, self.p.dtype)
        coef = np.zeros((self.n, m, 3), self.p.dtype)
        for name, (some, abc) in parts.items():
            rows = np.array([cost == name for cost in self.cost])
            knots[rows, : some.shape[1]] = some[rows]
            coef[rows, : some.shape[1]] = abc[rows]
        return knots, coef

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the numbers that decide the optimum: equal for equal instances, whatever the names."""
        total = sha256(f"{self.arithmetic} {self.n}".encode())
        for array in (self.p, self.r, *self.pieces):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def with_cost(self, cost: Any) -> Jobs:
        """The same jobs under another objective."""
        return replace(self, cost=cost)

    def costs(self, completion: np.ndarray) -> np.ndarray:
        """[n] cost of every job that ends at `completion [n]`."""
        return evaluate(*self.pieces, np.arange(self.n), np.asarray(completion))

    def index(self, names: Sequence[str], *, option: str) -> list[int]:
        """Positions of named jobs."""
        place = {name: j for j, name in enumerate(self.names)}
        for name in names:
            if name not in place:
                check_choice(name, place, name=f"job in {option}")
        return [place[name] for name in names]

    @staticmethod
    def read(path: Path | str, format: str | None = None, index: int | None = None) -> Jobs:
        """Read one instance; see `onlyforward.schedule.read`."""
        from onlyforward.schedule.read import read_instance

        return read_instance(Path(path), format=format, index=index)

    def write(self, path: Path | str) -> None:
        """Write as CSV."""
        from onlyforward.schedule.read import write_jobs

        write_jobs(self, Path(path))


def integral(cost: Any) -> bool:
    """Whether a cost's own numbers are integers; families have none."""
    return all(
        np.issubdtype(np.asarray(value).dtype, np.integer)
        for value in (vars(cost).values() if not isinstance(cost, str | list | tuple) else ())
    )


def column(key: str, values: Any, n: int) -> np.ndarray:
    """One column as int64 where every number is an integer, as float64 otherwise."""
    try:
        array = np.asarray(values)
        array = np.full(n, array) if array.ndim == 0 else array
        if array.dtype == object or array.dtype == np.uint64:
            if any(isinstance(value, int | np.integer) and abs(int(value)) >= 2**62 for value in array):
                raise BadJob(0, key, "a number passes 2^62", "Use larger units")
            array = array.astype(np.float64)
        array = array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BadJob):
            raise
        raise UsageError(f"Column {key} is not made of numbers", "Give numbers only") from error
    if array.shape != (n,):
        raise UsageError(f"Column {key} has shape {list(array.shape)}", f"It must be [{n}], one number per job")
    if array.dtype == np.float64:
        wrong = ~(np.abs(array) < 2.0**62)
        if wrong.any():
            row = int(np.argmax(wrong))
            problem = "the number passes 2^62" if np.isfinite(array[row]) else "the number is not finite"
            raise BadJob(row, key, problem, "Correct the number, or use larger units")
        if (np.abs(array) < 2.0**53).all() and (array == np.rint(array)).all():
            array = array.astype(np.int64)
    elif (np.abs(array) >= 2**62).any():
        raise BadJob(int(np.argmax(np.abs(array) >= 2**62)), key, "the number passes 2^62", "Use larger units")
    return array


def timetable(jobs: Jobs, sequence: np.ndarray, *, now: Any = 0, head: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Left-shifted starts and completions [n] by job; after the first `head` of the order none starts before now."""
    start = np.zeros_like(jobs.p)
    t = start.dtype.type(0)
    for position, j in enumerate(sequence):
        t = max(t, jobs.r[j], now if position >= head else 0)
        start[j] = t
        t = t + jobs.p[j]
    return start, start + jobs.p


def total_cost(jobs: Jobs, sequence: Sequence[int] | np.ndarray) -> int | float:
    """Cost of an order: sum_j f_j(C_j) of the left-shifted schedule, exact for integer input."""
    order = np.asarray(sequence)
    if sorted(order.tolist()) != list(range(jobs.n)):
        raise UsageError("The sequence is not a permutation of the jobs", f"Give each of 0..{jobs.n - 1} once")
    total = jobs.costs(timetable(jobs, order)[1]).sum()
    return int(total) if jobs.whole else float(total)
