"""How many weights each layer keeps, and which: a budget spread over layers, and the best scores within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from onlyforward.prune import scores


class Quotas:
    """How a budget is spread over the layers.

    Args:
        weights: name -> tensor.
        names: what is pruned.
        scope: "global", "layer" or "erk".
        kept: protected flags, which raise a layer's quota where needed.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], names: Sequence[str], scope: str, kept: Mapping[str, Tensor]
    ) -> None:
        self.names = list(names)
        self.scope = scope
        self.sizes = {name: weights[name].numel() for name in names}
        self.least = {name: int(kept[name].sum()) for name in names}
        self.shape = {name: weights[name].shape for name in names}

    def split(self, budget: int) -> dict[str, int]:
        """Weights per layer, summing to the budget exactly."""
        total = sum(self.sizes.values())
        if self.scope == "erk":
            raw = {name: sum(self.shape[name]) for name in self.names}
        else:
            raw = dict(self.sizes)
        share = {name: min(float(self.sizes[name]), budget * raw[name] / sum(raw.values())) for name in self.names}
        found = {name: min(self.sizes[name], max(self.least[name], int(share[name]))) for name in self.names}
        # What rounding, full layers and protection leave over or under is settled where there is most room.
        while (gap := min(budget, total) - sum(found.values())) != 0:
            sign = 1 if gap > 0 else -1
            room = {
                n: self.sizes[n] - found[n] if sign > 0 else found[n] - self.least[n]
                for n in self.names
                if (found[n] < self.sizes[n] if sign > 0 else found[n] > self.least[n])
            }
            all_room = sum(room.values())
            if not all_room:
                break
            for name, free in sorted(room.items(), key=lambda pair: -pair[1]):
                gap = min(budget, total) - sum(found.values())
                if gap == 0:
                    break
                move = min(free, max(1, abs(gap) * free // all_room), abs(gap))
                found[name] += sign * move
        return found

    def choose(self, scored: Mapping[str, Tensor], kept: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
        """0/1 masks of the best scores, protected ones first."""
        if self.scope == "global":
            flat = torch.cat([self.ranked(scored, kept, name) for name in self.names])
            mask = best(flat, min(budget, len(flat)))
            parts = mask.split([self.sizes[name] for name in self.names])
            return {name: part.view(self.shape[name]) for name, part in zip(self.names, parts)}
        found = {}
        for name, quota in self.split(budget).items():
            found[name] = best(self.ranked(scored, kept, name), quota).view(self.shape[name])
        return found

    @staticmethod
    def ranked(scored: Mapping[str, Tensor], kept: Mapping[str, Tensor], name: str) -> Tensor:
        """Scores with the protected weights above everything."""
        return scored[name].masked_fill(kept[name], float("inf")).flatten()


def best(flat: Tensor, count: int) -> Tensor:
    """A 0/1 vector of the `count` largest scores."""
    return torch.zeros_like(flat).index_fill_(0, flat.topk(count, sorted=False).indices, 1.0)


class Survivors:
    """The weights that are left from round to round, in the groups within which they compete.

    What a round removes never returns and what is protected never goes, so that only the other places are scored and
    ranked, and only what goes is written: the rounds beside the evaluations should cost next to nothing.

    Args:
        weights: name -> |W|.
        quotas: the budget's rule.
        kept: protected flags.

    Attributes:
        weights: name -> |W| with 0 where it is removed; the tensors change with every round.
    """

    def __init__(self, weights: Mapping[str, Tensor], quotas: Quotas, kept: Mapping[str, Tensor]) -> None:
        self.quotas = quotas
        self.groups = [quotas.names] if quotas.scope == "global" else [[name] for name in quotas.names]
        self.left = [torch.cat([weights[name].flatten() for name in group]) for group in self.groups]
        free = [~torch.cat([kept[name].flatten() for name in group]) for group in self.groups]
        self.kept = [int((~flags).sum()) for flags in free]
        self.places = [flags.nonzero().flatten() for flags in free]
        self.weights = dict(weights)
        for group, left in zip(self.groups, self.left, strict=True):
            parts = left.split([quotas.sizes[name] for name in group])
            self.weights |= {name: part.view(quotas.shape[name]) for name, part in zip(group, parts, strict=True)}

    def cut(self, slopes: Mapping[str, Tensor], kappa: float, budget: int) -> None:
        """Remove all but the best; slopes: d log phi / d|W| by name."""
        counts = [budget] if self.quotas.scope == "global" else list(self.quotas.split(budget).values())
        for k, (group, count) in enumerate(zip(self.groups, counts, strict=True)):
            left, places = self.left[k], self.places[k]
            slope = torch.cat([slopes[name].flatten() for name in group]).index_select(0, places)
            scored = scores.weighed(left.index_select(0, places), slope, kappa)
            # A round removes a few percent: the few smallest are found and written faster than the many largest.
            gone = scored.topk(max(0, len(scored) + self.kept[k] - count), largest=False, sorted=False).indices
            left.index_fill_(0, places.index_select(0, gone), 0.0)
            stays = torch.ones_like(places, dtype=torch.bool).index_fill_(0, gone, False)
            self.places[k] = places.masked_select(stays)
