"""Arms of a comparison: one network, one data set, one order of batches, one optimiser, and an engine that differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from onlyforward.core.checks import check_choice
from onlyforward.core.errors import Diverged
from onlyforward.core.keys import Key
from onlyforward.data import nets
from onlyforward.train.peers import Backprop, EvoTorch, FeedbackAlignment, TorchZero

if TYPE_CHECKING:
    from torch import Tensor, nn

    from onlyforward.data.sets import Dataset

EVOLUTION_SIGMA = 0.05
"""Standard deviation of parameter noise of the evolution arms."""


def losses(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each datum [b]."""
    return F.cross_entropy(out, target, reduction="none")


def engine_for(arm: str, model: nn.Module, *, sigma: float, copies: int, seed: int, **settings: Any) -> Any:
    """The engine of an arm; the evolution arms perturb parameters and take mirrored pairs."""
    import onlyforward as of

    makers: dict[str, Callable[[], Any]] = {
        "bp": lambda: Backprop(model, seed=seed),
        "surrogate": lambda: Backprop(model, seed=seed),
        "bp_noise": lambda: Backprop(model, sigma=sigma, seed=seed),
        "dfa": lambda: FeedbackAlignment(model, seed=seed),
        "torchzero": lambda: TorchZero(model, copies=copies, sigma=EVOLUTION_SIGMA, seed=seed),
        "evotorch": lambda: EvoTorch(model, copies=copies, sigma=EVOLUTION_SIGMA, seed=seed),
        "lr": lambda: of.LikelihoodRatio(model, sigma=sigma, copies=copies, seed=seed, **settings),
        "es": lambda: of.EvolutionStrategies(model, sigma=EVOLUTION_SIGMA, copies=copies, seed=seed),
    }
    return makers[check_choice(arm, makers, name="arm")]()


def train(
    engine: Any,
    model: nn.Module,
    data: Dataset,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    each: Callable[[int], None] | None = None,
) -> float:
    """Train in place with Adam; returns the mean loss of the last epoch.

    The order of the data depends on the seed alone, so that all arms see the same batches.

    Raises:
        Diverged: a loss is not finite.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    key, step, mean = Key(run=seed), 0, float("nan")
    for epoch in range(epochs):
        order = torch.randperm(len(data.y_train), generator=key.at(site="order", step=epoch).generator())
        total = 0.0
        for rows in order.split(batch):
            optimizer.zero_grad()
            loss = float(engine.backward(losses, data.x_train[rows], data.y_train[rows]))
            if loss != loss or abs(loss) == float("inf"):
                raise Diverged(f"The loss is {loss} in step {step}", "Lower the learning rate or sigma", step=step)
            optimizer.step()
            step += 1
            total += loss * len(rows)
            if each is not None:
                each(step)
        mean = total / len(data.y_train)
    return mean


def trained(
    arm: str,
    name: str,
    data: Dataset,
    *,
    seed: int,
    sigma: float,
    copies: int,
    epochs: int | None = None,
    lr: float | None = None,
    **settings: Any,
) -> tuple[nn.Module, Any]:
    """A network trained by one arm with the settings chosen for it; returns it with its engine."""
    chosen = nets.preset(name, data.name, arm)
    model = nets.build(name, data, seed=seed)
    engine = engine_for(arm, model, sigma=sigma, copies=copies, seed=seed, **settings)
    train(engine, model, data, epochs=epochs or chosen.epochs, batch=chosen.batch, lr=lr or chosen.lr, seed=seed)
    return model, engine
