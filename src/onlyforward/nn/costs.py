"""What a step costs in multiply-accumulates, counted from a clean run: of the network, and behind every site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from onlyforward.nn.flow import LocalSite
from onlyforward.nn.layout import first
from onlyforward.nn.sites import RECURRENT, Call, Site


@dataclass(frozen=True)
class Costs:
    """Multiply-accumulates of one clean run of the batch.

    Attributes:
        forward: F, of the whole network.
        suffix: site -> S, of everything behind it.
        pull: site -> of its local rule.
        width: most elements that one datum has in any unit's output.
    """

    forward: float
    suffix: Mapping[str, float]
    pull: Mapping[str, float]
    width: int

    def forwards(self, runs: Mapping[str, int]) -> float:
        """Full forward runs of the batch that one step equals, the clean one included; `runs`: copies per site."""
        return 1.0 + sum(n * self.suffix[site] for site, n in runs.items()) / max(self.forward, 1.0)

    def jointly(self, leads: Sequence[str], copies: int) -> tuple[float, float]:
        """Forward runs, and cost over backpropagation, where a group of sites runs from its first one, its lead, on.

        Local rules then take the rows of every copy.
        """
        runs = self.forwards(dict.fromkeys(leads, copies))
        return runs, (runs + copies * sum(self.pull.values()) / max(self.forward, 1.0)) / 3

    def over_backprop(self, runs: Mapping[str, int]) -> float:
        """Multiply-accumulates of one step over those of backpropagation, which is three forward runs."""
        pulls = sum(self.pull[site] for site in runs) / max(self.forward, 1.0)
        return (self.forwards(runs) + pulls) / 3


def macs(call: Call) -> float:
    """Multiply-accumulates of a unit's clean call."""
    module: Any = call.module
    out = first(call.output)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return float(out.numel() * module.weight[0].numel())
    if type(module) in RECURRENT:
        steps = call.inputs[0].shape[0] * call.inputs[0].shape[1]
        return float(steps * sum(p.numel() for name, p in module.named_parameters() if "weight" in name))
    if isinstance(module, nn.Embedding):
        return float(out.numel())
    matrices = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    if not matrices:
        return float(out.numel())
    return float(out.numel() // out.shape[-1] * matrices)


def count_costs(calls: Sequence[Call], sites: Iterable[tuple[Call, Site]], data: int, visits: float = 1.0) -> Costs:
    """Costs of a recorded run; a time step of which only a share is visited costs that share."""
    each = [macs(call) for call in calls]
    suffix, pull = {}, {}
    for call, site in sites:
        index = next((k for k, other in enumerate(calls) if other is call), -1)
        behind = sum(each[index + 1 :])
        share = 1.0
        if isinstance(site, LocalSite):
            share = 1 / site.steps
            behind += each[index] * (site.steps - 1 - site.time) / site.steps
        if call.state is not None:
            steps = sum(len(lane.order) for lane in call.state)
            lane = call.state[site.lane]  # type: ignore[attr-defined]
            left = len(lane.order) - 1 - lane.order.index(site.time)  # type: ignore[attr-defined]
            later = sum(len(other.order) for other in call.state[site.lane + 1 :])  # type: ignore[attr-defined]
            share = 1 / steps
            behind += each[index] * (left + later) / steps
        if site.shared:
            behind += each[index] if index >= 0 else sum(each)
        seen = visits if call.state is not None else 1.0
        suffix[site.path] = behind * seen
        pull[site.path] = each[index] * share * seen if index >= 0 else 0.0
    width = max((first(call.output).numel() // max(1, data) for call in calls), default=1)
    return Costs(sum(each), suffix, pull, width)
