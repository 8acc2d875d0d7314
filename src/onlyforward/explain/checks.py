"""Properties of a map that need the black box again: infidelity, sensitivity, randomisation, remove and retrain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onlyforward.core.keys import Key
from onlyforward.explain.metrics import Score, order_of, plane, spearman


def infidelity(
    score: Score,
    x: Tensor,
    values: Tensor,
    *,
    key: Key,
    draws: int = 64,
    sigma: float = 0.1,
    perturbations: Tensor | None = None,
    normalise: bool = False,
) -> float:
    """Mean of (I . map - (f(x) - f(x - I)))^2 over perturbations I (arXiv 1901.09392).

    Args:
        score: rows [n, *shape] -> [n].
        x: [*shape].
        values: the map, shape of x.
        key: coordinates of the perturbations.
        draws: their number.
        sigma: their standard deviation per number of x.
        perturbations: [n, *shape] instead of drawn ones.
        normalise: scale the map first so that it fits best, for maps whose unit is not that of a gradient.
    """
    if perturbations is None:
        generator = key.at(site="infidelity").generator()
        perturbations = sigma * torch.randn((draws, *x.shape), generator=generator, dtype=torch.float64).to(x)
    predicted = (perturbations.double() * values.double()).flatten(1).sum(1)
    change = score(x[None])[0].double() - score(x - perturbations).double()
    if normalise:
        predicted = predicted * float(predicted @ change / (predicted @ predicted).clamp(min=1e-300))
    return float((predicted - change).square().mean())


def sensitivity_max(
    explain: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    key: Key,
    radius: float = 0.02,
    draws: int = 10,
    perturbations: Tensor | None = None,
) -> float:
    """Largest |map(x + delta) - map(x)| / |map(x)| over delta uniform in a cube (arXiv 1901.09392).

    Args:
        explain: x [*shape] -> map.
        x: [*shape].
        key: coordinates of the deltas.
        radius: half the side of the cube.
        draws: number of deltas.
        perturbations: [n, *shape] instead of drawn ones.
    """
    if perturbations is None:
        generator = key.at(site="sensitivity").generator()
        perturbations = radius * (2 * torch.rand((draws, *x.shape), generator=generator, dtype=torch.float64) - 1).to(x)
    here = explain(x).double()
    found = [float((explain(x + delta).double() - here).norm()) for delta in perturbations]
    return max(found) / max(float(here.norm()), 1e-300)


def randomisation(explain: Callable[[nn.Module], Tensor], module: nn.Module, *, key: Key) -> float:
    """Rank correlation of the map with that of the same network with random weights (arXiv 1810.03292).

    Args:
        explain: module -> map.
        module: the network; a copy is randomised, every tensor shuffled within itself.
        key: coordinates of the shuffles.
    """
    shuffled = copy.deepcopy(module)
    generator = key.at(site="randomisation").generator()
    with torch.no_grad():
        for parameter in shuffled.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return spearman(explain(module), explain(shuffled))


def roar(
    train: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]],
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    maps: Sequence[Tensor],
    maps_test: Sequence[Tensor],
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5),
) -> list[float]:
    """Test accuracy after the most important pixels were replaced by their mean and the model retrained (1806.10758).

    Args:
        train: (x [n, c, h, w], y [n]) -> a function of rows that gives scores [n, c].
        x: training images.
        y: their labels.
        x_test: test images.
        y_test: their labels.
        maps: one a training image.
        maps_test: one a test image.
        shares: of the pixels that are removed.
    """
    found = []
    for share in shares:
        model = train(without(x, maps, share), y)
        answers = model(without(x_test, maps_test, share)).argmax(1)
        found.append(float((answers == y_test).double().mean()))
    return found


def without(x: Tensor, maps: Sequence[Tensor], share: float) -> Tensor:
    """Images whose most important pixels show the image's mean."""
    rows = []
    for image, values in zip(x, maps, strict=True):
        order = order_of(plane(values))
        mask = torch.zeros(len(order), dtype=torch.bool)
        mask[order[: round(share * len(order))]] = True
        rows.append(torch.where(mask.reshape(image.shape[1:]), image.mean((1, 2), keepdim=True), image))
    return torch.stack(rows)
