"""What the foundation model sees: one token for the instance, one per item, and the candidates of every decision.

Nothing tells items apart but their features, so that permuting items permutes the tokens, and any number of them runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from onlyforward.decide.exact.joint import Season
from onlyforward.decide.exact.replenish import Replenish

Values = tuple[float, ...]

TASKS = ("sell", "order", "replenish", "inventory")
"""sell: recommendation and prices of a period of the season; order: the season's stock; replenish: all three every
period; inventory: orders alone, with a lead time and lost sales."""
STAGES = {
    "sell": ("recommend", "price"),
    "order": ("order",),
    "replenish": ("recommend", "price", "order"),
    "inventory": ("order",),
}
"""The decisions of a task, in the order in which they are taken; each sees the earlier ones."""
INSTANCE_FEATURES = 17
ITEM_FEATURES = 19
LARGEST_PRICE, LARGEST_STOCK = 4.0, 26.0


@dataclass(frozen=True)
class Tokens:
    """A batch of decisions.

    Attributes:
        instance: [B, INSTANCE_FEATURES].
        items: [B, n, ITEM_FEATURES].
        present: [B, n] 1 for an item, 0 for padding.
        prices: [B, K] price list; NaN where a list is shorter.
        most: [B, n] largest order.
    """

    instance: Tensor
    items: Tensor
    present: Tensor
    prices: Tensor
    most: Tensor

    def rows(self, index: Tensor | slice) -> Tokens:
        """Some of the decisions."""
        return Tokens(*(getattr(self, name)[index] for name in FIELDS))

    def to(self, device: str) -> Tokens:
        """On a device."""
        return Tokens(*(getattr(self, name).to(device) for name in FIELDS))


FIELDS = ("instance", "items", "present", "prices", "most")


def join(parts: Sequence[Tokens]) -> Tokens:
    """One batch of several with the same number of items; price lists are padded with NaN."""
    width = max(part.prices.shape[1] for part in parts)
    padded = [
        replace(p, prices=torch.nn.functional.pad(p.prices, (0, width - p.prices.shape[1]), value=float("nan")))
        for p in parts
    ]
    return Tokens(*(torch.cat([getattr(part, name) for part in padded]) for name in FIELDS))


def instance_row(
    task: str,
    *,
    items: int,
    customers: float = 0.0,
    periods: float = 0.0,
    left: np.ndarray | float = 0.0,
    boost: float = 0.0,
    prices: Sequence[float] = (),
    holding: float = 0.0,
    penalty: float = 0.0,
    lead: int = 0,
    alpha: float = 1.0,
) -> np.ndarray:
    """Instance features [B, INSTANCE_FEATURES]; B is the length of `left`. `alpha` 1 stands for the mean."""
    left = np.atleast_1d(np.asarray(left, dtype=np.float64))
    head = [customers / 10, periods / 20, boost, items / 4, alpha, holding, penalty / 10, lead / 4]
    listed = [min(prices) / 4, max(prices) / 4, len(prices) / 6] if prices else [0.0, 0.0, 0.0]
    kind = [float(task == name) for name in TASKS]
    fixed = np.repeat(np.array([head + listed + kind]), len(left), 0)
    return np.column_stack([fixed, left / 20, np.log1p(left * customers) / 5])


def demand_statistics(
    utility: Sequence[float], cost: Sequence[float], prices: Sequence[float], boost: float
) -> np.ndarray:
    """What items sell where each has the price that would earn most if it were alone: [3, n].

    A customer's chance to take the item when it is not recommended, and when it is; and its margin.
    """
    listed = np.array(prices)
    alone = np.exp(np.array(utility)[:, None] - listed)
    gain = (listed - np.array(cost)[:, None]) * alone / (1 + alone)
    best = gain.argmax(axis=1)
    weight = np.take_along_axis(alone, best[:, None], 1)[:, 0]
    lift = weight * np.exp(boost)
    return np.stack(
        [weight / (1 + weight.sum()), lift / (1 + lift + weight.sum() - weight), listed[best] - np.array(cost)]
    )


@lru_cache(maxsize=4096)
def joint_statistics(utility: Values, cost: Values, prices: Values, boost: float) -> tuple[Values, Values]:
    """Shares of a customer and margins [n], [n] where prices and recommendation together would earn most of one.

    With plenty of stock, so that nothing but the items' competition counts: max over prices p and the recommended item
    of sum_i (p_i - c_i) q_i, q the multinomial logit shares. Prices are improved item by item, for every
    recommendation, until none changes: a few n^2 K trials instead of n K^n. By construction a local optimum; in the
    tests always the best.

    Args:
        utility: [n].
        cost: [n], money.
        prices: [K], money.
        boost: utility added to the recommended item.
    """
    listed, spent = np.array(prices), np.array(cost)
    best, found = -np.inf, (np.zeros(len(utility)), np.zeros(len(utility)))
    for chosen in range(len(utility)):
        pull = np.array(utility) + boost * (np.arange(len(utility)) == chosen)
        price = np.full(len(utility), listed[-1])
        earned = -np.inf
        while True:
            for i in range(len(utility)):
                trial = np.repeat(price[None], len(listed), 0)
                trial[:, i] = listed
                weight = np.exp(pull - trial)
                share = weight / (1 + weight.sum(1, keepdims=True))
                gain = (share * (trial - spent)).sum(1)
                price = trial[int(gain.argmax())]
            if gain.max() <= earned + 1e-12:
                break
            earned = float(gain.max())
        if earned > best:
            best, found = earned, (share[int(gain.argmax())], price - spent)
    return tuple(found[0].tolist()), tuple(found[1].tolist())


def item_rows(
    stock: np.ndarray,
    *,
    coming: np.ndarray | None = None,
    utility: Sequence[float] = (0.0,),
    cost: Sequence[float] = (0.0,),
    salvage: float = 0.0,
    customers: float = 0.0,
    left: np.ndarray | float = 0.0,
    prices: Sequence[float] = (),
    boost: float = 0.0,
    mean: float = 0.0,
) -> np.ndarray:
    """Item features [B, n, ITEM_FEATURES] for stock [B, n]; `mean` is the demand a period where nobody chooses."""
    batch, items = stock.shape
    expected = np.broadcast_to(np.asarray(left, dtype=np.float64), (batch,))[:, None] * customers
    want, lifted, margin = demand_statistics(utility, cost, prices, boost) if prices else np.zeros((3, items))
    told = (tuple(utility), tuple(cost), tuple(prices), boost)
    share, earned = np.array(joint_statistics(*told)) if prices else np.zeros((2, items))
    columns = [
        stock / LARGEST_STOCK,
        np.minimum(stock, 4) / 4,
        np.minimum(stock / (expected + 1), 3),
        np.log1p(stock) / 3,
        np.zeros_like(stock) if coming is None else coming / LARGEST_STOCK,
        *(np.broadcast_to(np.asarray(v), (batch, items)) for v in (utility, cost)),
        np.full((batch, items), salvage),
        *(np.broadcast_to(v, (batch, items)) for v in (want, lifted)),
        np.minimum(stock / (expected * lifted + 1), 5) / 2,
        np.minimum(expected * lifted, 50) / LARGEST_STOCK,
        np.full((batch, items), mean / 10),
        np.broadcast_to(margin, (batch, items)),
        np.minimum(stock / (expected * want + 1), 5) / 2,
        np.broadcast_to(share, (batch, items)),
        np.broadcast_to(earned, (batch, items)),
        np.minimum(expected * share, 50) / LARGEST_STOCK,
        np.minimum(stock / (expected * share + 1), 5) / 2,
    ]
    return np.stack(columns, axis=-1)


def tokens(instance: np.ndarray, items: np.ndarray, prices: Sequence[float], most: np.ndarray | float) -> Tokens:
    """Arrays as tensors: instance [B, g], items [B, n, f], one price list, largest orders (broadcast to [B, n])."""
    batch, count = items.shape[:2]
    listed = torch.tensor(list(prices) or [float("nan")], dtype=torch.float32).expand(batch, -1)
    limit = torch.from_numpy(np.broadcast_to(np.asarray(most, dtype=np.float32), (batch, count)).copy())
    return Tokens(
        torch.from_numpy(instance).float(), torch.from_numpy(items).float(), torch.ones(batch, count), listed, limit
    )


def season_tokens(
    task: str,
    season: Season,
    stock: np.ndarray,
    left: np.ndarray,
    *,
    most: np.ndarray | float = 0.0,
    alpha: float = 1.0,
) -> Tokens:
    """Decisions `sell` or `order` of a season at stock [B, n] with `left` [B] periods to go."""
    shared = {
        "customers": float(season.customers),
        "left": left,
        "prices": season.prices,
        "boost": season.boost,
    }
    instance = instance_row(task, items=stock.shape[1], periods=season.periods, alpha=alpha, **shared)
    rows = item_rows(stock, utility=season.utility, cost=season.cost, salvage=season.salvage, **shared)
    return tokens(instance, rows, season.prices, most)


def replenish_tokens(problem: Replenish, stock: np.ndarray) -> Tokens:
    """The decision of a shop at stock [B, n]; it looks ahead over the few periods that its stock lasts."""
    season, ahead = problem.season, np.full(len(stock), 2.0)
    shared = {
        "customers": float(season.customers),
        "left": ahead,
        "prices": season.prices,
        "boost": season.boost,
    }
    instance = instance_row("replenish", items=stock.shape[1], periods=0, holding=problem.holding, lead=1, **shared)
    rows = item_rows(stock, utility=season.utility, cost=season.cost, **shared)
    return tokens(instance, rows, season.prices, problem.max_order)


def inventory_tokens(
    stock: np.ndarray, coming: np.ndarray, *, mean: float, holding: float, penalty: float, lead: int, most: int
) -> Tokens:
    """The order of one item at stock [B, 1] and what comes next [B, 1]."""
    instance = instance_row(
        "inventory", items=1, left=np.zeros(len(stock)), holding=holding, penalty=penalty, lead=lead
    )
    return tokens(instance, item_rows(stock, coming=coming, mean=mean), (), most)
