"""Methods by name: each an object with `.backward(loss_fn, *inputs, target)` that fills `p.grad`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onlyforward.core.allocate.neyman import Neyman
from onlyforward.core.allocate.uniform import Uniform
from onlyforward.core.checks import check_choice
from onlyforward.core.errors import UsageError
from onlyforward.nn.engine import LikelihoodRatio
from onlyforward.nn.evolution import SPSA, EvolutionStrategies, ForwardGradient, MeZO
from onlyforward.nn.lag import Lagged
from onlyforward.train.peers import Backprop, EvoTorch, FeedbackAlignment, TorchZero

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Settings:
    """What a method may want to know.

    Attributes:
        copies: forward runs per datum (and site).
        sigma: noise level; None is the method's own.
        noise: kind of noise of the likelihood ratio.
        baseline: of the likelihood ratio.
        pairing: of the likelihood ratio.
        plan: of the likelihood ratio.
        credit: of the likelihood ratio.
        force: see `LikelihoodRatio`.
        cache: see `LikelihoodRatio`.
        flow: see `LikelihoodRatio`.
        visits: see `LikelihoodRatio`.
        sigma_mode: see `LikelihoodRatio`.
        sigma_floor: see `LikelihoodRatio`.
        injection: see `LikelihoodRatio`.
        allocation: name of an allocator of copies over the data, or none.
        target_cosine: see `LikelihoodRatio`.
        lag: batches between a run and its gradient, 0 or 1.
        group: workers that share the copies.
        seed: run coordinate.
    """

    copies: int = 16
    sigma: float | None = None
    noise: str = "auto"
    baseline: str = "clean"
    pairing: str = "auto"
    plan: Mapping[str, str] = field(default_factory=dict)
    credit: str = "auto"
    force: bool = False
    cache: str = "seed"
    flow: str = "full"
    visits: float = 1.0
    sigma_mode: str = "fixed"
    sigma_floor: float = 0.0
    injection: str = "layer"
    allocation: str = ""
    target_cosine: float | None = None
    lag: int = 0
    group: Any = None
    seed: int = 0

    def level(self, own: float) -> float:
        """Sigma, or the method's own."""
        return own if self.sigma is None else self.sigma


def likelihood_ratio(model: nn.Module, s: Settings) -> Any:
    """The project's own engine."""
    engine = LikelihoodRatio(
        model,
        plan=s.plan,
        credit=s.credit,
        copies=s.copies,
        sigma="auto" if s.sigma is None else s.sigma,
        noise=s.noise,
        baseline=s.baseline,
        pairing=s.pairing,
        seed=s.seed,
        force=s.force,
        cache=s.cache,
        flow=s.flow,
        visits=s.visits,
        sigma_mode=s.sigma_mode,
        sigma_floor=s.sigma_floor,
        group=s.group,
        injection=s.injection,
        allocation=ALLOCATIONS[check_choice(s.allocation, ALLOCATIONS, name="allocation")](),
        target_cosine=s.target_cosine,
    )
    return Lagged(engine) if s.lag else engine


def surrogate(model: nn.Module, s: Settings) -> Any:
    """Backpropagation through snntorch's surrogate derivative of the spike."""
    if not any(type(module).__module__.startswith("snntorch") for module in model.modules()):
        raise UsageError("The network has no spiking units", "Take --method bp, or --model snn")
    return Backprop(model, seed=s.seed)


ALLOCATIONS: Mapping[str, Callable[[], Any]] = {"": lambda: None, "uniform": Uniform, "neyman": Neyman}
"""Name on the command line -> allocator of a site's runs over the data; "" gives every datum the same copies."""

METHODS: Mapping[str, Callable[[Any, Settings], Any]] = {
    "lr": likelihood_ratio,
    "lr-all": lambda model, s: likelihood_ratio(model, replace(s, injection="all")),
    "weights": lambda model, s: likelihood_ratio(model, replace(s, plan={"*": "weights", **s.plan})),
    "hybrid": likelihood_ratio,
    "surrogate": surrogate,
    "bp": lambda model, s: Backprop(model, seed=s.seed),
    "bp-noise": lambda model, s: Backprop(model, sigma=s.level(0.3), seed=s.seed),
    "es": lambda model, s: EvolutionStrategies(model, copies=s.copies, sigma=s.level(0.02), seed=s.seed),
    "spsa": lambda model, s: SPSA(model, copies=s.copies, sigma=s.level(0.01), seed=s.seed),
    "mezo": lambda model, s: MeZO(model, copies=s.copies, sigma=s.level(0.01), seed=s.seed),
    "forward-gradient": lambda model, s: ForwardGradient(model, copies=s.copies, seed=s.seed),
    "dfa": lambda model, s: FeedbackAlignment(model, seed=s.seed),
    "torchzero": lambda model, s: TorchZero(model, copies=s.copies, sigma=s.level(0.01), seed=s.seed),
    "evotorch": lambda model, s: EvoTorch(model, copies=s.copies, sigma=s.level(0.02), seed=s.seed),
}
"""Name on the command line -> function of model and settings."""
LIKELIHOOD_RATIOS = ("lr", "lr-all", "weights", "hybrid")
"""Methods that are settings of the project's own engine."""


def make_method(name: str, model: nn.Module, settings: Settings) -> Any:
    """The method `name` on a model.

    Raises:
        UsageError: unknown name, with the nearest ones.
    """
    return METHODS[check_choice(name, METHODS, name="method")](model, settings)


def cost(method: Any) -> tuple[float, float]:
    """Forward runs of the batch per step, and multiply-accumulates over backpropagation's."""
    if hasattr(method, "cost"):
        return method.cost()
    copies = float(getattr(method, "copies", 1))
    return copies, copies / 3 if copies > 1 else 1.0
