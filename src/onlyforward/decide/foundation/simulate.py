"""Sampled seasons under the model: the forward runs that fine-tuning and large instances need."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onlyforward.decide.exact.joint import Season
from onlyforward.decide.foundation.model import FoundationPolicy, decide
from onlyforward.decide.foundation.tokens import Tokens, join, season_tokens


def season_signal(
    model: FoundationPolicy, seasons: list[Season], copies: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sampled seasons of instances with the same number of items and periods.

    Returns:
        signal [n, b], the season's profit over its length, and ln pi of everything decided in it [n, b].
    """
    b, items, periods = len(seasons), len(seasons[0].utility), seasons[0].periods
    cost = torch.tensor([season.cost for season in seasons], dtype=torch.float32)
    utility = torch.tensor([season.utility for season in seasons], dtype=torch.float32)
    boost = torch.tensor([season.boost for season in seasons])
    people = max(season.customers for season in seasons)
    there = torch.arange(people) < torch.tensor([season.customers for season in seasons])[:, None]

    def seen(task: str, stock: Tensor, left: int) -> Tokens:
        rows = stock.view(copies, b, items).double().numpy()
        parts = [
            season_tokens(task, season, rows[:, i], np.full(copies, float(left)), most=season.cap, alpha=model.alpha)
            for i, season in enumerate(seasons)
        ]
        # join stacks instance by instance; the signal has copies first.
        place = torch.arange(b * copies).view(b, copies).T.reshape(-1)
        return join(parts).rows(place)

    def spread(table: Tensor) -> Tensor:
        return table.repeat(copies, *(1,) * (table.dim() - 1))

    stock = torch.zeros(copies * b, items)
    found, log_prob = decide(model, seen("order", stock, periods), ("order",), generator)
    stock = found["order"].float()
    profit = -(stock * spread(cost)).sum(-1)
    for t in range(periods):
        told = seen("sell", stock, periods - t)
        found, more = decide(model, told, ("recommend", "price"), generator)
        log_prob = log_prob + more
        price = told.prices.gather(1, found["price"])
        lift = torch.nn.functional.one_hot(found["recommend"], items) * spread(boost)[:, None]
        reach = (spread(utility) - price + lift).exp().cumsum(-1)
        mark = torch.rand(copies * b, people, generator=generator) * (1 + reach[:, -1:])
        pick = (mark[..., None] >= reach[:, None]).sum(-1)
        pick = torch.where(spread(there), pick, items)
        wanted = torch.nn.functional.one_hot(pick, items + 1)[..., :items].sum(1)
        sold = torch.minimum(wanted.float(), stock)
        stock = stock - sold
        profit = profit + (price * sold).sum(-1)
    profit = profit + stock.sum(-1) * spread(torch.tensor([season.salvage for season in seasons]))
    return (profit / periods).view(copies, b), log_prob.view(copies, b)
