"""A session of slates: a user whom nobody knows looks at k of n items and takes one or none, by multinomial logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.checks import check_range
from onlyforward.core.errors import UsageError
from onlyforward.decide.envs.base import Array, Environment, Reference, Space, State
from onlyforward.decide.envs.kernels_market import market_kernels

TASTES = (
    (1.0, 0.6, 0.2, -0.2, -0.6, -1.0, -1.4, -1.8),
    (-1.8, -1.4, -1.0, -0.6, -0.2, 0.2, 0.6, 1.0),
    (-0.5, 0.8, -0.5, 0.8, -0.5, 0.8, -0.5, 0.8),
    (0.3, 0.3, -1.2, -1.2, 0.3, 0.3, -1.2, -1.2),
)
MARGINS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4)


@dataclass(frozen=True)
class RecommendationParameters:
    """Parameters.

    Attributes:
        tastes: utility of every item to every kind of user [U][n]; a session's user is one of them, at random. Rows of
            a fitted model (`decide recommend`) fit here.
        margins: what a taken item earns [n].
        slate: k, items shown at a time.
        periods: T, slates of a session.
    """

    tastes: tuple[tuple[float, ...], ...] = TASTES
    margins: tuple[float, ...] = MARGINS
    slate: int = 3
    periods: int = 10

    def __post_init__(self) -> None:
        if any(len(row) != len(self.margins) for row in self.tastes):
            raise UsageError("tastes and margins have different numbers of items", "Give one utility an item and user")
        check_range(self.slate, name="slate", low=1, high=len(self.margins))
        check_range(self.periods, name="periods", low=1)


class Recommendation(Environment):
    """The batched sessions.

    A slate is k places, each an item or (the number n) nothing; an item named twice is shown once. Observations: time
    left, then how often each item was shown and taken, as shares of the session: [B, 1 + 2n].
    """

    id = "Recommendation"
    gamma, alpha = 1.0, 0.1

    def __init__(
        self, parameters: RecommendationParameters | None = None, *, backend: str = "numpy", device: str = "cpu"
    ) -> None:
        super().__init__(backend=backend, device=device)
        self.parameters = p = parameters or RecommendationParameters()
        items = len(p.margins)
        self.horizon = p.periods
        self.observation_size = 1 + 2 * items
        self.action = Space("multidiscrete", (items + 1,) * p.slate)
        self.weights = self.array(np.exp(np.array(p.tastes)).T)
        self.margins = self.array(np.array((*p.margins, 0.0)))
        self.places = self.array(np.arange(items)[:, None])

    def draw(self, generator: np.random.Generator, episodes: int) -> dict[str, NDArray[Any]]:
        """The user of a session, and one uniform for every choice."""
        user = generator.integers(0, len(self.parameters.tastes), episodes)
        return {"user": user, "uniform": generator.random((episodes, self.horizon), dtype=np.float32)}

    def start(self, noise: Mapping[str, Array]) -> State:
        """Nothing shown; the weights of every item to each session's user [n, B]."""
        weights = self.weights[:, noise["user"]]
        nothing = self.zeros(*weights.shape)
        return {"t": 0, "uniform": noise["uniform"], "weights": weights, "shown": nothing, "taken": nothing}

    def observe(self, state: State) -> Array:
        """Time left, shares shown and taken: [B, 1 + 2n]."""
        left = state["shown"][:1] * 0 + (1 - state["t"] / self.horizon)
        return self.xp.concatenate((left, state["shown"] / self.horizon, state["taken"] / self.horizon)).T

    def advance(self, state: State, action: Array) -> tuple[State, Array]:
        """The user takes item i of the slate with chance w_i / (1 + sum of the slate's w): reward is its margin."""
        uniform = state["uniform"][state["t"]]
        compiled = market_kernels(uniform)
        if compiled:
            pick, shown, taken = compiled.choice(uniform, state["weights"], action, state["shown"], state["taken"])
            return {**state, "t": state["t"] + 1, "shown": shown, "taken": taken}, self.margins[pick]
        slate = action.T
        offered = self.places == slate[0]
        for place in slate[1:]:
            offered = offered | (self.places == place)
        weights = state["weights"] * offered
        reach = weights.cumsum(0)
        pick = (uniform * (1 + reach[-1]) >= reach).sum(0)
        moved = {
            "t": state["t"] + 1,
            "shown": state["shown"] + offered,
            "taken": state["taken"] + (self.places == pick),
        }
        return {**state, **moved}, self.margins[pick]

    def references(self) -> dict[str, Reference]:
        """Earnings of a session with a known user, and of one slate for everybody; both by enumeration of slates."""
        from onlyforward.decide.exact.assortment import slate_revenues, slates

        p = self.parameters
        offered = slates(len(p.margins), p.slate)
        earned = slate_revenues(np.exp(np.array(p.tastes)), np.array(p.margins), offered)
        best = int(earned.mean(axis=1).argmax())
        names = ", ".join(str(i) for i in np.flatnonzero(offered[best]))
        fixed = Reference(p.periods * float(earned.mean(axis=1)[best]), "heuristic", f"the slate {names} for all")
        if len(p.tastes) == 1:
            return {"optimum": Reference(fixed.value, "exact", f"the slate {names}")}
        known = Reference(p.periods * float(earned.max(axis=0).mean()), "exact", "every user's best slate, user known")
        return {"known-user": known, "fixed": fixed}
