"""Credit: noise at a node, a token or a time step is weighed by the losses that it can reach, and by no other.

Losses out of reach are the same with and without the noise in expectation, so leaving them out keeps the estimate
unbiased and takes their variance away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onlyforward.core.errors import UsageError
from onlyforward.nn.sites import Call, Site

if TYPE_CHECKING:
    from onlyforward.nn.engine import LikelihoodRatio
    from onlyforward.nn.walk import Tape


def edges_of(call: Call) -> Tensor | None:
    """The edges [2, E] among a call's arguments, or None: a call that has them passes messages between data."""
    for value in (*call.inputs, *call.named.values()):
        if isinstance(value, Tensor) and not value.is_floating_point() and value.dim() == 2 and value.shape[0] == 2:
            return value
    return None


def reach(edges: Tensor, nodes: int, hops: int) -> Tensor:
    """Pairs [2, m] of nodes (i, j) such that a message from i reaches j in at most `hops` steps, i itself included."""
    found = torch.eye(nodes, dtype=torch.bool, device=edges.device)
    for _ in range(hops):
        step = torch.zeros((nodes, nodes), device=edges.device).index_add_(0, edges[0], found[edges[1]].float())
        found = found | (step > 0)
    return found.nonzero().T


@dataclass
class GraphCredit:
    """Receptive fields of a graph network: a site is followed by some message-passing calls, its hops.

    Attributes:
        edges: [2, E].
        nodes: b.
        masked: False spreads every node's loss over all nodes (no credit; for comparison).
        fields: hops -> pairs (node of the noise, node of the loss).
    """

    edges: Tensor
    nodes: int
    masked: bool = True
    fields: dict[int, Tensor] = field(default_factory=dict)

    def shared_out(self, weight: Tensor, hops: int) -> Tensor:
        """Weights [n, b] by node of the loss -> weights [n, b] by node of the noise."""
        if not self.masked:
            return weight.sum(1, keepdim=True).expand_as(weight)
        if hops not in self.fields:
            self.fields[hops] = reach(self.edges, self.nodes, hops)
        noise, loss = self.fields[hops]
        return torch.zeros_like(weight).index_add_(1, noise, weight[:, loss])


def hops_behind(calls: Sequence[Call], call: Call) -> int:
    """Message-passing calls behind a site."""
    index = next(k for k, other in enumerate(calls) if other is call)
    return sum(edges_of(other) is not None for other in calls[index + 1 :])


@dataclass
class PositionCredit:
    """A mask [positions, m] from where noise enters to the m losses of a datum.

    Attributes:
        mask: 1 where noise at the position reaches the loss.
    """

    mask: Tensor

    def positions(self, site: Site) -> bool:
        """Whether a site has these positions in its second dimension."""
        return site.clean.dim() > 2 and site.clean.shape[1] == len(self.mask) and not site.shared

    def shared_out(self, weight: Tensor, site: Site) -> Tensor:
        """Weights [n, b, m] -> [n, b p] where the site has positions, else [n, b]."""
        time = getattr(site, "time", None)
        if time is not None:
            return weight @ self.mask[time].to(weight)
        if self.positions(site):
            return (weight @ self.mask.T.to(weight)).flatten(1)
        return weight.sum(2)


def causal(positions: int) -> Tensor:
    """Noise at step t reaches the losses of steps t and later: [positions, positions]."""
    return torch.ones(positions, positions).triu()


def position_credit(credit: object, losses: Tensor) -> PositionCredit:
    """The mask for losses [b, m]: causal unless the user says "none" or gives a tensor [positions, m].

    Raises:
        UsageError: a mask whose second dimension is not m.
    """
    count = losses.shape[1]
    if isinstance(credit, Tensor):
        if credit.dim() != 2 or credit.shape[1] != count:
            raise UsageError(
                f"The credit mask has shape {list(credit.shape)} for {count} losses a datum",
                f"Give [positions, {count}]",
            )
        return PositionCredit(credit)
    return PositionCredit(torch.ones(count, count) if credit == "none" else causal(count))


def credited(engine: LikelihoodRatio, tape: Tape, call: Call, site: Site, weight: Tensor) -> Tensor:
    """Weights by loss -> weights by noise."""
    if weight.dim() == 3:
        assert engine.position_credit is not None
        return engine.position_credit.shared_out(weight, site)
    if engine.graph_credit is None or site.shared:
        return weight
    return engine.graph_credit.shared_out(weight, hops_behind(tape.calls, call))
