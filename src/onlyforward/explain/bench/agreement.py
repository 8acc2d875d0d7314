"""Case agree: our metrics against Captum's and Quantus' on the same maps, the same network and the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onlyforward.core.checks import require
from onlyforward.core.errors import MissingExtra
from onlyforward.core.keys import Key
from onlyforward.explain.bases import blocks
from onlyforward.explain.checks import infidelity, sensitivity_max
from onlyforward.explain.digits import classifier, test_images
from onlyforward.explain.metrics import deletion, gini
from onlyforward.explain.peers import Peer
from onlyforward.explain.removal import removed
from onlyforward.explain.saliency import Saliency
from onlyforward.explain.scores import judge
from onlyforward.run.oracle import Oracle

if TYPE_CHECKING:
    from onlyforward.run.benchmark import BenchOptions
    from onlyforward.run.context import Context
    from onlyforward.run.result import Result

IMAGES, BUDGET = 4, 64
Compared = Callable[[nn.Module, Tensor, int, Tensor, Key], tuple[float, float]]
"""(network, x, target, map, key) -> (ours, theirs)."""


def agree(options: BenchOptions, context: Context, result: Result) -> None:
    """Largest gap of each metric over a few digits."""
    net, _ = classifier(seed=options.seed)
    net = Precise(net).eval()
    rows: list[list[Any]] = []
    for name, (package, compare) in METRICS.items():
        gap, ours, theirs = 0.0, 0.0, 0.0
        try:
            for i, (x, y) in enumerate(test_images(IMAGES)):
                key = Key(run=options.seed, step=i)
                values = explainer(net).attribute(x.double(), target=y, budget=BUDGET, key=key).map
                ours, theirs = compare(net, x.double(), y, values, key)
                gap = max(gap, abs(ours - theirs))
        except MissingExtra:
            rows.append([name, package, "not installed", "", ""])
            continue
        result.metric(f"agree_{name}_error", gap)
        rows.append([name, package, ours, theirs, gap])
    result.table(
        f"agree: our metrics beside the originals, {IMAGES} digits",
        ["metric", "original", "ours (last digit)", "theirs", "largest gap"],
        rows,
        "Same maps, network, perturbations and order of pixels.",
    )


class Precise(nn.Module):
    """A network in double precision for inputs of any: Quantus hands everything over in single."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.double()

    def forward(self, x: Tensor) -> Tensor:
        """Scores [n, c]."""
        answers: Tensor = self.net(x.double())
        return answers


def explainer(net: nn.Module) -> Saliency:
    """The map whose metrics are compared."""
    return Saliency(Oracle.from_module(net), kind="gradient", sigma=0.05)


def draws_of(x: Tensor, key: Key, count: int, scale: float) -> Tensor:
    """Perturbations [count, *shape] for both sides."""
    return scale * torch.randn((count, *x.shape), generator=key.at(site="agree").generator(), dtype=torch.float64)


def compare_infidelity(net: nn.Module, x: Tensor, y: int, values: Tensor, key: Key) -> tuple[float, float]:
    """captum.metrics.infidelity."""
    metrics: Any = require("captum.metrics", "peers")
    draws = draws_of(x, key, 32, 0.1)
    place = iter(draws)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.stack([next(place) for _ in range(len(inputs))])
        return noise, inputs - noise

    theirs = metrics.infidelity(net, perturb, x[None], values[None], target=y, n_perturb_samples=len(draws))
    ours = infidelity(lambda rows: net(rows)[:, y], x, values, key=key, perturbations=draws)
    return ours, float(theirs)


def compare_sensitivity(net: nn.Module, x: Tensor, y: int, values: Tensor, key: Key) -> tuple[float, float]:
    """captum.metrics.sensitivity_max, our `attribute` inside theirs."""
    metrics: Any = require("captum.metrics", "peers")
    draws = draws_of(x, key, 4, 0.02)
    place, own = iter(draws), explainer(net)

    def around(inputs: tuple[Tensor, ...], radius: float) -> tuple[Tensor, ...]:
        inside = inputs[0] if isinstance(inputs, tuple) else inputs
        return (inside + torch.stack([next(place) for _ in range(len(inside))]),)

    def explain(inputs: Any, **unused: Any) -> Any:
        rows = inputs[0] if isinstance(inputs, tuple) else inputs
        found = torch.stack([again(row) for row in rows])
        return (found,) if isinstance(inputs, tuple) else found

    def again(row: Tensor) -> Tensor:
        found: Tensor = own.attribute(row, target=y, budget=BUDGET, key=key).map
        return found

    theirs = metrics.sensitivity_max(
        explain, x[None], perturb_func=around, n_perturb_samples=len(draws), max_examples_per_batch=1
    )
    return sensitivity_max(again, x, key=key, perturbations=draws), float(theirs)


def compare_deletion(net: nn.Module, x: Tensor, y: int, values: Tensor, key: Key) -> tuple[float, float]:
    """quantus.PixelFlipping: the area under the same curve."""
    quantus: Any = require("quantus", "peers")
    steps = 32
    theirs = quantus.PixelFlipping(
        features_in_step=x.numel() // steps,
        perturb_baseline="black",
        normalise=False,
        abs=False,
        disable_warnings=True,
        display_progressbar=False,
    )(model=net, x_batch=x[None].numpy(), y_batch=[y], a_batch=values[None].numpy(), softmax=False, channel_first=True)
    ours = deletion(lambda rows: net(rows)[:, y], x, values, steps=steps, baseline=torch.full_like(x, float(x.min())))
    flipped = torch.as_tensor(theirs[0], dtype=torch.float64).flatten()
    # Quantus leaves the untouched image out of its curve.
    whole = torch.cat((ours.score[:1], flipped))
    return ours.area, float(torch.trapezoid(whole, ours.share))


def compare_sparseness(net: nn.Module, x: Tensor, y: int, values: Tensor, key: Key) -> tuple[float, float]:
    """quantus.Sparseness: the Gini index."""
    quantus: Any = require("quantus", "peers")
    theirs = quantus.Sparseness(disable_warnings=True, display_progressbar=False)(
        model=net, x_batch=x[None].numpy(), y_batch=[y], a_batch=values[None].numpy(), channel_first=True
    )
    return gini(values), float(theirs[0])


def compare_ablation(net: nn.Module, x: Tensor, y: int, values: Tensor, key: Key) -> tuple[float, float]:
    """captum.attr.FeatureAblation: the fall of the score when one block is removed, on our coalitions."""
    attr: Any = require("captum.attr", "peers")
    labels, nothing = blocks(x, 4), removed(x, "blur")
    count = int(labels.max()) + 1
    own = Peer(Oracle.from_module(net))
    z = torch.cat((torch.ones(1, count), 1 - torch.eye(count)))
    scores = own.coalitions(x, nothing, labels, z, y)
    ours = (scores[0] - scores[1:])[labels]

    def forward(rows: Tensor) -> Tensor:
        return judge(net(rows), y, "probability")

    theirs = attr.FeatureAblation(forward).attribute(x[None], baselines=nothing[None], feature_mask=labels[None, None])
    gap = int((ours - theirs[0, 0]).abs().argmax())
    return float(ours.flatten()[gap]), float(theirs[0, 0].flatten()[gap])


METRICS: dict[str, tuple[str, Compared]] = {
    "infidelity": ("captum", compare_infidelity),
    "sensitivity": ("captum", compare_sensitivity),
    "deletion": ("quantus", compare_deletion),
    "sparseness": ("quantus", compare_sparseness),
    "ablation": ("captum", compare_ablation),
}
