"""What brings a pruned network back: batch norms recalibrated without labels, and a short fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from onlyforward.core.errors import Diverged
from onlyforward.core.keys import Key
from onlyforward.prune.training import cycle, hold

TEACHER = 0.7
TEMPERATURE = 2.0


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch: int = 250) -> float:
    """Fraction right; x: [n, ...], y: [n]."""
    model.eval()
    right = sum(int((model(a).argmax(-1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch)))
    return right / max(1, len(y))


@torch.no_grad()
def recalibrate(model: nn.Module, x: Tensor, *, batch: int = 125) -> nn.Module:
    """Set the running statistics of all batch norms to the averages over x [n, ...], in place; no label is read."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not len(x):
        return model.eval()
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for part in x.split(batch):
        # One datum has no variance.
        if len(part) > 1:
            model(part)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return model.eval()


def divergence(logits: Tensor, soft: Tensor) -> Tensor:
    """T^2 KL(teacher, student) of tempered class probabilities; both [b, classes]."""
    mine, theirs = (logits / TEMPERATURE).log_softmax(-1), (soft / TEMPERATURE).softmax(-1)
    return TEMPERATURE**2 * F.kl_div(mine, theirs, reduction="batchmean")


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, *, batch: int = 250) -> Tensor:
    """The outputs of a model in eval mode: [n, classes]."""
    model.eval()
    return torch.cat([model(part) for part in x.split(batch)])


def finetune(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    key: Key,
    *,
    batch: int = 25,
    lr: float = 5e-3,
    passes: int = 1,
    masks: Mapping[str, Tensor] | None = None,
    soft: Tensor | None = None,
) -> nn.Module:
    """Train in place on x [n, ...] and y [n] with Adam; the rate rises for a fifth of the steps, then falls.

    With `soft` [n, classes], the logits of the network before pruning, most of the loss is its distillation
    (arXiv 1503.02531): 0.3 cross-entropy + 0.7 T^2 KL at T = 2. A few thousand labels say less than its logits.

    With masks (parameter name -> flags), what they remove stays zero and its momenta too.

    Raises:
        Diverged: the loss is not finite.
    """
    if not len(y) or not passes:
        return model.eval()
    model.train()
    steps = passes * -(-len(y) // batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    parameters = dict(model.named_parameters())
    pruned = [parameters[name] for name in masks or {}]
    flags = [mask.to(parameters[name].dtype) for name, mask in (masks or {}).items()]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cycle(step, steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.at(site="prune/finetune").seed)
        for epoch in range(passes):
            order = torch.randperm(len(y), generator=key.at(site="prune/finetune/order", step=epoch).generator())
            for rows in order.split(batch):
                if len(rows) < 2:
                    continue
                logits = model(x[rows])
                loss = F.cross_entropy(logits, y[rows])
                if soft is not None:
                    loss = (1 - TEACHER) * loss + TEACHER * divergence(logits, soft[rows])
                if not bool(loss.detach().isfinite()):
                    raise Diverged("The loss of fine-tuning is not finite", "Lower the learning rate", step=epoch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                hold(optimizer, pruned, flags)
    return model.eval()
