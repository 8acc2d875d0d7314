"""Every member that the laws run over. Adding a member is one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onlyforward.core.allocate.bernoulli import BernoulliAllocator
from onlyforward.core.allocate.gaussian import GaussianAllocator
from onlyforward.core.allocate.halving import Halving
from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.uniform import Uniform
from onlyforward.core.perturb.choices import Choices
from onlyforward.core.perturb.coordinates import Coordinates
from onlyforward.core.perturb.inputs import Inputs
from onlyforward.core.perturb.parameters import Parameters
from onlyforward.core.perturb.tangents import Tangents
from onlyforward.core.weigh.antithetic import Antithetic
from onlyforward.core.weigh.baselines import Clean, LeaveOneOut, Mean
from onlyforward.core.weigh.control import ControlVariate
from onlyforward.core.weigh.distortion import Distortion, MixtureOfQuantiles
from onlyforward.core.weigh.quantile import CVaR, Quantile
from onlyforward.core.weigh.ranks import Ranks
from onlyforward.testing import problems
from onlyforward.testing.problems import Problem


@dataclass(frozen=True)
class PerturbationMember:
    """A perturbation and the problem whose exact gradient it must find.

    Attributes:
        name: for tables and messages.
        perturbation: the member.
        problem: makes the problem.
        copies: n of one estimate.
        random: False for rules without noise: one estimate is exact.
    """

    name: str
    perturbation: Any
    problem: Callable[[], Problem]
    copies: int = 8
    random: bool = True


@dataclass(frozen=True)
class WeightingMember:
    """A weighting and what its pull is on a unit Gaussian location problem, R = theta + Z with score Z.

    Attributes:
        name: for tables and messages.
        weighting: the member.
        slope: the expected pull.
        shift_invariant: whether a constant added to the signal leaves the weights.
        bias: how far the mean pull of a batch of 64 may lie from `slope`, where the member is only consistent.
    """

    name: str
    weighting: Any
    slope: float
    shift_invariant: bool = True
    bias: float = 0.0


PERTURBATIONS = (
    PerturbationMember("parameters gaussian", Parameters("gaussian", sigma=0.5), problems.quadratic),
    PerturbationMember("parameters laplace", Parameters("laplace", sigma=0.5), problems.quadratic),
    PerturbationMember("parameters rademacher", Parameters("rademacher", sigma=0.5), problems.quadratic),
    PerturbationMember("parameters hadamard", Parameters("hadamard", sigma=0.5), problems.quadratic, copies=6),
    PerturbationMember("parameters sobol", Parameters("sobol", sigma=0.5), problems.quadratic),
    PerturbationMember("parameters antithetic", Parameters(sigma=0.5, antithetic=True), problems.quadratic),
    PerturbationMember("parameters batched", Parameters(sigma=0.5, batched=True), problems.quadratic),
    PerturbationMember(
        "parameters per datum", Parameters(sigma=0.5, per="datum", data=3), problems.quadratic_per_datum
    ),
    PerturbationMember("inputs gaussian", Inputs("gaussian", sigma=0.5), problems.inputs),
    PerturbationMember("inputs hadamard antithetic", Inputs("hadamard", sigma=0.5, antithetic=True), problems.inputs),
    PerturbationMember("choices categorical", Choices("categorical"), problems.categorical),
    PerturbationMember("choices bernoulli", Choices("bernoulli"), problems.bernoulli),
    PerturbationMember("choices plackett-luce", Choices("plackett-luce"), problems.plackett_luce),
    PerturbationMember(
        "coordinates", Coordinates(shift=math.pi / 2, scale=0.5), problems.cosines, copies=8, random=False
    ),
    PerturbationMember("tangents rademacher", Tangents("rademacher"), problems.quadratic),
    PerturbationMember("tangents gaussian", Tangents("gaussian"), problems.quadratic),
)

DENSITY = math.exp(-0.5 * 0.6744897501960817**2) / math.sqrt(2 * math.pi)
"""Density of the unit Gaussian at its quartile: 0.3178."""

WEIGHTINGS = (
    WeightingMember("mean", Mean(), 1.0, shift_invariant=False),
    WeightingMember("leave-one-out", LeaveOneOut(), 1.0),
    WeightingMember("clean", Clean(), 1.0, shift_invariant=False),
    WeightingMember("antithetic", Antithetic(), 1.0),
    WeightingMember("ranks", Ranks(), 1 / math.sqrt(4 * math.pi), bias=0.02),
    WeightingMember("quantile", Quantile(0.25, tracker="batch"), DENSITY, bias=0.02),
    WeightingMember("quantile sa", Quantile(0.25, tracker="sa"), DENSITY, bias=0.02),
    WeightingMember("cvar", CVaR(0.25), 1.0, bias=0.03),
    WeightingMember("distortion wang", Distortion.wang(0.5), 1.0, bias=0.05),
    WeightingMember("distortion cvar", Distortion.cvar(0.25), 1.0, bias=0.05),
    WeightingMember("mixture of quantiles", MixtureOfQuantiles((0.5, 0.5), (0.25, 0.5)), 1.0, bias=0.1),
    WeightingMember(
        "control variate",
        ControlVariate(LeaveOneOut(), lambda r: (r - 1.0) ** 2, problems.fixed(1, seed=0) * 0 + 1.0),
        1.0,
    ),
)

ALLOCATIONS = (
    ("uniform", Uniform()),
    ("neyman residual", Neyman("residual")),
    ("neyman loss", Neyman("loss")),
    ("neyman sqrt-loss", Neyman("sqrt-loss")),
    ("gaussian", GaussianAllocator()),
    ("bernoulli", BernoulliAllocator()),
    ("halving", Halving()),
)
