"""Competitors on the same oracle, every row counted by the same account: RISE, LIME, KernelSHAP, occlusion, GEEX.

Own code of the published algorithms, so that queries, removal and budget are equal; `Captum` and `Shap` run originals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import require
from onlyforward.core.keys import Key
from onlyforward.explain.bases import blocks, superpixels
from onlyforward.explain.removal import removed
from onlyforward.explain.saliency import Saliency, as_oracle, top
from onlyforward.explain.scores import Target, judge
from onlyforward.explain.shapley import Players
from onlyforward.explain.softmasks import SoftMasks


@dataclass
class Peer:
    """What all have in common.

    Args:
        oracle: the black box.
        baseline: what stands where something is removed.
        score: probability, logit or log-probability.
        batch: most rows at once.
    """

    oracle: Any
    baseline: str | Tensor = "zero"
    score: str = "probability"
    batch: int = 64

    def __post_init__(self) -> None:
        self.oracle = as_oracle(self.oracle)

    def attribute(self, x: Tensor, *, target: Target = None, budget: int = 512, key: int | Key = 0) -> Tensor:
        """The map [h, w] of one image [c, h, w]."""
        base = key if isinstance(key, Key) else Key(run=key)
        if target is None:
            target, budget = top(self.oracle(x[None])), budget - 1
        return self.work(x, removed(x, self.baseline, key=base), target, budget, base)

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """The method itself."""
        raise TypeError("A peer is one of the classes below")

    def scores(self, rows: Tensor, target: Target) -> Tensor:
        """Scores [n] of rows, batch by batch."""
        return torch.cat([judge(self.oracle(part), target, self.score) for part in rows.split(self.batch)])

    def coalitions(self, x: Tensor, nothing: Tensor, labels: Tensor, z: Tensor, target: Target) -> Tensor:
        """Scores of the images in which the regions with z = 0 are removed: z [n, K] -> [n]."""
        found = []
        for part in z.split(self.batch):
            there = part[:, labels.flatten()].reshape(len(part), 1, *labels.shape).bool()
            found.append(judge(self.oracle(torch.where(there, x, nothing)), target, self.score))
        return torch.cat(found)


@dataclass
class Rise(Peer):
    """Mean of f(masked) times mask (arXiv 1806.07421): cells x cells soft masks, p = 1/2, not in pairs."""

    cells: int = 8

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Sum of score times mask over N p."""
        total = torch.zeros(x.shape[1:], dtype=torch.float64)
        soft = SoftMasks(key.at(site="rise"), self.cells, (x.shape[1], x.shape[2]))
        for first in range(0, budget, self.batch):
            count = min(self.batch, budget - first)
            # Even members of complement pairs are independent masks.
            mask = soft.masks(soft.draws(2 * first, 2 * count).every(0, 2))
            rows = torch.lerp(nothing, x, mask[:, None].to(x))
            total += torch.tensordot(self.scores(rows, target), mask.double(), dims=1)
        return total / (0.5 * budget)


@dataclass
class Lime(Peer):
    """Weighted ridge regression on superpixels (arXiv 1602.04938): exponential kernel of the cosine distance."""

    segments: int = 50
    width: float = 0.25
    strength: float = 1.0

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Effects of the superpixels."""
        labels = superpixels(x, self.segments)
        k = int(labels.max()) + 1
        z = torch.empty(budget, k).bernoulli_(0.5, generator=key.at(site="lime").generator())
        z[0] = 1.0
        y = self.coalitions(x, nothing, labels, z, target)
        distance = 1 - z.double().sum(1).div(k).sqrt()  # cosine distance of z to all ones
        weight = torch.exp(-(distance**2) / self.width**2)
        rows = z.double()
        centre = (weight[:, None] * rows).sum(0) / weight.sum()
        level = (weight * y).sum() / weight.sum()
        rows, y = rows - centre, y - level
        gram = (rows * weight[:, None]).T @ rows + self.strength * torch.eye(k, dtype=torch.float64)
        effect = torch.linalg.solve(gram, (rows * (weight * y)[:, None]).sum(0))
        return effect[labels]


@dataclass
class KernelShap(Peer):
    """Shapley values of superpixels by weighted least squares (arXiv 1705.07874)."""

    segments: int = 50

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Effects of the superpixels."""
        labels = superpixels(x, self.segments)
        flat = labels.flatten()

        def compose(z: Tensor) -> Tensor:
            return torch.where(z[:, flat].reshape(len(z), 1, *labels.shape).bool(), x, nothing)

        game = Players(int(labels.max()) + 1, compose, lambda effect: effect[labels], key, budget, solver="ridge")
        for first in range(0, budget, self.batch):
            count = min(self.batch, budget - first)
            game.observe(first, self.scores(game.rows(first, count), target))
        return game.estimate().map


@dataclass
class Occlusion(Peer):
    """A square window slid over the image: the loss of score where it stands, averaged over the windows."""

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """As many windows as the budget allows, each twice as wide as its step."""
        side = max(2, math.isqrt(budget - 1))
        height, width = x.shape[1], x.shape[2]
        tops = torch.linspace(0, height, side + 1).long()[:-1].tolist()
        lefts = torch.linspace(0, width, side + 1).long()[:-1].tolist()
        down, across = 2 * -(-height // side), 2 * -(-width // side)
        clean = float(self.scores(x[None], target)[0])
        windows = torch.zeros(side * side, height, width, dtype=torch.bool)
        for i, (top_edge, left) in enumerate((a, b) for a in tops for b in lefts):
            windows[i, top_edge : top_edge + down, left : left + across] = True
        found = []
        for part in windows.split(self.batch):
            found.append(self.scores(torch.where(part[:, None], nothing, x), target))
        drop = clean - torch.cat(found)
        covered = windows.double()
        return torch.tensordot(drop, covered, dims=1) / covered.sum(0).clamp(min=1)


@dataclass
class Geex(Peer):
    """Score-function path attribution (arXiv 2308.09381): Gaussian noise along the path, leave-one-out baseline."""

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Integrated gradients by plain Gaussian likelihood ratios."""
        own = Saliency(
            self.oracle,
            kind="gradient",
            basis="pixel",
            directions="gaussian",
            difference="mean",
            map="integrated-gradients",
            baseline=nothing,
            sigma=0.25 * float(x.std()),
            score=self.score,
            batch=self.batch,
        )
        return own.attribute(x, target=target, budget=budget, key=key).map.sum(0)


PEERS: dict[str, type[Peer]] = {
    "rise": Rise,
    "lime": Lime,
    "kernel-shap": KernelShap,
    "occlusion": Occlusion,
    "geex": Geex,
}


@dataclass
class Captum(Peer):
    """An original of captum by its name, such as KernelShap, Lime or FeatureAblation, on regions of the image."""

    method: str = "KernelShap"
    side: int = 32

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Its attributions, channels summed."""
        attr: Any = require("captum.attr", "peers")

        def forward(rows: Tensor) -> Tensor:
            return self.scores(rows, target)

        labels = blocks(x, self.side)[None, None].expand(1, x.shape[0], -1, -1)
        settings: dict[str, Any] = {"baselines": nothing[None], "feature_mask": labels}
        if self.method != "FeatureAblation":
            settings["n_samples"] = budget
            torch.manual_seed(key.seed % 2**31)
        found: Tensor = getattr(attr, self.method)(forward).attribute(x[None], **settings)
        return found[0].sum(0).double()


@dataclass
class Shap(Peer):
    """shap's own KernelExplainer on regions of the image."""

    side: int = 32

    def work(self, x: Tensor, nothing: Tensor, target: Target, budget: int, key: Key) -> Tensor:
        """Its values, on the pixels of each region."""
        shap: Any = require("shap", "peers")
        import numpy as np

        labels = blocks(x, self.side)
        k = int(labels.max()) + 1

        def play(z: Any) -> Any:
            return self.coalitions(x, nothing, labels, torch.from_numpy(np.asarray(z)).float(), target).numpy()

        explainer = shap.KernelExplainer(play, np.zeros((1, k)), silent=True, seed=key.seed % 2**31)
        found = explainer.shap_values(np.ones((1, k)), nsamples=budget - 2, silent=True)
        return torch.from_numpy(np.asarray(found).reshape(k))[labels]
