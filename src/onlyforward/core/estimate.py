"""The one loop of the project: perturb, run forward, weigh the signals, pull the directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onlyforward.core.checks import check_finite
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.core.params import Params, add
from onlyforward.core.probe import Perturbation, Probe, Run, Weighting


@dataclass(frozen=True)
class Estimate:
    """A gradient estimate and what it cost.

    Attributes:
        value: name -> tensor, the gradient of the smoothed objective E[signal].
        signal: site -> [n, b], what came back.
        runs: forward runs spent.
        state: site -> the weighting's state, for the next call.
    """

    value: Params
    signal: Mapping[str, Tensor]
    runs: int
    state: Mapping[str, Any]


def gradient(
    run: Run,
    params: Params,
    *,
    perturb: Perturbation,
    weigh: Weighting,
    key: Key,
    copies: int,
    state: Mapping[str, Any] | None = None,
) -> Estimate:
    """Estimate the gradient of E[signal] with respect to `params` from forward runs alone.

    grad E[R] = E[R * score], with the score of the perturbation's distribution pulled back to the parameters
    (likelihood ratio: arXiv 2305.08960, eq. 5). For quantile weights the value is the ascent direction of the
    quantile times its density.

    Args:
        run: `run(params, key) -> [b]`; see `onlyforward.core.probe.Run`.
        params: name -> tensor, the point at which the gradient is taken.
        perturb: where noise enters.
        weigh: how signals become weights.
        key: coordinates of this estimate's random numbers.
        copies: n >= 2, perturbed runs per site.
        state: the `state` of the previous estimate, for weightings that track something.

    Raises:
        UsageError: fewer than two copies, or pairs asked of an unpaired perturbation or an odd number of copies.
        Diverged: a signal or a pull is not finite.
    """
    check_copies(copies, perturb, weigh)
    value: Params = {}
    signals: dict[str, Tensor] = {}
    states = dict(state or {})
    runs = 0
    clean: Tensor | None = None
    for probe in perturb.probes(run, params, key=key, copies=copies):
        runs += probe.runs
        if weigh.reference == "clean" and probe.clean is None and clean is None:
            with torch.no_grad():
                clean = run(params, key.at(site="clean"))
            check_finite(clean, name="The unperturbed signal", step=key.step, hint="Check the model and its inputs")
            runs += 1
        check_signal(probe, step=key.step)
        reference = probe.clean if probe.clean is not None else clean
        signal = probe.signal - reference if weigh.reference == "clean" and reference is not None else probe.signal
        weight, states[probe.site] = weigh(signal, states.get(probe.site))
        if probe.mask is not None:
            weight = torch.where(probe.mask, weight, torch.zeros_like(weight))
        pulled = probe.pull(weight)
        for name, tensor in pulled.items():
            check_finite(tensor, name=f"The gradient of {name}", site=probe.site, step=key.step)
        value = add(value, pulled)
        signals[probe.site] = probe.signal
    return Estimate(value, signals, runs, states)


def check_copies(copies: int, perturb: Perturbation, weigh: Weighting) -> None:
    """Refuse numbers of copies that the weighting cannot use."""
    if copies < 2:
        raise UsageError(f"copies is {copies}", "Give at least 2, because one run has nothing to be compared with")
    if weigh.reference == "pairs":
        if not perturb.antithetic:
            raise UsageError(f"{type(weigh).__name__} weights mirrored pairs", "Make the perturbation antithetic")
        if copies % 2:
            raise UsageError(f"copies is {copies}", "Give an even number, because copies come in mirrored pairs")


def check_signal(probe: Probe, *, step: int) -> None:
    """A signal is finite wherever it was run."""
    ran = probe.signal if probe.mask is None else probe.signal[probe.mask]
    check_finite(ran, name="The signal", site=probe.site, step=step, hint="Lower sigma or the learning rate")
