"""Recommendation from ratings: fitted factors, simulated users who click, and policies that see the clicks alone.

rating[u, i] = mean + b_u + c_i + f_u . g_i by alternating least squares with a ridge. A simulated user looks at a slate
and takes item i with probability e^v_i / (1 + sum_j e^v_j), v_i = SCALE (rating[u, i] - THRESHOLD): multinomial logit
(arXiv 2403.00318 uses the same choice model). It is a simulator fitted to ratings, not a live result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.decide.series import Reals, column, numbers, read_table

RIDGES = (5.0, 10.0, 20.0, 40.0)
ROUNDS = 8
SCALE, THRESHOLD = 2.0, 4.5
"""A user clicks an item that is liked by half a star above or below 4.5 e times as often or as seldom as nothing."""
SLATES = 12
"""Slates of a session; an item is shown once."""
LEAST_RATED = 20
"""Ratings that an item of the simulator's catalogue has at least."""
NEIGHBOURS = 30


@dataclass(frozen=True)
class Ratings:
    """Rows of ratings: user [N] and item [N] as indices, rating [N]; names of both."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: Reals
    users: tuple[str, ...]
    items: tuple[str, ...]

    def rows(self, chosen: NDArray[np.int64]) -> Ratings:
        """Some of the rows, under the same names."""
        return Ratings(self.user[chosen], self.item[chosen], self.rating[chosen], self.users, self.items)


def read_ratings(path: Path, user: str, item: str, rating: str) -> Ratings:
    """A table of user, item and rating.

    Raises:
        FileError: a missing column, or a rating that is no number, by line.
        UsageError: fewer than 200 ratings or 10 users.
    """
    table = read_table(path)
    users, items = column(path, table, user, "--user-column"), column(path, table, item, "--item-column")
    values = numbers(path, column(path, table, rating, "--rating-column"), rating, low=None)
    names = [tuple(dict.fromkeys(cells)) for cells in (users, items)]
    if len(values) < 200 or len(names[0]) < 10:
        raise UsageError(f"{path} has {len(values)} ratings of {len(names[0])} users", "Give at least 200 of 10 users")
    places = [{name: i for i, name in enumerate(known)} for known in names]
    return Ratings(
        np.array([places[0][u] for u in users]), np.array([places[1][i] for i in items]), values, names[0], names[1]
    )


@dataclass(frozen=True)
class Factors:
    """The fitted model: mean, user bias [U], item bias [I], user factors [U, k], item factors [I, k]."""

    mean: float
    user_bias: Reals
    item_bias: Reals
    user: Reals
    item: Reals

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Reals:
        """Predicted ratings of pairs [N]."""
        inner = (self.user[users] * self.item[items]).sum(1)
        return self.mean + self.user_bias[users] + self.item_bias[items] + inner


def biases(ratings: Ratings, *, ridge: float = 3.0) -> Factors:
    """Mean, user and item biases alone, by alternating ridge regression."""
    mean = float(ratings.rating.mean())
    users, items = np.zeros(len(ratings.users)), np.zeros(len(ratings.items))
    for _ in range(10):
        rest = ratings.rating - mean - users[ratings.user]
        items = np.bincount(ratings.item, rest, len(items)) / (np.bincount(ratings.item, minlength=len(items)) + ridge)
        rest = ratings.rating - mean - items[ratings.item]
        users = np.bincount(ratings.user, rest, len(users)) / (np.bincount(ratings.user, minlength=len(users)) + ridge)
    return Factors(mean, users, items, np.zeros((len(users), 1)), np.zeros((len(items), 1)))


def factorise(ratings: Ratings, *, factors: int, ridge: float, seed: int) -> Factors:
    """Alternating least squares on what the biases leave."""
    base = biases(ratings)
    rest = ratings.rating - base.predict(ratings.user, ratings.item)
    generator = Key(run=seed, site="factors").numpy()
    item = 0.1 * generator.standard_normal((len(ratings.items), factors))
    user = np.zeros((len(ratings.users), factors))
    by_user, by_item = grouped(ratings.user, len(user)), grouped(ratings.item, len(item))
    for _ in range(ROUNDS):
        half_step(user, item, by_user, ratings.item, rest, ridge)
        half_step(item, user, by_item, ratings.user, rest, ridge)
    return Factors(base.mean, base.user_bias, base.item_bias, user, item)


def grouped(index: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Positions of each value of an index."""
    order = np.argsort(index, kind="stable")
    return np.split(order, np.cumsum(np.bincount(index, minlength=size))[:-1])


def half_step(
    left: Reals, right: Reals, rows: list[NDArray[np.int64]], other: NDArray[np.int64], rest: Reals, ridge: float
) -> None:
    """Solve for every row of `left` in place, `right` held: (R'R + ridge) l = R' rest."""
    eye = ridge * np.eye(left.shape[1])
    for i, own in enumerate(rows):
        if len(own):
            seen = right[other[own]]
            left[i] = np.linalg.solve(seen.T @ seen + eye, seen.T @ rest[own])


def rmse(model: Factors, ratings: Ratings) -> float:
    """Root mean squared error on rows."""
    return float(np.sqrt(((ratings.rating - model.predict(ratings.user, ratings.item)) ** 2).mean()))


def fit_ratings(ratings: Ratings, *, factors: int, seed: int) -> Factors:
    """Factors with the ridge that does best on a tenth kept out of their fit."""
    order = Key(run=seed, site="ridge").numpy().permutation(len(ratings.rating))
    cut = len(order) // 10
    inside, outside = ratings.rows(np.sort(order[cut:])), ratings.rows(np.sort(order[:cut]))
    scores = {r: rmse(factorise(inside, factors=factors, ridge=r, seed=seed), outside) for r in RIDGES}
    ridge = min(scores, key=lambda r: scores[r])
    return factorise(ratings, factors=factors, ridge=ridge, seed=seed)


# The simulator -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Market:
    """What policies may know: the catalogue and the ratings of the known half of the users.

    Attributes:
        value: [U, I] true utilities of the simulated users (only the optimum may look).
        item: [I, k + 1] item factors, with a column of ones for the user's bias.
        offset: [I] utility of an item to a user whose factors are zero.
        prior_mean: [k + 1] of the known users.
        prior_cov: [k + 1, k + 1].
        popularity: [I] ratings by the known users.
        similar: [I, I] cosine of the items' ratings by the known users, the NEIGHBOURS largest of each row.
    """

    value: Reals
    item: Reals
    offset: Reals
    prior_mean: Reals
    prior_cov: Reals
    popularity: Reals
    similar: Reals


def market(ratings: Ratings, model: Factors, *, known: NDArray[np.bool_], users: NDArray[np.int64]) -> Market:
    """The catalogue of items rated often enough by known users, and the utilities of some other users."""
    mine = known[ratings.user]
    counts = np.bincount(ratings.item[mine], minlength=len(ratings.items))
    shown = np.flatnonzero(counts >= LEAST_RATED)
    if len(shown) < 10 * SLATES:
        shown = np.argsort(-counts, kind="stable")[: 20 * SLATES]
    item = SCALE * np.column_stack([model.item[shown], np.ones(len(shown))])
    tastes = np.column_stack([model.user, model.user_bias])
    offset = SCALE * (model.mean + model.item_bias[shown] - THRESHOLD)
    place = np.full(len(ratings.items), -1)
    place[shown] = np.arange(len(shown))
    rows = np.flatnonzero(mine & (place[ratings.item] >= 0))
    table = np.zeros((len(ratings.users), len(shown)))
    table[ratings.user[rows], place[ratings.item[rows]]] = ratings.rating[rows] - model.mean
    norm = np.sqrt((table**2).sum(0)) + 5.0
    similar = table.T @ table / np.outer(norm, norm)
    np.fill_diagonal(similar, 0.0)
    smallest = np.sort(similar, axis=1)[:, -min(NEIGHBOURS, len(shown))][:, None]
    return Market(
        tastes[users] @ item.T + offset,
        item,
        offset,
        tastes[known].mean(0),
        np.cov(tastes[known].T) + 1e-6 * np.eye(tastes.shape[1]),
        counts[shown].astype(np.float64),
        np.where(similar >= smallest, similar, 0.0),
    )


@dataclass
class Session:
    """What a policy has seen of all users at once: shown [U, I] bool, clicked [U, I] bool, and its own belief."""

    shown: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    mean: Reals
    precision: Reals


Score = Callable[[Market, Session, np.random.Generator], Reals]
"""(market, session, noise) -> [U, I]: the slate is the items of largest score that were not shown."""


def random(market: Market, session: Session, generator: np.random.Generator) -> Reals:
    """Anything."""
    return generator.random(session.shown.shape)


def popular(market: Market, session: Session, generator: np.random.Generator) -> Reals:
    """What most known users rated."""
    return np.broadcast_to(market.popularity, session.shown.shape)


def neighbours(market: Market, session: Session, generator: np.random.Generator) -> Reals:
    """Items like those that were clicked and unlike those that were not; popular ones before the first click."""
    missed = session.shown & ~session.clicked
    liked = session.clicked @ market.similar - 0.1 * (missed @ market.similar)
    return liked + 1e-6 * market.popularity / market.popularity.max()


def learned(explore: float) -> Score:
    """The belief's mean utility plus `explore` standard deviations: large where little is known."""

    def score(market: Market, session: Session, generator: np.random.Generator) -> Reals:
        mean = session.mean @ market.item.T + market.offset
        if not explore:
            return mean
        covariance = np.linalg.inv(session.precision)
        return mean + explore * np.sqrt(np.einsum("ik,ukl,il->ui", market.item, covariance, market.item, optimize=True))

    return score


def optimum(market: Market, session: Session, generator: np.random.Generator) -> Reals:
    """The true utilities: with equal margins the best slate is the largest ones."""
    return market.value


def play(market: Market, score: Score, *, slate: int, seed: int) -> Reals:
    """Clicks per session of every simulated user under one policy: [U]."""
    users, items = market.value.shape
    generator = Key(run=seed, site="clicks").numpy()
    k = market.item.shape[1]
    start = np.linalg.inv(market.prior_cov)
    session = Session(
        np.zeros((users, items), dtype=bool),
        np.zeros((users, items), dtype=bool),
        np.broadcast_to(market.prior_mean, (users, k)).copy(),
        np.broadcast_to(start, (users, k, k)).copy(),
    )
    clicks = np.zeros(users)
    row = np.arange(users)
    for _ in range(SLATES):
        ranked = np.where(session.shown, -np.inf, score(market, session, generator))
        offered = np.argpartition(-ranked, slate, axis=1)[:, :slate]
        gumbel = generator.gumbel(size=(users, slate + 1))
        utility = np.take_along_axis(market.value, offered, axis=1)
        taken = np.concatenate([utility, np.zeros((users, 1))], axis=1) + gumbel
        pick = taken.argmax(1)
        session.shown[row[:, None], offered] = True
        hit = pick < slate
        session.clicked[row[hit], offered[hit, pick[hit]]] = True
        clicks += hit
        learn(market, session, offered, pick)
    return clicks


def learn(market: Market, session: Session, offered: NDArray[np.int64], pick: NDArray[np.int64]) -> None:
    """One Newton step of the logit likelihood of a choice, added to each user's Gaussian belief."""
    x = market.item[offered]
    slate = offered.shape[1]
    utility = np.einsum("usk,uk->us", x, session.mean) + market.offset[offered]
    weight = np.exp(utility - np.maximum(utility.max(1, keepdims=True), 0.0))
    chance = weight / (np.exp(-np.maximum(utility.max(1, keepdims=True), 0.0)) + weight.sum(1, keepdims=True))
    chosen = np.eye(slate + 1)[pick][:, :slate]
    gradient = np.einsum("us,usk->uk", chosen - chance, x)
    centre = np.einsum("us,usk->uk", chance, x)
    curvature = np.einsum("us,usk,usl->ukl", chance, x, x) - centre[:, :, None] * centre[:, None, :]
    session.precision += curvature
    session.mean += np.linalg.solve(session.precision, gradient[:, :, None])[:, :, 0]


EXPLORE = (0.0, 0.25, 0.5, 1.0, 1.5)


def chosen_exploration(market: Market, *, slate: int, seed: int) -> float:
    """The exploration that earns most clicks of simulated users who are not those of the report."""
    return max(EXPLORE, key=lambda e: float(play(market, learned(e), slate=slate, seed=seed).mean()))
