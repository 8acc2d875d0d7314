"""The connectivity report: what every layer keeps, what of it lives, how its flow is spread, how narrow it gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onlyforward.prune.connect import gradients, live_flags, probe, sizes


@dataclass(frozen=True)
class Layer:
    """One layer of the report.

    Attributes:
        name: of the parameter.
        weights: how many there are.
        nonzero: how many are kept.
        live: how many of those lie on a path from input to output.
        live_units: outputs of the layer with a living weight.
        units: outputs of the layer.
        entropy: of the path shares, over its maximum log(live): 1 is an even spread, 0 a single weight.
    """

    name: str
    weights: int
    nonzero: int
    live: int
    live_units: int
    units: int
    entropy: float


@dataclass(frozen=True)
class ConnectivityReport:
    """The whole network.

    Attributes:
        layers: one entry per weight tensor.
        log_phi: logarithm of the mean-preserving connectivity; -inf if there is no path.
        dead_neurons: units of layers without a living weight.
        dead_outputs: outputs of the network without a path.
        narrowest_width: smallest number of living units in a layer.
    """

    layers: tuple[Layer, ...]
    log_phi: float
    dead_neurons: int
    dead_outputs: int
    narrowest_width: int

    @property
    def weights(self) -> int:
        """All weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzero(self) -> int:
        """Kept weights."""
        return sum(layer.nonzero for layer in self.layers)

    @property
    def live(self) -> int:
        """Kept weights on a path."""
        return sum(layer.live for layer in self.layers)

    @property
    def live_fraction(self) -> float:
        """Living among kept weights."""
        return self.live / max(1, self.nonzero)

    @property
    def collapsed(self) -> bool:
        """Whether an output, or everything, is cut off."""
        return self.dead_outputs > 0 or math.isinf(self.log_phi)


def inspect(
    model: nn.Module, example_inputs: Any, masks: Mapping[str, Tensor] | None = None, **options: Any
) -> ConnectivityReport:
    """Measure a model, or the model under masks, in float64.

    Padding taps that never see data (a 3x3 kernel on a 1x1 map) count as dead.
    """
    how = probe(model, example_inputs, **options)
    weights = sizes(model)
    weights = {n: w * masks[n].double() if masks is not None and n in masks else w for n, w in weights.items()}
    flags, outputs = live_flags(how, weights)
    slopes, _ = gradients(how, weights)
    with torch.no_grad():
        mean = probe(model, example_inputs, **({"normalize": "mean"} | options))
        value, log = mean.log_phi(weights)
    layers = []
    for name, alive in flags.items():
        share = (weights[name] * slopes[name])[alive]
        share = share / share.sum().clamp_min(torch.finfo(torch.float64).tiny)
        spread = float(torch.special.entr(share).sum())
        living = int(alive.sum())
        units = alive.flatten(1).any(1)
        layers.append(
            Layer(
                name=name,
                weights=alive.numel(),
                nonzero=int((weights[name] != 0).sum()),
                live=living,
                live_units=int(units.sum()),
                units=len(units),
                entropy=spread / math.log(living) if living > 1 else 0.0,
            )
        )
    return ConnectivityReport(
        layers=tuple(layers),
        log_phi=math.log(float(value)) + log if float(value) > 0 else -math.inf,
        dead_neurons=sum(layer.units - layer.live_units for layer in layers),
        dead_outputs=int((outputs <= 0).sum()),
        narrowest_width=min(layer.live_units for layer in layers),
    )
