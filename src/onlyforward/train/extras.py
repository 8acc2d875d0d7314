"""What `train fit` measures beside the accuracy, on request: cosine, kappa, robustness; and plans made by advice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from onlyforward.core.errors import UsageError
from onlyforward.core.keys import Key
from onlyforward.nn.advise import advise
from onlyforward.train.loop import LOSSES, on_training_nodes
from onlyforward.train.peers import Backprop
from onlyforward.train.robust import robustness

if TYPE_CHECKING:
    from torch import Tensor, nn

    from onlyforward.data.sets import Dataset
    from onlyforward.run.result import Result

RADIUS = 0.1
"""Of the attacks, in the maximum norm of inputs in 0..1."""


def first_batch(data: Dataset, batch: int, loss: str) -> tuple[Any, Tensor, Tensor]:
    """Loss, inputs and target of the first training data."""
    if data.kind == "graph":
        return on_training_nodes(LOSSES[loss], data), data.x_train, data.y_train
    return LOSSES[loss], data.x_train[: batch or None], data.y_train[: batch or None]


def cosine_with_backprop(model: nn.Module, method: Any, batch: tuple[Any, Tensor, Tensor]) -> float:
    """Cosine between the method's gradient and backpropagation's, over all parameters, on one batch.

    Raises:
        UsageError: backpropagation does not get through, so there is nothing to compare with.
    """
    found = []
    for one in (Backprop(model), method):
        model.zero_grad(set_to_none=True)
        try:
            one.backward(*batch)
        except RuntimeError as error:
            raise UsageError("This loss has no gradient to measure a cosine with", "Leave --measure-cosine") from error
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
        found.append(torch.cat([g.flatten() for g in gradients]).double())
    model.zero_grad(set_to_none=True)
    truth, estimate = found
    if not float(truth.norm()):
        raise UsageError("Backpropagation's gradient is zero here", "Leave --measure-cosine")
    return float(truth @ estimate / (truth.norm() * estimate.norm()).clamp_min(1e-30))


def mean_kappa(method: Any, batch: tuple[Any, Tensor, Tensor]) -> float:
    """Mean over the sites of the measured kappa: how many data's gradients add up.

    Time steps that no text of the batch reaches have none.
    """
    known = [site["kappa"] for site in method.measured(*batch).values() if not math.isnan(site["kappa"])]
    return sum(known) / len(known) if known else math.nan


def attacks(result: Result, model: nn.Module, data: Dataset, *, seed: int) -> None:
    """Accuracy under FGSM, PGD and Gaussian corruption: `clean`, `fgsm_010`, `pgd_010`, `gaussian`."""
    if data.kind != "image":
        raise UsageError(f"{data.name} is a set of {data.kind}s", "Leave --robust: attacks need images")
    found = robustness(
        model,
        data.x_test,
        data.y_test,
        sigma=0.0,
        attacks=("fgsm", "pgd"),
        epsilons=(RADIUS,),
        corruptions=("gaussian",),
        key=Key(run=seed, site="robust"),
    )
    del found["noise_kept"]
    result.table("Robustness", ["accuracy on", "value"], [[name, value] for name, value in found.items()])
    for name, value in found.items():
        result.metric(name, value)


def advised_plan(model: nn.Module, batch: tuple[Any, Tensor, Tensor], cosine: float, *, seed: int) -> dict[str, str]:
    """A plan of the cheapest kind of noise for every module: its activations, its channels or its weights.

    Norm layers take noise on scale and shift; where noise on the weights is cheaper than on the activations, by the
    law and a measured kappa, the module takes that.
    """
    criterion, inputs, target = batch
    rows = advise(model, criterion, inputs, target, cosine, seed=seed).sites
    return {row.module: row.option for row in rows if row.option != "activation"}
