"""Competitors behind the engine's signature: `.backward(loss_fn, *inputs, target)` fills `p.grad`, any optimiser steps.

Backpropagation, backpropagation with the same noise, direct feedback alignment (arXiv 1609.01596), torchzero's SPSA and
evotorch's symmetric search distribution (PGPE). For a spiking network backpropagation runs through snntorch's surrogate
derivative: that is the surrogate-gradient peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from onlyforward.core.checks import check_range, require
from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.train.noise import noise_kept

if TYPE_CHECKING:
    from torch import Tensor

LossFn = Callable[["Tensor", "Tensor"], "Tensor"]
"""(output, target) -> losses [b]."""


class Peer:
    """What the peers share: the network, its trained parameters, and a step counter that names the noise.

    Args:
        model: trained in place through `p.grad`.
        seed: run coordinate of the noise.
    """

    def __init__(self, model: nn.Module, *, seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        self.steps = 0
        self.runs = 0

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that require a gradient, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def key(self) -> Key:
        """The coordinates of the current step."""
        return Key(run=self.seed, step=self.steps, site=type(self).__name__)

    def deposit(self, gradients: Mapping[str, Tensor]) -> None:
        """Add to `p.grad`, as autograd does."""
        for name, p in self.parameters().items():
            if name in gradients:
                p.grad = gradients[name].clone() if p.grad is None else p.grad + gradients[name]

    def backward(self, loss_fn: LossFn, *inputs: Tensor) -> Tensor:
        """Fill `p.grad` from `inputs`, the last of which is the target; returns the mean loss."""
        loss = self.estimate(loss_fn, inputs[:-1], inputs[-1])
        self.steps += 1
        return loss

    def estimate(self, loss_fn: LossFn, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """One gradient; to be given by each peer."""
        raise NotImplementedError


class Backprop(Peer):
    """Backpropagation, with Gaussian noise of standard deviation `sigma` on hidden pre-activations if it is not 0."""

    def __init__(self, model: nn.Module, *, sigma: float = 0.0, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
        self.sigma = check_range(sigma, name="sigma", low=0.0)

    def estimate(self, loss_fn: LossFn, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Autograd of the mean loss."""
        with noise_kept(self.model, self.sigma, self.key()) if self.sigma else nullcontext():
            loss = loss_fn(self.model(*inputs), target).mean()
        loss.backward()
        self.runs += len(target)
        return loss.detach()


class FeedbackAlignment(Peer):
    """Direct feedback alignment: hidden layers learn from fixed random projections of the error at the logits.

    Each part of the network from one weighted module to the next gets the cotangent B e at its output, where
    e = d loss / d logits and B is drawn once with entries N(0, 1/classes); within the part the derivative is local.

    Raises:
        UsageError: the network is no nn.Sequential, so that its parts are not known.
    """

    def __init__(self, model: nn.Module, *, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
        if not isinstance(model, nn.Sequential):
            raise UsageError("Feedback alignment needs an nn.Sequential", "Take --method lr or another model")
        self.parts = [nn.Sequential(*part) for part in split_at_weights(model)]
        self.feedback: dict[int, Tensor] = {}

    def estimate(self, loss_fn: LossFn, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Local derivatives of each part at its random cotangent."""
        out = inputs[0]
        outs = []
        for part in self.parts:
            out = part(out.detach())
            outs.append(out)
        logits = outs[-1].detach().requires_grad_()
        losses = loss_fn(logits, target)
        error = torch.autograd.grad(losses.mean(), logits)[0]
        outs[-1].backward(error)
        for k, hidden in enumerate(outs[:-1]):
            if k not in self.feedback:
                key = Key(run=self.seed, site=f"feedback/{k}")
                shape = (error.shape[1], hidden[0].numel())
                self.feedback[k] = torch.randn(shape, generator=key.generator()).to(error) / shape[0] ** 0.5
            hidden.backward((error @ self.feedback[k]).reshape(hidden.shape))
        self.runs += len(target)
        return losses.detach().mean()


def split_at_weights(model: nn.Sequential) -> Iterator[list[nn.Module]]:
    """Runs of modules that begin with one that has parameters (the first run also holds what comes before)."""
    part: list[nn.Module] = []
    seen = False
    for module in model:
        has = any(True for _ in module.parameters())
        if has and seen:
            yield part
            part = []
        seen = seen or has
        part.append(module)
    yield part


class TorchZero(Peer):
    """torchzero's SPSA with central differences: `copies` forward runs of the batch make one gradient.

    Args:
        model: as for every peer.
        copies: forward runs per step, even.
        sigma: length of the difference in units of the parameters.
        seed: run coordinate.
    """

    def __init__(self, model: nn.Module, *, copies: int, sigma: float, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
        self.copies = copies
        self.library = require("torchzero", "peers")
        self.sigma = check_range(sigma, name="sigma", low=0.0, open_low=True)

    def estimate(self, loss_fn: LossFn, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """The library's own update at learning rate 1 is its gradient: the parameters are put back afterwards."""
        parameters = self.parameters()
        losses = []

        def closure(backward: bool = False) -> Tensor:
            loss = loss_fn(self.model(*inputs), target).mean()
            losses.append(loss.detach())
            return loss

        modules = self.library.m
        sampler = modules.SPSA(h=self.sigma, n_samples=self.copies // 2, seed=self.key().seed & 0xFFFFFFFF)
        with torch.no_grad():
            before = {name: p.detach().clone() for name, p in parameters.items()}
            kept = {name: p.grad for name, p in parameters.items()}
            make = getattr(self.library, "Optimizer", None) or self.library.Modular
            make(list(parameters.values()), sampler).step(closure)
            gradients = {name: before[name] - p for name, p in parameters.items()}
            for name, p in parameters.items():
                p.copy_(before[name])
                p.grad = kept[name]  # the library writes its own
        self.deposit(gradients)
        self.runs += len(losses) * len(target)
        return torch.stack(losses).mean()


class EvoTorch(Peer):
    """evotorch's symmetric separable Gaussian search distribution (as in PGPE) around the current parameters.

    Args:
        model: as for every peer.
        copies: solutions per step, even: mirrored pairs.
        sigma: standard deviation in units of the parameters.
        seed: run coordinate.
    """

    def __init__(self, model: nn.Module, *, copies: int, sigma: float, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
        self.copies = copies
        self.sigma = check_range(sigma, name="sigma", low=0.0, open_low=True)
        self.library = require("evotorch.distributions", "peers")

    def estimate(self, loss_fn: LossFn, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Sample, evaluate all solutions in one batched run, and take the distribution's gradient of its mean."""
        parameters = self.parameters()
        flat = torch.nn.utils.parameters_to_vector(parameters.values()).detach()
        settings = {"mu": flat, "sigma": torch.full_like(flat, self.sigma), "divide_mu_grad_by": "num_directions"}
        distribution = self.library.SymmetricSeparableGaussian(settings, solution_length=len(flat), dtype=flat.dtype)
        samples = distribution.sample(self.copies, generator=self.key().generator())
        losses = batched_losses(self.model, samples, parameters, loss_fn, inputs, target)
        found = distribution.compute_gradients(samples, losses, objective_sense="min")["mu"]
        # The library gives the direction of improvement in the natural metric of mu: minus sigma^2 times the gradient.
        self.deposit(unflatten(-found / self.sigma**2, parameters))
        self.runs += self.copies * len(target)
        return losses.mean()


def unflatten(vector: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[..., P] -> named tensors [..., *shape], in the order of `parameters`."""
    pieces = vector.split([p.numel() for p in parameters.values()], dim=-1)
    return {name: piece.reshape(*vector.shape[:-1], *p.shape) for (name, p), piece in zip(parameters.items(), pieces)}


def batched_losses(
    model: nn.Module, solutions: Tensor, parameters: Mapping[str, Tensor], loss_fn: LossFn, inputs: Any, target: Tensor
) -> Tensor:
    """Mean loss of each solution [n, P]: [n], in one vectorised forward run."""

    def one(values: Mapping[str, Tensor]) -> Tensor:
        return loss_fn(functional_call(model, dict(values), tuple(inputs)), target).mean()

    with torch.no_grad():
        return vmap(one)(unflatten(solutions, parameters))
