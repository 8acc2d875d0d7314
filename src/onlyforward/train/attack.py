"""White-box attacks in the maximum norm with the true gradient of the network that is attacked.

FGSM: Goodfellow et al. 2015. I-FGSM: Kurakin et al. 2017. PGD: Madry et al. 2018. MI-FGSM: Dong et al. 2018. EOT:
Athalye et al. 2018, PGD with the gradient averaged over draws of a network whose noise is kept. For a spiking network
"the gradient" is the library's surrogate, the same for every arm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, check_range
from onlyforward.core.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

Predict = Callable[["Tensor", int], "Tensor"]
"""(x [b, ...], draw) -> logits [b, classes]; `draw` numbers the noise, and a deterministic network ignores it."""


@dataclass(frozen=True)
class Attack:
    """One attack as settings of a common iteration.

    Attributes:
        steps: gradient steps.
        step: size of one step as a share of epsilon.
        start: begin at a random point of the ball.
        momentum: decay of the accumulated gradient (each normalised to unit mean absolute value); 0 is none.
        draws: draws of the noise that a gradient is averaged over.
    """

    steps: int = 10
    step: float = 0.25
    start: bool = False
    momentum: float = 0.0
    draws: int = 1


ATTACKS = {
    "fgsm": Attack(steps=1, step=1.0),
    "pgd": Attack(steps=10, step=0.25, start=True),
    "ifgsm": Attack(steps=10, step=0.1),
    "mifgsm": Attack(steps=10, step=0.1, momentum=1.0),
    "eot": Attack(steps=10, step=0.25, start=True, draws=16),
}
"""Name -> settings; `eot` is for a network whose noise is kept."""


def attacked(name: str, predict: Predict, x: Tensor, y: Tensor, epsilon: float, *, key: Key) -> Tensor:
    """Adversarial inputs within `epsilon` of x in the maximum norm and within 0..1.

    Args:
        name: one of ATTACKS.
        predict: the network; its gradient with respect to x is taken by autograd.
        x: inputs in 0..1 [b, ...].
        y: true labels [b].
        epsilon: radius of the ball; 0 gives x back.
        key: names the random start.

    Raises:
        UsageError: unknown attack, or epsilon outside 0..1.
    """
    attack = ATTACKS[check_choice(name, ATTACKS, name="attack")]
    check_range(epsilon, name="epsilon", low=0.0, high=1.0)
    low, high = (x - epsilon).clamp_min(0), (x + epsilon).clamp_max(1)
    moved = x.clone()
    if attack.start:
        generator = key.at(site=f"attack/{name}").generator(x.device)
        noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        moved = torch.clamp(x + epsilon * (2 * noise - 1), min=low, max=high)
    velocity = torch.zeros_like(x)
    for step in range(attack.steps):
        gradient = torch.zeros_like(x)
        for draw in range(attack.draws):
            gradient += input_gradient(predict, moved, y, step * attack.draws + draw)
        if attack.momentum:
            size = gradient.abs().flatten(1).mean(1).clamp_min(1e-12)
            velocity = attack.momentum * velocity + gradient / size.view(-1, *[1] * (x.dim() - 1))
            gradient = velocity
        moved = torch.clamp(moved + attack.step * epsilon * gradient.sign(), min=low, max=high)
    return moved


def input_gradient(predict: Predict, x: Tensor, y: Tensor, draw: int) -> Tensor:
    """D sum_b cross-entropy / d x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(predict(leaf, draw), y, reduction="sum"), leaf)[0]
