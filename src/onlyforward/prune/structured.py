"""Whole channels removed: coupled groups, their scores, and rounds until a cost is met."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.errors import UsageError
from onlyforward.prune.connect import CoNNect, gradients, probe, sizes
from onlyforward.prune.counting import Cost, cost, macs_at, places, run_once
from onlyforward.prune.coupling import Coupled, coupled, dependency_graph, group_scores, producer
from onlyforward.prune.recovery import accuracy, recalibrate
from onlyforward.prune.shortcuts import Selector, replace_shortcuts

SCORES = ("auto", "connect", "share", "l2", "taylor")
CANDIDATES = ("l2", "taylor", "connect")
"""What "auto" tries."""
STRENGTH = 0.01
"""lambda2 in J = L - lambda2 log phi."""

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss when none is given."""
    return F.cross_entropy(model(x), y)


@dataclass(frozen=True)
class Structured:
    """A model with fewer channels.

    Attributes:
        model: the smaller model, in eval mode.
        score: by which channels were chosen.
        before: cost of the original.
        after: cost of the smaller one.
        kept: (module path, outgoing) -> numbers of the channels that stayed.
        selectors: shortcuts that became convolutions.
        choices: of "auto": score -> accuracy on training data held back.
    """

    model: nn.Module
    score: str
    before: Cost
    after: Cost
    kept: Mapping[tuple[str, bool], Tensor]
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    choices: Mapping[str, float] = field(default_factory=dict)

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates before over after."""
        return self.before.macs / max(1, self.after.macs)

    @property
    def parameters_ratio(self) -> float:
        """Parameters before over after."""
        return self.before.parameters / max(1, self.after.parameters)

    def masked(self, original: nn.Module, example_inputs: Any) -> nn.Module:
        """The original with the removed channels set to zero: what the smaller model must equal before fine-tuning."""
        model, _ = replace_shortcuts(original, example_inputs)
        with torch.no_grad():
            for (name, outgoing), kept in self.kept.items():
                module: Any = model.get_submodule(name)
                weight = module.weight
                transposed = bool(getattr(module, "transposed", False))
                side = 0 if weight.ndim == 1 or outgoing != transposed else 1
                gone = torch.ones(weight.shape[side], dtype=torch.bool)
                gone[kept] = False
                weight.index_fill_(side, gone.nonzero().flatten(), 0.0)
                if outgoing and getattr(module, "bias", None) is not None:
                    module.bias[gone] = 0.0
        return model.eval()


def weight_scores(kind: str, model: nn.Module, example_inputs: Any, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """A score per parameter entry: "l2" W^2; "share" path shares; "taylor" W dL/dW; "connect" W dJ/dW."""
    parameters = dict(model.named_parameters())
    if kind == "l2":
        return {name: p.detach().square() for name, p in parameters.items()}
    if kind == "share":
        weights = sizes(model)
        slopes, _ = gradients(probe(model, example_inputs), weights)
        return {name: weights[name] * slope for name, slope in slopes.items()}
    objective = loss()
    if kind == "connect":
        # J = L + lambda2 R: what keeps the network connected is dear although the loss alone does not see it.
        objective = objective + STRENGTH * CoNNect(model, example_inputs, attention="qkv")()
    found = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
    return {n: p.detach() * g for (n, p), g in zip(parameters.items(), found) if g is not None}


def prune_structured(
    model: nn.Module,
    example_inputs: Any,
    *,
    score: str = "auto",
    steps: int = 16,
    macs_ratio: float | None = None,
    parameters_ratio: float | None = None,
    round_to: int | None = None,
    scope: str = "global",
    max_ratio: float = 0.9,
    loss: Loss | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    ignore: Sequence[str] = (),
    calibration: int = 250,
    judge: Callable[[nn.Module], float] | None = None,
) -> Structured:
    """Remove whole channels, in rounds with fresh scores, until the cost has fallen by a ratio.

    A group's score is the sum over its coupled output and input channels, divided by the group's mean, so that groups
    can be compared. Groups come from Torch-Pruning; the count of operations is made on the model as it is.

    Args:
        model: any module that Torch-Pruning can trace; not changed.
        example_inputs: one example.
        score: "l2", "taylor" (sum |W dL/dW|), "connect" (Taylor of L - 0.01 log phi), "share" (data-free), or "auto":
            the first three, each with its batch norms recalibrated, and the best on the last 500 data kept (without
            data: "share").
        steps: rounds.
        macs_ratio: multiply-accumulates before over after, at least.
        parameters_ratio: the same of parameters.
        round_to: widths stay multiples of it where they are.
        scope: "global": channels of all groups compete; "local": every group loses the same fraction.
        max_ratio: largest fraction of a group that may go.
        loss: (model, x, y) -> scalar; cross-entropy by default.
        data: training inputs [n, ...] and labels [n], for scores, recalibration and the choice.
        ignore: patterns of module paths that stay whole.
        calibration: data per round for the scores.
        judge: of a candidate model (its own copy, free to be changed) -> quality, in the place of the choice above.

    Raises:
        UsageError: not exactly one ratio; a ratio that the limits do not allow (the largest is named); no data.
    """
    check_choice(score, SCORES, name="score")
    check_choice(scope, ("global", "local"), name="scope")
    check_range(steps, name="--steps", low=1)
    check_range(max_ratio, name="the largest fraction", low=0.0, high=1.0)
    if (macs_ratio is None) == (parameters_ratio is None):
        raise UsageError("One ratio must be given", "Give --macs-ratio or --parameters-ratio")
    ratio = check_range(macs_ratio or parameters_ratio or 1.0, name="the ratio", low=1.0)
    if score == "auto" and data is None:
        score = "share"
    if score in ("taylor", "connect") and data is None:
        raise UsageError(f"The score {score} needs data", "Give data, or take the score share or l2")

    def attempt(kind: str) -> Structured:
        rounds = Rounds(model, example_inputs, ignore, max_ratio, round_to or 1, scope)
        rounds.run(kind, steps, ratio, macs_ratio is not None, loss or cross_entropy, data, calibration)
        return rounds.finish(kind, cost(model, example_inputs))

    if score != "auto" or data is None:
        return attempt(score)
    found, best, tried = None, -math.inf, {}
    for kind in CANDIDATES:
        candidate = attempt(kind)
        tried[kind] = judge(copy.deepcopy(candidate.model)) if judge is not None else held_back(candidate.model, data)
        if tried[kind] > best:
            found, best = candidate, tried[kind]
    assert found is not None
    return Structured(found.model, found.score, found.before, found.after, found.kept, found.selectors, tried)


def held_back(model: nn.Module, data: tuple[Tensor, Tensor], count: int = 500) -> float:
    """Accuracy on the last data after recalibration on the first."""
    x, y = data
    count = min(count, len(y) // 2)
    copied = recalibrate(copy.deepcopy(model), x[:-count][:2000])
    return accuracy(copied, x[-count:], y[-count:])


class Rounds:
    """The state of an iterative removal.

    Args:
        model: the original; a copy is pruned.
        example_inputs: one example.
        ignore: patterns of module paths that stay whole.
        max_ratio: largest fraction of a group that may go.
        round_to: channels go in blocks of this size.
        scope: "global" or "local".
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, ignore: Sequence[str], max_ratio: float, round_to: int, scope: str
    ) -> None:
        self.model, self.selectors = replace_shortcuts(model, example_inputs)
        self.model.eval()
        self.example = example_inputs
        self.max_ratio, self.round_to, self.scope = max_ratio, round_to, scope
        self.names = {module: name for name, module in self.model.named_modules()}
        self.ignored = [m for m, name in self.names.items() if name and any(fnmatch(name, p) for p in ignore)]
        self.graph = dependency_graph(self.model, example_inputs)
        self.counts = places(self.model, example_inputs)
        self.shape = self.shapes()
        self.widths = {group.root: group.width for group in coupled(self.graph)}
        self.kept: dict[tuple[str, bool], Tensor] = {}

    def shapes(self) -> list[list[int]]:
        """Shapes of the outputs."""
        leaves = tree_flatten(run_once(self.model, self.example))[0]
        return [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]

    def measure(self, macs: bool) -> int:
        """The cost that is to fall."""
        if macs:
            return macs_at(self.model, self.counts)
        return sum(p.numel() for p in self.model.parameters())

    def groups(self) -> list[Coupled]:
        """What may be pruned: no group that is an output, or that holds attention, recurrent or embedding layers."""
        kinds = (nn.MultiheadAttention, nn.RNNBase, nn.Embedding)
        return [
            group
            for group in coupled(self.graph, self.ignored)
            if not group.exposed and not any(isinstance(member.module, kinds) for member in group.members)
        ]

    def run(
        self,
        kind: str,
        steps: int,
        ratio: float,
        macs: bool,
        loss: Loss,
        data: tuple[Tensor, Tensor] | None,
        calibration: int,
    ) -> None:
        """All rounds; the cost falls geometrically.

        Raises:
            UsageError: the limits stop the removal before the ratio is met.
        """
        # The selectors are ours: the ratio is about the model that came.
        start = self.measure(macs) - self.overhead(macs)

        def objective() -> Tensor:
            assert data is not None
            return loss(self.model, data[0][:calibration], data[1][:calibration])

        for step in range(1, steps + 1):
            scored = weight_scores(kind, self.model, self.example, objective)
            self.reduce(scored, start / ratio ** (step / steps), macs)
        reached = start / self.measure(macs)
        if reached < ratio:
            raise UsageError(
                f"The ratio {ratio:g} is not reachable with at most {100 * self.max_ratio:g} % of a group removed",
                f"The largest is {math.floor(100 * reached) / 100:.2f}",
            )

    def overhead(self, macs: bool) -> int:
        """What the selectors cost."""
        layers = [(name, self.model.get_submodule(name)) for name in self.selectors]
        return sum(layer.weight.numel() * (self.counts[name] if macs else 1) for name, layer in layers)  # type: ignore[operator, union-attr]

    def reduce(self, scored: Mapping[str, Tensor], goal: float, macs: bool) -> None:
        """Remove the least channels until the cost is at most the goal."""
        ranked: list[tuple[float, nn.Module, Any, tuple[int, ...]]] = []
        limits: dict[nn.Module, int] = {}
        for group in self.groups():
            found = group_scores(group, scored, self.names)
            if found is None:
                continue
            found = found.view(group.blocks, -1).mean(0)
            found = found / found.mean().clamp_min(torch.finfo(torch.float64).tiny)
            size = group.width // group.blocks
            least = max(group.blocks, math.ceil((1 - self.max_ratio) * self.widths.get(group.root, group.width)))
            limits[group.root] = max(0, (group.width - least) // group.blocks)
            if self.scope == "local":
                found = found.argsort().argsort().double() / size
            for k, value in enumerate(found.tolist()):
                units = tuple(k + block * size for block in range(group.blocks))
                ranked.append((value, group.root, group.prune, units))
        alive = {root: list(range(self.graph.get_out_channels(root))) for root in limits}
        pending: dict[nn.Module, list[int]] = {}
        # Far from the goal several channels go at once; near it, one by one, so that the goal is not overshot.
        for _, root, prune, units in sorted(ranked, key=lambda item: item[0]):
            if self.measure(macs) <= goal:
                return
            waiting = pending.setdefault(root, [])
            if (len(waiting) // len(units)) >= limits[root]:
                continue
            waiting += units
            if len(waiting) // len(units) < self.round_to:
                continue
            limits[root] -= self.round_to
            self.remove(root, prune, [alive[root].index(unit) for unit in waiting])
            alive[root] = [unit for unit in alive[root] if unit not in waiting]
            pending[root] = []

    def remove(self, root: nn.Module, prune: Any, channels: list[int]) -> None:
        """Remove channels of a root and all that is coupled to them, and note what stayed where."""
        group = self.graph.get_pruning_group(root, prune, sorted(channels))
        for dependency, idxs in group:
            module = dependency.target.module
            if module not in self.names or not isinstance(getattr(module, "weight", None), Tensor):
                continue
            outgoing = self.graph.is_out_channel_pruning_fn(dependency.handler)
            weight = module.weight
            side = 0 if weight.ndim == 1 or outgoing != bool(getattr(module, "transposed", False)) else 1
            width = weight.shape[side]
            place = (self.names[module], outgoing)
            kept = self.kept.get(place, torch.arange(width))
            stays = torch.ones(width, dtype=torch.bool)
            stays[torch.tensor([i for i in idxs if i < width], dtype=torch.long)] = False
            self.kept[place] = kept[stays]
        group.prune()

    def finish(self, kind: str, before: Cost) -> Structured:
        """The outcome."""
        self.model.zero_grad(set_to_none=True)
        after = cost(self.model, self.example)
        if self.shape != self.shapes():
            raise UsageError(
                f"Pruning changed the output's shape from {self.shape} to {self.shapes()}",
                "Keep the layers that make the output with --ignore PATTERN",
            )
        return Structured(self.model.eval(), kind, before, after, self.kept, self.selectors)


def narrowest(model: nn.Module, example_inputs: Any) -> int:
    """The smallest number of channels that a group of the model has, its outputs apart."""
    graph = dependency_graph(model, example_inputs)
    widths = [group.width for group in coupled(graph) if not group.exposed and any(map(producer, group.members))]
    return min(widths, default=0)
