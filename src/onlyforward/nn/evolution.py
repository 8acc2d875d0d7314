"""Forward-only baselines behind the engine's signature: evolution strategies, SPSA, MeZO and the forward gradient.

All perturb the parameters, so one copy costs a full forward run of the batch and the perturbed dimension is P.
Evolution strategies: arXiv 1703.03864. SPSA: Spall 1992. MeZO: arXiv 2305.17333. Forward gradient: arXiv 2202.08587.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from onlyforward.core.checks import check_range
from onlyforward.core.directions import direction
from onlyforward.core.errors import UsageError
from onlyforward.core.estimate import gradient
from onlyforward.core.keys import Key
from onlyforward.core.perturb.parameters import Parameters
from onlyforward.core.weigh.antithetic import Antithetic
from onlyforward.nn.activations import LossFn
from onlyforward.nn.walk import unwrapped


class ParameterEngine:
    """What the baselines share: `backward` fills `p.grad`, `state` and `load_state` name the next step.

    Args:
        model: any module; its buffers are left alone.
        copies: forward runs of the batch per step.
        sigma: noise level in units of the parameters.
        seed: run coordinate of every draw.
    """

    paired = True

    def __init__(self, model: nn.Module, *, copies: int = 16, sigma: float = 0.02, seed: int = 0) -> None:
        check_range(copies, name="copies", low=2, why="one run has nothing to be compared with")
        check_range(sigma, name="sigma", low=0.0, open_low=True, why="without noise there is nothing to compare")
        if self.paired and copies % 2:
            raise UsageError(f"copies is {copies}", "Give an even number, because copies come in mirrored pairs")
        self.model = unwrapped(model)
        self.copies, self.sigma, self.seed = copies, sigma, seed
        self.steps = 0
        self.runs = 0

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def backward(self, loss_fn: LossFn, *inputs: Any) -> Tensor:
        """Estimate the gradient of the mean loss, add it to `p.grad`, and return the mean of the losses seen."""
        key = Key(run=self.seed, step=self.steps, site=type(self).__name__)
        found, loss = self.estimate(loss_fn, inputs[:-1], inputs[-1], key)
        for name, p in self.parameters().items():
            p.grad = found[name] if p.grad is None else p.grad + found[name]
        self.steps += 1
        self.runs += self.copies * len(inputs[-1])
        return loss

    def estimate(
        self, loss_fn: LossFn, inputs: tuple[Any, ...], target: Any, key: Key
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """Gradient by name and mean loss; given by each engine."""
        raise NotImplementedError

    def cost(self) -> tuple[float, float]:
        """Forward runs of the batch per step, and multiply-accumulates over backpropagation's."""
        return float(self.copies), self.copies / 3

    def state(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"steps": self.steps, "runs": self.runs}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.steps, self.runs = state["steps"], state["runs"]


class EvolutionStrategies(ParameterEngine):
    """Gaussian noise on all parameters, shared by the batch, in mirrored pairs; all copies in vectorised runs."""

    noise = "gaussian"

    def estimate(
        self, loss_fn: LossFn, inputs: tuple[Any, ...], target: Any, key: Key
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """The loop of `core.gradient` with mirrored weights."""
        seen = []

        def one(values: Mapping[str, Tensor]) -> Tensor:
            return loss_fn(functional_call(self.model, dict(values), inputs), target).mean()

        def run(values: Mapping[str, Tensor], _: Key) -> Tensor:
            losses = vmap(one, randomness="same")(values)
            seen.append(losses)
            return losses[:, None]

        estimate = gradient(
            run,
            {name: p.detach() for name, p in self.parameters().items()},
            perturb=Parameters(self.noise, sigma=self.sigma, antithetic=True, batched=True),
            weigh=Antithetic(),
            key=key,
            copies=self.copies,
        )
        return estimate.value, torch.cat(seen).mean()


class SPSA(EvolutionStrategies):
    """Random signs on all parameters: simultaneous perturbation, right to O(sigma^2)."""

    noise = "rademacher"


class MeZO(ParameterEngine):
    """Mirrored pairs made in place and replayed from their seeds: the memory of inference."""

    def estimate(
        self, loss_fn: LossFn, inputs: tuple[Any, ...], target: Any, key: Key
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """One pair after another; the parameters are back at their values on return, to the bit."""
        parameters = self.parameters()
        found = {name: torch.zeros_like(p) for name, p in parameters.items()}
        before = {name: p.detach().clone() for name, p in parameters.items()}
        seen = []
        pairs = self.copies // 2
        with torch.no_grad():
            try:
                for pair in range(pairs):
                    both = []
                    for sign in (1, -1):
                        for name, p in parameters.items():
                            p.copy_(before[name]).add_(self.draw(p, key, pair, name), alpha=sign * self.sigma)
                        both.append(loss_fn(self.model(*inputs), target).mean())
                    seen += both
                    scale = float(both[0] - both[1]) / (2 * self.sigma * pairs)
                    for name, p in parameters.items():
                        found[name].add_(self.draw(p, key, pair, name), alpha=scale)
            finally:
                for name, p in parameters.items():
                    p.copy_(before[name])
        return found, torch.stack(seen).mean()

    def draw(self, p: Tensor, key: Key, pair: int, name: str) -> Tensor:
        """The noise of one parameter in one pair, from its own key."""
        generator = key.at(copy=pair, site=f"{key.site}/{name}").generator(p.device)
        return torch.empty_like(p).normal_(generator=generator)


class ForwardGradient(ParameterEngine):
    """Directional derivatives along random signs by forward-mode differentiation; no sigma, no bias.

    Each copy is one Jacobian-vector product; all are vectorised.
    """

    paired = False

    def estimate(
        self, loss_fn: LossFn, inputs: tuple[Any, ...], target: Any, key: Key
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """Mean over copies of directional derivative times direction."""
        params = {name: p.detach() for name, p in self.parameters().items()}
        size = sum(p.numel() for p in params.values())
        like = next(iter(params.values()))
        flat = direction("rademacher").draw(key, slice(0, self.copies), (1, size), like)[:, 0]
        pieces = flat.split([p.numel() for p in params.values()], dim=1)
        tangents = {name: piece.reshape(-1, *p.shape) for (name, p), piece in zip(params.items(), pieces)}

        def mean_loss(values: Mapping[str, Tensor]) -> Tensor:
            return loss_fn(functional_call(self.model, dict(values), inputs), target).mean()

        def one(tangent: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            value, slope = jvp(mean_loss, (params,), (dict(tangent),))
            return value, slope

        losses, slopes = vmap(one, randomness="same")(tangents)
        total = (slopes @ flat / self.copies).detach().split([p.numel() for p in params.values()])
        return {n: piece.reshape(p.shape) for (n, p), piece in zip(params.items(), total)}, losses.mean().detach()

    def cost(self) -> tuple[float, float]:
        """A Jacobian-vector product is about two forward runs."""
        return 2.0 * self.copies, 2 * self.copies / 3
